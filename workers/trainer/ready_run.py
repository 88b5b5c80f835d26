"""A run ready to be trained: its data encoded, its network compiled."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from functools import partial
from pathlib import Path
from typing import Any, cast

import keras
import numpy as np

from fitserve.dataset_facts import DatasetFacts
from fitserve.errors import BadInput
from fitserve.spec.ensemble import members_of
from fitserve.spec.spec import Spec
from fitserve.states import FailureCause
from workers.installed import versions
from workers.trainer.data.feeds import EncodedRows
from workers.trainer.data.preparation import (
    PARTS,
    Feeds,
    PreparedData,
    as_tensors,
    epoch_rows,
    fingerprint,
    make_feeds,
    prepare,
)
from workers.trainer.engine import device
from workers.trainer.engine.collectives import Collectives
from workers.trainer.engine.compact_rows import Compact
from workers.trainer.engine.compiled import Compiled, RowTensors
from workers.trainer.engine.dropout import seed_by_element
from workers.trainer.engine.gang import GangLeader, LeadersReporter
from workers.trainer.engine.given_weights import GivenWeights
from workers.trainer.engine.initial_values import InitialValues, State, set_seeds, values_of
from workers.trainer.engine.kept_networks import KEPT, KeptNetwork, signature
from workers.trainer.engine.mirrored_steps import MirroredCompiled, why_one_device
from workers.trainer.engine.network import (
    build_callbacks,
    build_losses,
    build_metrics,
    build_network,
    build_optimizer,
    optimizers_after,
)
from workers.trainer.engine.replica_settings import ReplicaSettings
from workers.trainer.engine.shared_steps import SharedCompiled
from workers.trainer.engine.stacked_network import HeldOutRows
from workers.trainer.export.receipt import digest_of
from workers.trainer.insight.recording import TrialRecorder
from workers.trainer.interface import OUT_OF_FOLD, Reporter, TrainingFailed, TrainingRequest, TrainingResult
from workers.trainer.trained_ensemble import TrainedEnsemble
from workers.trainer.trained_run import CompiledRun, TrainedRun
from workers.trainer.trials.members import StackedMembers
from workers.trainer.trials.sequential import SequentialTrials
from workers.trainer.trials.stacked import StackedTrials, why_not_stacked
from workers.trainer.trials.trial import TrialSetup, TrialsOutcome

RECORDED_ROWS = 4_096  # most training rows to draw the rows from on which layers are recorded


@dataclass
class ReadyRun(CompiledRun):
    """One spec's data and compiled network, ready to be trained."""

    seconds: float  # seconds that preparing took

    def finish(self, outcome: TrialsOutcome, training_seconds: float) -> TrainingResult:
        """Export, evaluate and analyse the trained networks; training took `training_seconds` seconds."""
        self.setup.report.progress()
        seconds = {"prepare": self.seconds, "train": training_seconds}
        run_type = TrainedRun if outcome.members is None else TrainedEnsemble
        compiled = {field.name: getattr(self, field.name) for field in fields(CompiledRun)}
        result = run_type(**compiled, outcome=outcome, seconds=seconds).result()
        refits = self.spec.folds is not None and self.spec.folds.then == "refit"
        return refitted(self.request, self.spec, self.facts, self.setup.report, result) if refits else result


