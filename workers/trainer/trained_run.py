"""A run with a trained network, and the making of its result: export, evaluate, analyse."""

from __future__ import annotations

import json
import time
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import keras
import numpy as np

from fitserve import weights_file
from fitserve.artifacts import onnx_session
from fitserve.conformal import Conformal
from fitserve.dataset_facts import DatasetFacts
from fitserve.decisions import held_out
from fitserve.decisions.abstain import DISTANCE_BLOB
from fitserve.decisions.held_out import HeldOutParts
from fitserve.drift import prediction_distribution, training_distribution
from fitserve.spec.spec import Spec
from fitserve.strictjson import finite_json
from workers.trainer.calibrated_outputs import CalibratedOutputs, brief
from workers.trainer.data.feeds import EncodedRows, Resident
from workers.trainer.data.preparation import PARTS, Feeds, PreparedData, fingerprint
from workers.trainer.engine.compiled import RowTensors
from workers.trainer.engine.given_weights import write_weights
from workers.trainer.engine.loop import Loop
from workers.trainer.engine.network import build_network, serving_network
from workers.trainer.export import distance_graph
from workers.trainer.export.export import PARITY_ROWS, Exported, export, serve
from workers.trainer.export.receipt import make_receipt, weights_digest
from workers.trainer.export.stacked_graph import Stack
from workers.trainer.held_out_scores import HeldOutScores
from workers.trainer.insight.analysis import TrainedNetwork, analyse
from workers.trainer.insight.ensemble import EnsembleOutputs
from workers.trainer.insight.evaluation import simple_figures
from workers.trainer.insight.held_out_rows import choose_decisions, groups_of, held_out_rows
from workers.trainer.insight.protected_groups import with_groups
from workers.trainer.insight.slice_columns import raw_columns
from workers.trainer.interface import KeptEpoch, TrainingRequest, TrainingResult, TrainingStopped
from workers.trainer.trials.trial import TrialSetup, TrialsOutcome

METRICS_ROWS = 100_000  # training rows above which their metrics are not computed
DISTRIBUTION_ROWS = 20_000  # training rows whose predictions are a reference for drift


@dataclass
class CompiledRun:
    """One spec's data and compiled network."""

    request: TrainingRequest
    spec: Spec
    facts: DatasetFacts
    prepared: PreparedData
    encoded: Mapping[str, EncodedRows]  # by part
    rows: Mapping[str, RowTensors]  # by part
    feeds: Feeds
    setup: TrialSetup


