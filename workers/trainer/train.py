"""Train one run: from its spec and its dataset's file to the files of a trained network."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import keras

from fitserve.dataset_facts import DatasetFacts
from fitserve.drift import prediction_distribution, training_distribution
from fitserve.errors import BadInput
from fitserve.spec.spec import Spec, parse
from fitserve.strictjson import finite_json
from workers.trainer.data.feeds import EncodedRows, Resident
from workers.trainer.data.preparation import PARTS, Feeds, PreparedData, as_tensors, fingerprint, make_feeds, prepare
from workers.trainer.engine.compiled import Compiled, RowTensors
from workers.trainer.engine.device import placed
from workers.trainer.engine.loop import Loop
from workers.trainer.engine.network import (
    build_callbacks,
    build_losses,
    build_metrics,
    build_network,
    build_optimizer,
    serving_network,
)
from workers.trainer.export.export import PARITY_ROWS, Exported, export, serve
from workers.trainer.export.receipt import digest_of, make_receipt, versions, weights_digest
from workers.trainer.insight.analysis import TrainedNetwork, analyse
from workers.trainer.insight.evaluation import simple_figures
from workers.trainer.insight.recording import TrialRecorder
from workers.trainer.job import KeptEpoch, Reporter, TrainingFailed, TrainingJob, TrainingResult
from workers.trainer.trials.sequential import SequentialTrials
from workers.trainer.trials.stacked import StackedTrials, why_not_stacked
from workers.trainer.trials.trial import TrialSetup, TrialsOutcome

METRICS_ROWS = 100_000  # training rows above which their metrics are not computed
DISTRIBUTION_ROWS = 20_000  # training rows whose predictions are a reference for drift


def train(job: TrainingJob, report: Reporter) -> TrainingResult:
    """Train, evaluate and export; only train, where the job is one trial. Raises TrainingStopped, TrainingFailed."""
    spec, facts = parse(job.spec), DatasetFacts.model_validate(job.facts)
    with placed(spec.training, report):
        return _train(job, spec, facts, report)


def _train(job: TrainingJob, spec: Spec, facts: DatasetFacts, report: Reporter) -> TrainingResult:
    began_at = time.perf_counter()
    try:
        prepared = prepare(job, spec, facts, report)
        encoded = {part: prepared.encode(part) for part in PARTS}
    except BadInput as error:
        raise TrainingFailed("bad_data", error.detail, error.as_problem()) from error
    count = len(prepared.whole.train)
    model, size = build_model(spec, spec.training.seed, count), batch_size(spec, count)
    rows = {name: as_tensors(model, part) for name, part in encoded.items()}
    held_out = rows["validation"] if rows["validation"].count else rows["train"]
    jit = spec.training.jit_compile is True
    compiled = Compiled(model, rows["train"], held_out, size, size, jit, lambda reason: report.event("info", reason))
    feeds = make_feeds(job, spec, prepared, model, rows, size, report)
    prepared_at = time.perf_counter()
    setup = _trial_setup(job, spec, prepared, compiled, feeds, rows["train"], report)
    if job.trial is not None:
        return SequentialTrials(setup).run_divided(job.trial, job.checkpoint)
    outcome = _run_trials(setup, job.checkpoint)
    trained_at = time.perf_counter()
    report.progress()
    seconds = {"prepare": prepared_at - began_at, "train": trained_at - prepared_at}
    return _FinishedRun(job, spec, facts, prepared, encoded, rows, feeds, setup, outcome, seconds).result()


def build_model(spec: Spec, seed: int, rows: int) -> keras.Model:
    """Build and compile the network of a spec, its weights drawn from `seed`. `rows` is the number of training rows."""
    keras.utils.set_random_seed(seed)
    model = build_network(spec)
    steps = spec.training.steps_per_epoch or -(-rows // batch_size(spec, rows))
    model.compile(
        optimizer=build_optimizer(spec, steps),
        loss=build_losses(spec),
        loss_weights=spec.training.loss_weights,
        metrics=build_metrics(spec),
        jit_compile=False,
        auto_scale_loss=False,
    )
    return model


def batch_size(spec: Spec, rows: int) -> int:
    """Rows of a batch; `full` is all of them."""
    return rows if spec.training.batch_size == "full" else min(int(spec.training.batch_size), rows)


def _trial_setup(
    job: TrainingJob,
    spec: Spec,
    prepared: PreparedData,
    compiled: Compiled,
    feeds: Feeds,
    rows: RowTensors,
    report: Reporter,
) -> TrialSetup:
    training, model = spec.training, compiled.model
    seeds = [training.seed + index for index in range(training.restarts)]
    stopping = training.early_stopping
    monitor = stopping.monitor if stopping else "val_loss" if "validation" in feeds.held_out else "loss"

    def initialise(seed: int) -> keras.Model:
        if seed == seeds[0]:
            return model
        keras.utils.set_random_seed(seed)
        return build_network(spec)

    return TrialSetup(
        compiled=compiled,
        feed=feeds.train,
        validation=feeds.held_out.get("validation"),
        epochs=training.epochs,
        seeds=seeds,
        initialise=initialise,
        callbacks=lambda: build_callbacks(spec),
        report=report,
        folder=job.folder,
        fingerprint=digest_of([job.spec, fingerprint(prepared.whole), versions()]),
        checkpoint_seconds=job.checkpoint_seconds,
        monitor=monitor,
        larger_is_better=stopping is not None and stopping.mode == "max",
        recorder=TrialRecorder(model, rows, training.epochs, -(-rows.count // compiled.batch_size)),
        keep_epochs=training.keep_epochs,
    )


def _run_trials(setup: TrialSetup, checkpoint: Path | None) -> TrialsOutcome:
    """Train all trials, stacked where that is possible and faster."""
    if len(setup.seeds) > 1:
        reason = why_not_stacked(setup)
        if reason is None:
            setup.report.event("info", f"{len(setup.seeds)} trials train as one stacked network.")
            return StackedTrials(setup).run(checkpoint)
        setup.report.event("info", f"Trials train one after the other: {reason} cannot be stacked.")
    return SequentialTrials(setup).run(checkpoint)


@dataclass(frozen=True, slots=True)
class _FinishedRun:
    """A run whose trials are trained: `setup.compiled.model` has the best one's weights."""

    job: TrainingJob
    spec: Spec
    facts: DatasetFacts
    prepared: PreparedData
    encoded: Mapping[str, EncodedRows]  # by part
    rows: Mapping[str, RowTensors]  # by part
    feeds: Feeds
    setup: TrialSetup
    outcome: TrialsOutcome
    seconds: Mapping[str, float]  # by phase

    def result(self) -> TrainingResult:
        """Export, evaluate and analyse the network. Raises TrainingFailed where the parity gate fails."""
        began_at = time.perf_counter()
        exported, metrics = self._export(self.job.folder), self._metrics()
        evaluation = self._evaluation(exported, metrics)
        files, figures = self._analyse(exported)
        self.setup.report.progress()
        split, seed = fingerprint(self.prepared.whole), self.spec.training.seed
        receipt = make_receipt(self.job.spec, self.facts.sha256, split, seed, self.job.threads)
        receipt["weights"] = weights_digest(self._model)
        manifest = self._manifest(exported, receipt, metrics)
        best = self.outcome.trials[self.outcome.best]
        result = {
            "metrics": metrics,
            "evaluation": evaluation,
            "figures": figures,
            "epochs": best.epochs,
            "best_trial": self.outcome.best,
            "best_epoch": best.best_epoch,
            "trials": [asdict(trial) for trial in self.outcome.trials],
            "spread": self.outcome.spread(),
            "rows": {part: len(getattr(self.prepared.whole, part)) for part in PARTS},
            "parameters": int(self._model.count_params()),
            "parity": exported.entries["parity"],
            "seconds": {**self.seconds, "finish": time.perf_counter() - began_at},
        }
        kept_epochs = self._export_kept_epochs(receipt)
        return TrainingResult({**exported.files, **files}, finite_json(manifest), finite_json(result), kept_epochs)

    @property
    def _model(self) -> keras.Model:
        return self.setup.compiled.model

    def _export(self, folder: Path) -> Exported:
        """Export the model with its current weights; the parity gate compares it on rows that were not trained on."""
        encoding, parts = self.prepared.encoding, self.prepared.parts
        unseen = next(rows for rows in (parts.test, parts.validation, parts.train) if len(rows))
        network = serving_network(_in_32_bits(self._model, self.spec), self.spec)
        held_out = self.prepared.table.take(unseen[:PARITY_ROWS])
        return export(network, encoding.encoder, encoding.targets, held_out, folder, self.setup.report)

    def _metrics(self) -> dict[str, Any]:
        """Loss and metrics of the model with its current weights, on each part that has rows and is not too large."""
        metrics = {}
        held_out = self.rows["validation"] if self.rows["validation"].count else self.rows["train"]
        for part in PARTS:
            count = len(getattr(self.prepared.parts, part))
            if not count or (part == "train" and count > METRICS_ROWS):
                continue
            feed = self.feeds.held_out.get(part) if self.prepared.streamed else None
            feed = feed or Resident(_weighted_like(held_out, self.rows[part]))
            metrics[part] = Loop(self.setup.compiled, Resident(self.rows["train"]), None, 0).evaluate(feed)
        return metrics

    def _evaluation(self, exported: Exported, metrics: Mapping[str, Any]) -> dict[str, Any]:
        """Simple figures by part, from the predictions of the serving path."""
        encoding, evaluation = self.prepared.encoding, {}
        for part in metrics:
            rows = self.prepared.table.take(getattr(self.prepared.parts, part))
            predictions = serve(exported.session, encoding.encoder, rows)
            evaluation[part] = simple_figures(encoding.targets, rows, predictions)
        return evaluation

    def _analyse(self, exported: Exported) -> tuple[dict[str, Path], dict[str, Any]]:
        session, best = exported.session, self.outcome.trials[self.outcome.best]
        inputs, outputs = ([one.name for one in ends] for ends in (session.get_inputs(), session.get_outputs()))
        trained = TrainedNetwork(
            prepared=self.prepared,
            encoded=self.encoded,
            serve=lambda x: dict(zip(outputs, session.run(outputs, {name: x[name] for name in inputs}), strict=True)),
            model=self._model,
            recorder=self.setup.recorder,
            kept_epoch=int(best.best_epoch or best.epochs),
            seconds=self.seconds["train"],
            seed=self.spec.training.seed,
        )
        return analyse(trained, self.job.folder)

    def _manifest(self, exported: Exported, receipt: Mapping[str, Any], metrics: Mapping[str, Any]) -> dict[str, Any]:
        encoding, table, train = self.prepared.encoding, self.prepared.table, self.prepared.parts.train
        sample = train[:: max(1, -(-len(train) // DISTRIBUTION_ROWS))]
        predictions = serve(exported.session, encoding.encoder, table.take(sample))
        return {
            "task": self.spec.task,
            "encoder": encoding.encoder.to_json(),
            "targets": encoding.targets.to_json(),
            **exported.entries,
            "training_distribution": training_distribution(encoding.encoder.columns, table.take(train)),
            "prediction_distribution": prediction_distribution(exported.entries["outputs"], predictions),
            "spec": self.job.spec,
            "receipt": receipt,
            "metrics": metrics,
        }

    def _export_kept_epochs(self, receipt: Mapping[str, Any]) -> dict[int, KeptEpoch]:
        """Export the network as it was after each of the epochs to keep. Leaves the model with other weights."""
        kept: dict[int, KeptEpoch] = {}
        for epoch, weights in sorted(self.outcome.kept.items()):
            self._model.set_weights(weights)
            exported = self._export(self.job.folder / f"epoch-{epoch}")
            entries = {
                **exported.entries,
                "epoch": epoch,
                "receipt": {**receipt, "weights": weights_digest(self._model)},
                "metrics": self._metrics(),
            }
            kept[epoch] = KeptEpoch(exported.files, finite_json(entries))
            self.setup.report.progress()
        if missing := [epoch for epoch in self.spec.training.keep_epochs if epoch not in kept]:
            message = f"Training ended before epochs that were to be kept: {missing}."
            self.setup.report.event("warn", message, {"epochs": missing})
        return kept


def _in_32_bits(model: keras.Model, spec: Spec) -> keras.Model:
    """The network as it is served: one trained in mixed precision has 32-bit weights, and computes in 32 bits."""
    if not spec.training.mixed_precision:
        return model
    twin = build_network(
        spec.model_copy(update={"training": spec.training.model_copy(update={"mixed_precision": False})})
    )
    twin.set_weights(model.get_weights())
    return twin


def _weighted_like(traced: RowTensors, rows: RowTensors) -> RowTensors:
    """Rows with or without weights, as the compiled function was traced: class weights are for training alone."""
    if (rows.weight is None) == (traced.weight is None):
        return rows
    if traced.weight is None:
        return RowTensors(rows.x, rows.y)
    return RowTensors(rows.x, rows.y, keras.tree.map_structure(lambda _: keras.ops.ones(rows.count), traced.weight))