def make_ready(
    request: TrainingRequest,
    spec: Spec,
    facts: DatasetFacts,
    report: Reporter,
    data: tuple[PreparedData, dict[str, EncodedRows]] | None = None,
    group: Collectives | None = None,
) -> ReadyRun:
    """Prepare a spec's data, unless they are given, and compile its network, for a group of processes or for this one.

    Raises TrainingFailed.
    """
    began_at = time.perf_counter()
    prepared, encoded = data or prepare_data(request, spec, facts, report)
    count = len(prepared.whole.train)
    size = batch_size(spec, count)
    compact = _compact(spec, prepared)
    dense = {name: as_tensors(spec, part) for name, part in encoded.items()} if compact is None else {}
    rows = dense or {part: as_tensors(spec, prepared.encode(part, compact)) for part in PARTS}
    devices = _devices(spec, size, group, report) if data is None else []
    network = _network(spec, rows, count, compact, group, devices)
    initial = _given_weights(request, spec, report)
    if initial is not None:
        initial.assign(network.compiled.model)
    network.compiled.on_fallback = lambda reason: report.event("info", reason)
    feeds = make_feeds(request, spec, prepared, rows, size, report, compact)
    setup = _trial_setup(request, spec, prepared, network, feeds, rows, report, initial)
    recorded_rows = rows["train"] if compact is None else as_tensors(spec, encoded["train"][:RECORDED_ROWS])
    steps = -(-(epoch_rows(spec, prepared, size) or rows["train"].count) // size)
    setup = replace(
        setup,
        recorder=TrialRecorder(network.compiled.model, recorded_rows, spec.training.epochs, steps, network.probes),
    )
    seconds = time.perf_counter() - began_at
    return ReadyRun(request, spec, facts, prepared, encoded, rows, feeds, setup, seconds)


def prepare_data(
    request: TrainingRequest, spec: Spec, facts: DatasetFacts, report: Reporter
) -> tuple[PreparedData, dict[str, EncodedRows]]:
    """Read, split and encode a spec's rows. Raises TrainingFailed."""
    try:
        prepared = prepare(request, spec, facts, report)
        return prepared, encode_parts(prepared)
    except BadInput as error:
        raise TrainingFailed(FailureCause.bad_data, error.detail, error.as_problem()) from error


def encode_parts(prepared: PreparedData) -> dict[str, EncodedRows]:
    """Return the encoded rows of each part; with folds, two of them may be the same. Raises BadInput."""
    encoded = {part: prepared.encode(part) for part in PARTS if part != "validation"}
    parts = prepared.parts
    same = len(parts.validation) == len(parts.train) and bool((parts.validation == parts.train).all())
    shared = same and not prepared.encoding.class_weights
    return {**encoded, "validation": encoded["train"] if shared else prepared.encode("validation")}


def _compact(spec: Spec, prepared: PreparedData) -> Compact | None:
    """Return the compact form for rows with many one-hot numbers; None if rows are dense, as for stacked networks."""
    together = spec.training.restarts > 1 or spec.ensemble is not None
    compact = Compact(prepared.encoding.encoder)
    return compact if compact and (prepared.streamed is not None or not together) else None


def _devices(spec: Spec, batch_size: int, group: Collectives | None, report: Reporter) -> list[str]:
    """Return the GPUs that train the network together, if the spec asks for them and there are several."""
    there = device.gpus() if spec.training.device == "gpu" else []
    if len(there) < 2:
        return []
    why = why_one_device(spec, batch_size, len(there), shared=group is not None)
    if why is not None:
        report.event("info", f"One of {len(there)} GPUs trains: {why}.")
        return []
    report.event("info", f"{len(there)} GPUs train the network together.", {"gpus": len(there)})
    return there


def _network(
    spec: Spec,
    rows: Mapping[str, RowTensors],
    count: int,
    compact: Compact | None,
    group: Collectives | None,
    devices: Sequence[str],
) -> KeptNetwork:
    """Return the spec's network for `count` training rows, compiled, with the initial weights of its seed."""
    training, size = spec.training, batch_size(spec, count)
    held_out = rows["validation"] if rows["validation"].count else rows["train"]
    steps = training.steps_per_epoch or -(-count // size)

    def make() -> KeptNetwork:
        model = build_model(spec, training.seed, count)
        values = InitialValues(model, training.seed, partial(build_network, spec))
        if compact is not None:
            compact.look_up(model)
        jit = training.jit_compile is True
        kind: Callable[..., Compiled] = Compiled if group is None else partial(SharedCompiled, group)
        if devices:
            kind = partial(MirroredCompiled, devices, partial(build_model, spec, training.seed, count))
        validation = rows["validation"] if rows["validation"].count else None
        compiled = kind(model, rows["train"], validation, size, size, jit, compact=compact)
        return KeptNetwork(compiled, values)

    if training.switches:
        return make()  # and keep none that ends with another optimizer than it begins with
    network, reused = KEPT.take(signature(spec, (rows["train"], held_out), size, steps, compact), make)
    if reused:
        rate = training.optimizer.learning_rate
        network.restart(training.seed, rate if isinstance(rate, float) else None)
    return network


def _given_weights(request: TrainingRequest, spec: Spec, report: Reporter) -> GivenWeights | None:
    """Return the networks' initial weights; None if they are drawn from the seed."""
    initial = spec.initial_weights
    if initial is None:
        return None
    if request.source is None or request.weights is None:
        raise ValueError("the initial weights are not there")
    members = int(json.loads(request.source.read_bytes())["weights"].get("members", 1))
    frozen = f"; frozen: {', '.join(initial.freeze)}" if initial.freeze else ""
    fresh = f"; from the seed: {', '.join(initial.reinitialize)}" if initial.reinitialize else ""
    message = f"Training begins with the weights of {initial.reference}{frozen}{fresh}."
    report.event("info", message[:2000], {"initial_weights": initial.model_dump(mode="json")})
    return GivenWeights(request.weights, initial, members)


def build_model(spec: Spec, seed: int, rows: int) -> keras.Model:
    """Build and compile the network of a spec, its weights drawn from `seed`. `rows` is the number of training rows."""
    set_seeds(seed)
    model = build_network(spec)
    seed_by_element(model)
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
    """Return the rows of a batch; `full` is all of them."""
    return rows if spec.training.batch_size == "full" else min(int(spec.training.batch_size), rows)


def _trial_setup(
    request: TrainingRequest,
    spec: Spec,
    prepared: PreparedData,
    network: KeptNetwork,
    feeds: Feeds,
    rows: Mapping[str, RowTensors],
    report: Reporter,
    initial: GivenWeights | None,
) -> TrialSetup:
    training, compiled = spec.training, network.compiled
    count = training.restarts if spec.ensemble is None else members_of(spec.ensemble)
    seeds = [training.seed + index for index in range(count)]
    stopping = training.early_stopping
    monitor = stopping.monitor if stopping else "val_loss" if "validation" in feeds.held_out else "loss"

    first = values_of(compiled.model) if count > 1 or training.stacked is not None else None

    def initialise(seed: int) -> State | None:
        if seed == seeds[0]:
            return first
        values = network.values.of(seed)
        return values if initial is None else initial.state(compiled.model, values, seed - seeds[0])

    leader = None
    if isinstance(compiled, SharedCompiled) and compiled.group.leads:
        leader, report = GangLeader(compiled, report), cast(Reporter, LeadersReporter(report, compiled))

    streamed = ["streamed"] if prepared.streamed is not None else []
    return TrialSetup(
        network=network,
        feed=feeds.train,
        validation=feeds.validation,
        epochs=training.epochs,
        seeds=seeds,
        initialise=initialise,
        callbacks=lambda: build_callbacks(spec),
        report=report,
        folder=request.folder,
        # Rows in memory add no word, so that checkpoints of earlier releases, which only had these, stay valid.
        fingerprint=digest_of([request.spec, fingerprint(prepared.whole), versions(), *streamed]),
        reading=feeds.reading,
        checkpoint_seconds=request.checkpoint_seconds,
        monitor=monitor,
        larger_is_better=stopping is not None and stopping.mode == "max",
        optimizers_after=optimizers_after(spec),
        keep_epochs=training.keep_epochs,
        ensemble=spec.ensemble is not None,
        held_out=partial(_held_out_rows, prepared, rows["validation"], count),
        leader=leader,
        settings=_settings_in_stack(spec, rows["train"].count, compiled.batch_size),
    )


def _settings_in_stack(spec: Spec, rows: int, batch_size: int) -> ReplicaSettings | None:
    """Return the settings of a network that trains as one of a stack; None for one that trains alone."""
    training = spec.training
    if training.stacked is None:
        return None
    return ReplicaSettings.beside_another(spec, training.steps_per_epoch or -(-rows // batch_size), training.stacked)


def _held_out_rows(prepared: PreparedData, validation: RowTensors, count: int) -> HeldOutRows | None:
    if not validation.count:
        return None
    own = [np.searchsorted(prepared.parts.validation, fold.held_out) for fold in prepared.folds]
    return HeldOutRows.of(validation, own or [np.arange(validation.count)] * count)


def refitted(
    request: TrainingRequest, spec: Spec, facts: DatasetFacts, report: Reporter, folds: TrainingResult
) -> TrainingResult:
    """Train one network on all rows of the folds, for as many epochs as were best there, and serve that.

    Its figures are those of the folds, because only the test part's rows are held out from it.
    """
    trials = folds.result["trials"]
    epochs = int(np.median([trial["best_epoch"] or trial["epochs"] for trial in trials]))
    report.event("info", f"One network trains on all rows of the folds, for {epochs} epochs.", {"epochs": epochs})
    training = spec.training.model_copy(
        update={"epochs": epochs, "early_stopping": None, "reduce_lr_on_plateau": None, "keep_epochs": ()}
    )
    split = spec.split.model_copy(update={"validation": 0.0, "seed": spec.split.seed or spec.training.seed})
    update = {"folds": None, "ensemble": None, "split": split, "training": training, "decision": ()}
    one = spec.model_copy(update=update)
    folder = request.folder / "all-rows"
    folder.mkdir(exist_ok=True)
    request = replace(request, spec=one.to_json(), folder=folder, checkpoint=None)
    began_at = time.perf_counter()
    ready = make_ready(request, one, facts, _AfterFolds(report, len(trials)))
    outcome = run_trials(ready.setup, None)
    finished = ready.finish(outcome, time.perf_counter() - began_at)
    held_back = {name: folds.result[name].get("validation") for name in ("metrics", "evaluation")}
    last = {**finished.result["trials"][0], "index": len(trials)}
    result = {**finished.result, "folds": folds.result["folds"], "trials": [*trials, last]}
    for name, own in held_back.items():
        result[name] = {**result[name], "validation": own}
    result["best_trial"] = len(trials)
    return replace(finished, result=result, files={**finished.files, OUT_OF_FOLD: folds.files[OUT_OF_FOLD]})


class _AfterFolds:
    """The Reporter of the network after the folds. An interrupted run resumes from the folds' checkpoint."""

    def __init__(self, report: Reporter, trial: int) -> None:
        self._report, self._trial = report, trial

    def __getattr__(self, name: str) -> Any:
        return getattr(self._report, name)

    def epoch(self, trial: int, epoch: int, logs: dict[str, float], seconds: float, layers: Any = None) -> None:
        self._report.epoch(self._trial, epoch, logs, seconds, layers)

    def checkpoint(self, path: Path, epoch: int) -> None:
        path.unlink(missing_ok=True)


def run_trials(setup: TrialSetup, checkpoint: Path | None) -> TrialsOutcome:
    """Train all trials, stacked where that is possible and faster."""
    if setup.settings is not None:
        if (reason := why_not_stacked(setup)) is None:
            setup.report.event("info", "The network trains in a stack of its own.")
            return StackedTrials(setup).run(checkpoint)
        setup.report.event("info", f"The network trains alone: {reason} cannot be stacked.")
    elif len(setup.seeds) > 1:
        what, reason = "members" if setup.ensemble else "trials", why_not_stacked(setup)
        if reason is None:
            setup.report.event("info", f"{len(setup.seeds)} {what} train as one stacked network.")
            return (StackedMembers(setup) if setup.ensemble else StackedTrials(setup)).run(checkpoint)
        setup.report.event("info", f"{what.capitalize()} train one after the other: {reason} cannot be stacked.")
    return SequentialTrials(setup).run(checkpoint)