@dataclass
class TrainedRun(CompiledRun):
    """A run whose trials are trained: `setup.compiled.model` has the best one's weights."""

    outcome: TrialsOutcome
    seconds: Mapping[str, float]  # by phase

    def result(self) -> TrainingResult:
        """Export, evaluate and analyse the network. Raises TrainingFailed where the parity gate fails."""
        began_at = time.perf_counter()
        self.setup.report.event("info", "Training is over; the network is exported.", {"phase": "exporting"})
        exported = self._export(self.request.folder)
        self.setup.report.event("info", "The network is evaluated.", {"phase": "evaluating"})
        metrics = self._metrics()
        served = self._served(exported, metrics)
        evaluation = self._evaluation(served)
        kept_rows, held_out_files = self._held_out(served, Conformal(exported.entries))
        decisions = choose_decisions(
            self.spec.decision, self.prepared.encoding.targets.targets, kept_rows, self.setup.report
        )
        after = self._answers_of_test_rows(exported)
        calibration = self._calibrated.report({"test": after})
        self._scores.warn(self.setup.report)
        intervals = self._scores.report(exported.entries["outputs"], after)
        files, figures = self._analysed(exported, calibration)
        self.setup.report.progress()
        split, seed = fingerprint(self.prepared.whole), self.spec.training.seed
        gpus = self.setup.compiled.devices
        receipt = make_receipt(self.request.spec, self.facts.sha256, split, seed, self.request.threads, gpus)
        receipt["weights"] = weights_digest(self._network)
        if self.spec.initial_weights is not None:
            receipt["initial_weights"] = self.spec.initial_weights.model_dump(mode="json")
        manifest = {**self._manifest(exported, receipt, metrics), "decisions": decisions}
        best = self.outcome.trials[self.outcome.best]
        result = {
            "metrics": metrics,
            "evaluation": evaluation,
            "figures": figures,
            "calibration": brief(calibration),
            "intervals": intervals,
            "epochs": best.epochs,
            "best_trial": self.outcome.best,
            "best_epoch": best.best_epoch,
            "trials": [asdict(trial) for trial in self.outcome.trials],
            "spread": self.outcome.spread(),
            "rows": {part: len(getattr(self.prepared.whole, part)) for part in PARTS},
            "left_out": self._left_out(),
            "parameters": int(self._network.count_params()),
            "parity": exported.entries["parity"],
            "decisions": decisions,
            **({"gpus": gpus} if gpus > 1 else {}),
            **self._additional_results(),
            "seconds": {**self.seconds, "finish": time.perf_counter() - began_at},
        }
        kept_epochs = self._export_kept_epochs(receipt)
        return TrainingResult(
            {**exported.files, **held_out_files, **files}, finite_json(manifest), finite_json(result), kept_epochs
        )

    def _answers_of_test_rows(self, exported: Exported) -> dict[str, Any]:
        """Return the serving graph's outputs for the test part, by target."""
        x, session = self.encoded["test"].x, exported.session
        names = [one.name for one in session.get_outputs()]
        served = session.run(names, {one.name: x[one.name] for one in session.get_inputs()})
        return dict(zip(names, served, strict=True))

    def _analysed(self, exported: Exported, calibration: Mapping[str, Any]) -> tuple[dict[str, Path], dict[str, Any]]:
        """Analyse the network. If that fails, report it; the run succeeds without its findings."""
        try:
            files, figures = self._analyse(exported, calibration)
        except TrainingStopped:
            raise
        except Exception as error:
            reason = f"{type(error).__name__}: {error}"[:200]
            message = f"The network could not be diagnosed; its findings and plots are left out ({reason})."
            self.setup.report.event("warn", message, {"left_out": "insight"})
            return {}, {}
        left_out = json.loads(files["insight"].read_text())["targets"]
        for name, target in left_out.items():
            for one in target.get("left_out", ()):
                message = f"{one['what']} of {name!r} could not be computed and is left out ({one['why']})."
                self.setup.report.event("warn", message, {"left_out": one["what"]})
        return files, figures

    def _left_out(self) -> dict[str, Any]:
        """Return the number of rows without a usable value, and by column (a row may count for several)."""
        used = np.unique(np.concatenate([getattr(self.prepared.whole, part) for part in PARTS]))
        return {"rows": self.facts.rows - len(used), "columns": dict(self.prepared.left_out)}

    @property
    def _network(self) -> keras.Model:
        """What is served, with its current weights."""
        return self.setup.compiled.model

    def _precise(self) -> keras.Model:
        """Return the network with 32-bit weights that computes in 32 bits, as it is served."""
        return in_32_bits(self._network, self.spec)

    def _stack(self) -> Stack | None:
        """Return the network as a stack of members, where it is an ensemble."""
        return None

    def _additional_results(self) -> dict[str, Any]:
        """Return a subclass's additions to the run's result."""
        return {}

    def _export(self, folder: Path) -> Exported:
        """Calibrate and export the model with its current weights; the parity gate compares it on held-out rows.

        Sets `_calibrated` and `_scores`, which belong to these weights, for the methods that describe the export.
        """
        encoding, parts = self.prepared.encoding, self.prepared.parts
        unseen = next(rows for rows in (parts.test, parts.validation, parts.train) if len(rows))
        network = serving_network(self._precise(), self.spec)
        held_out = self.prepared.table.take(unseen[:PARITY_ROWS])
        self._calibrated = self._calibrated_outputs()
        exported = export(
            network,
            encoding.encoder,
            encoding.targets,
            held_out,
            folder,
            self.setup.report,
            self._stack(),
            self._calibrated.calibrators,
        )
        entries = {name: one.to_json() for name, one in self._calibrated.fitted.items()}
        self._scores = self._held_out_scores()
        weights = folder / f"weights{weights_file.SUFFIX}"
        more = {"calibration": entries, **self._scores.entries}
        more["weights"] = write_weights(weights, self.setup.compiled.model, self._trained_weights())
        files = {**exported.files, "weights": weights}
        return replace(exported, files=files, entries={**exported.entries, **more})

    def _trained_weights(self) -> list[list[np.ndarray]]:
        """Return the current weights of each network, as from `get_weights` of the compiled one."""
        return [self.setup.compiled.model.get_weights()]

    def _held_out_scores(self) -> HeldOutScores:
        """Return the scores that intervals and sets follow from, for the network with its current weights."""
        spec, prepared = self.spec, self.prepared
        groups = {part: groups_of(prepared, getattr(prepared.parts, part), spec.coverage_by) for part in PARTS[1:]}
        return HeldOutScores(self._calibrated, spec.interval, spec.coverage_by, groups)

    def _calibrated_outputs(self) -> CalibratedOutputs:
        """Return the outputs of the network with its current weights, and their calibration."""
        model = self._precise()
        outputs = EnsembleOutputs(self.spec, model, [model.get_weights()])
        return self._calibration_of(outputs)

    def _calibration_of(self, outputs: EnsembleOutputs, folds: bool = False) -> CalibratedOutputs:
        targets, training = self.prepared.encoding.targets.targets, self.spec.training
        return CalibratedOutputs(outputs, targets, self.encoded, self.spec.calibrate, folds, training.seed)

    def _metrics(self) -> dict[str, Any]:
        """Return loss and metrics with the current weights, on each part that has rows and is not too large."""
        metrics = {}
        held_out = self.rows["validation"] if self.rows["validation"].count else self.rows["train"]
        for part in PARTS:
            count = len(getattr(self.prepared.parts, part))
            if not count or (part == "train" and count > METRICS_ROWS):
                continue
            feed = self.feeds.held_out.get(part) if self.prepared.streamed else None
            feed = feed or Resident(weighted_like(held_out, self.rows[part]))
            measured = Loop(self.setup.compiled, Resident(self.rows["train"]), None, 0).evaluate(feed)
            metrics[part] = self._with_meaning(measured, part)
        return metrics

    def _with_meaning(self, metrics: Mapping[str, Any], part: str) -> dict[str, Any]:
        """Leave out areas under a curve if all rows of the part have the same label: Keras would report 0."""
        targets = self.prepared.encoding.targets.targets
        single = {one.name for one in targets if one.task == "binary" and np.ptp(self.encoded[part].y[one.name]) == 0}
        names = {f"{one}_auc" for one in single} | ({"auc"} if len(targets) == 1 and single else set())
        return {name: value for name, value in metrics.items() if name not in names}

    def _served(self, exported: Exported, parts: Iterable[str]) -> dict[str, dict[str, Any]]:
        """Return the predictions of the serving path by part; with folds, those of the members that were held back."""
        served = {}
        for part in parts:
            rows = self.prepared.table.take(getattr(self.prepared.parts, part))
            served[part] = self._predictions(part) or serve(exported.session, self.prepared.encoding.encoder, rows)
        return served

    def _evaluation(self, served: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
        """Return simple figures by part, from the predictions of the serving path."""
        evaluation = {}
        for part, predictions in served.items():
            rows = self.prepared.table.take(getattr(self.prepared.parts, part))
            evaluation[part] = simple_figures(self.prepared.encoding.targets, rows, dict(predictions))
        return evaluation

    def _held_out(
        self, served: Mapping[str, Mapping[str, Any]], conformal: Conformal
    ) -> tuple[HeldOutParts, dict[str, Path]]:
        """Return the held-out rows on which decisions are chosen, now and later, and their files."""
        files: dict[str, Path] = {}
        path, session = self.request.folder / "distance.onnx", None
        classified = any(one.task != "regression" for one in self.prepared.encoding.targets.targets)
        usual = {name: values[:DISTRIBUTION_ROWS] for name, values in self.encoded["train"].x.items()}
        try:
            if classified and distance_graph.write(self._one_network(), usual, path):
                files[DISTANCE_BLOB], session = path, onnx_session(path)
        except Exception as error:  # a network is served even if this measurement fails
            reason = f"{type(error).__name__}: {error}"[:200]
            message = f"The distance of rows from the training rows cannot be measured and is left out ({reason})."
            self.setup.report.event("warn", message, {"left_out": DISTANCE_BLOB})
        parts = held_out_rows(self.prepared, self.encoded, self._as_calibrated(served), session, conformal)
        try:
            parts = with_groups(parts, self.spec.protected, self.request.table, self.facts)
        except Exception as error:
            reason = f"{type(error).__name__}: {error}"[:200]
            message = f"The groups of protected columns could not be read and are left out ({reason})."
            self.setup.report.event("warn", message, {"left_out": "fairness"})
        if parts.parts:
            files[held_out.HELD_OUT_BLOB] = self.request.folder / "held_out.parquet"
            parts.write(files[held_out.HELD_OUT_BLOB])
        return parts, files

    def _as_calibrated(self, served: Mapping[str, Mapping[str, Any]]) -> dict[str, Mapping[str, Any]]:
        """Return the same with calibrated probabilities for folds, whose members' outputs are not the graph's."""
        parts = dict(served)
        if self.prepared.folds and "validation" in parts:
            fitted = {name: one.of_member for name, one in self._calibrated.fitted.items()}
            parts["validation"] = {
                name: values if (own := fitted.get(name)) is None else own.apply(np.asarray(values, np.float64))
                for name, values in parts["validation"].items()
            }
        return parts

    def _one_network(self) -> keras.Model:
        """Return the network with its current weights; of an ensemble, its first member."""
        return self._precise()

    def _predictions(self, part: str) -> dict[str, Any] | None:
        """Return the predictions for a part's rows where they differ from what is served; else None."""
        return None

    def _snapshots(self) -> Mapping[int, list[np.ndarray]] | None:
        """Return weights of the network by epoch; None for the recorder's."""
        return None

    def _analyse(self, exported: Exported, calibration: Mapping[str, Any]) -> tuple[dict[str, Path], dict[str, Any]]:
        session, best = exported.session, self.outcome.trials[self.outcome.best]
        inputs, outputs = ([one.name for one in ends] for ends in (session.get_inputs(), session.get_outputs()))
        trained = TrainedNetwork(
            prepared=self.prepared,
            encoded=self.encoded,
            serve=lambda x: dict(zip(outputs, session.run(outputs, {name: x[name] for name in inputs}), strict=True)),
            model=self._network,
            recorder=self.setup.recorder,
            kept_epoch=int(best.best_epoch or best.epochs),
            seconds=self.seconds["train"],
            seed=self.spec.training.seed,
            outputs={part: own for part in PARTS if (own := self._predictions(part)) is not None},
            snapshots=self._snapshots(),
            calibration=calibration,
            raw_columns=lambda rows: raw_columns(self.prepared, self.request.table, self.facts, self.spec, rows),
        )
        return analyse(trained, self.request.folder)

    def _manifest(self, exported: Exported, receipt: Mapping[str, Any], metrics: Mapping[str, Any]) -> dict[str, Any]:
        encoding, table, train = self.prepared.encoding, self.prepared.table, self.prepared.parts.train
        sample = train[:: max(1, -(-len(train) // DISTRIBUTION_ROWS))]
        predictions = serve(exported.session, encoding.encoder, table.take(sample))
        return {
            "task": self.spec.task,
            "encoder": encoding.encoder.to_json(),
            "targets": encoding.targets.to_json(),
            "table_columns": [column.name for column in self.facts.columns],  # rows may contain the other columns too
            "table_csv": self.facts.csv,
            **exported.entries,
            "training_distribution": training_distribution(encoding.encoder.leading, table.take(train)),
            "prediction_distribution": prediction_distribution(exported.entries["outputs"], predictions),
            "spec": self.request.spec,
            "receipt": receipt,
            "metrics": metrics,
        }

    def _kept_weights(self) -> Mapping[int, Any]:
        """Return the argument of `_load` for each of the epochs to keep."""
        return self.outcome.epoch_weights

    def _load(self, weights: Any) -> None:
        """Load the network's weights after an epoch."""
        self._network.set_weights(weights)

    def _export_kept_epochs(self, receipt: Mapping[str, Any]) -> dict[int, KeptEpoch]:
        """Export the network as it was after each of the epochs to keep. Leaves it with other weights."""
        epochs: dict[int, KeptEpoch] = {}
        for epoch, weights in sorted(self._kept_weights().items()):
            self._load(weights)
            exported = self._export(self.request.folder / f"epoch-{epoch}")
            entries = {
                **exported.entries,
                "epoch": epoch,
                "receipt": {**receipt, "weights": weights_digest(self._network)},
                "metrics": (metrics := self._metrics()),
                "decisions": self._decisions_after(exported, metrics),
            }
            epochs[epoch] = KeptEpoch(exported.files, finite_json(entries))
            self.setup.report.progress()
        if missing := [epoch for epoch in self.spec.training.keep_epochs if epoch not in epochs]:
            message = f"Training ended before epochs that were to be kept: {missing}."
            self.setup.report.event("warn", message, {"epochs": missing})
        return epochs

    def _decisions_after(self, exported: Exported, metrics: Mapping[str, Any]) -> list[dict[str, Any]]:
        """Return the decisions for the weights of an epoch that is kept; their distance is that of the best epoch."""
        if not self.spec.decision:
            return []
        parts = [part for part in metrics if part != "train"]
        served = self._as_calibrated(self._served(exported, parts))
        rows = held_out_rows(self.prepared, self.encoded, served, None, Conformal(exported.entries))
        targets = self.prepared.encoding.targets.targets
        return choose_decisions(self.spec.decision, targets, rows, self.setup.report)


def in_32_bits(model: keras.Model, spec: Spec) -> keras.Model:
    """Return the network as it is served: 32-bit weights and arithmetic, also after mixed-precision training."""
    if not spec.training.mixed_precision:
        return model
    twin = build_network(
        spec.model_copy(update={"training": spec.training.model_copy(update={"mixed_precision": False})})
    )
    twin.set_weights(model.get_weights())
    return twin


def weighted_like(traced: RowTensors, rows: RowTensors) -> RowTensors:
    """Return rows with or without weights, as the compiled function was traced: class weights are for training only."""
    if (rows.weight is None) == (traced.weight is None):
        return rows
    if traced.weight is None:
        return RowTensors(rows.x, rows.y)
    return RowTensors(rows.x, rows.y, keras.tree.map_structure(lambda _: keras.ops.ones(rows.count), traced.weight))
