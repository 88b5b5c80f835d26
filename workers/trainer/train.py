"""One run, from its spec and its dataset's file to a trained network's files."""

from __future__ import annotations

import time
from dataclasses import asdict
from pathlib import Path
from typing import Any

import keras
import numpy as np

from fitserve.dataset_facts import DatasetFacts
from fitserve.drift import prediction_distribution, training_distribution
from fitserve.errors import BadInput
from fitserve.spec.spec import Spec, parse
from fitserve.strictjson import finite_json
from workers.trainer.data import encoded_rows
from workers.trainer.data.encoded_rows import Encoded
from workers.trainer.data.feed import Resident
from workers.trainer.data.sources import Feeds, Prepared, as_rows, feeds, prepare
from workers.trainer.engine.compiled import Compiled, Rows
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
from workers.trainer.export import receipt
from workers.trainer.export.export import Exported, export, serve
from workers.trainer.insight.first_figures import simple_figures
from workers.trainer.insight.study import Trained, study
from workers.trainer.insight.trial_recorder import Watch
from workers.trainer.job import KeptEpoch, Reporter, TrainingFailed, TrainingJob, TrainingResult
from workers.trainer.trials.sequential import Course, Runner
from workers.trainer.trials.stacked import StackedRunner, cannot_stack
from workers.trainer.trials.trial import Outcome


def train(job: TrainingJob, report: Reporter) -> TrainingResult:
    """Train, evaluate, export; of a trial that is trained apart, train. Raises TrainingStopped and TrainingFailed."""
    spec, facts = parse(job.spec), DatasetFacts.model_validate(job.facts)
    with placed(spec.training, report):
        return _train(job, spec, facts, report)


def _train(job: TrainingJob, spec: Spec, facts: DatasetFacts, report: Reporter) -> TrainingResult:
    begun = time.perf_counter()
    try:
        prepared = prepare(job, spec, facts, report)
        encoded = {name: _encoded(prepared, name) for name in ("train", "validation", "test")}
    except BadInput as refused:
        raise TrainingFailed("bad_data", refused.detail, refused.as_problem()) from refused
    count = len(prepared.whole.train)
    model, size = build_model(spec, spec.training.seed, count), batch_size(spec, count)
    rows = {name: as_rows(model, part) for name, part in encoded.items()}
    held_out = rows["validation"] if rows["validation"].count else rows["train"]
    jit = spec.training.jit_compile is True
    compiled = Compiled(model, rows["train"], held_out, size, size, jit, lambda reason: report.event("info", reason))
    source = feeds(job, spec, prepared, model, rows, size, report)
    prepared_at = time.perf_counter()
    course = _course(job, spec, compiled, source, rows["train"], report, encoded_rows.fingerprint(prepared.whole))
    if job.trial is not None:
        return Runner(course).apart(job.trial, job.checkpoint)
    outcome = _run(course, job)
    trained_at = time.perf_counter()
    report.progress()
    moments = (begun, prepared_at, trained_at)
    return _finished(job, spec, facts, prepared, course, source, encoded, rows, outcome, report, moments)


def _encoded(prepared: Prepared, part: str) -> Encoded:
    rows = getattr(prepared.parts, part)
    return prepared.fitted.encode(prepared.table.take(rows), train=part == "train")


def build_model(spec: Spec, seed: int, rows: int) -> keras.Model:
    """The network of a spec, compiled, its weights drawn from `seed`. `rows` are the training rows."""
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
    """Rows of a batch: `full` is all of them."""
    return rows if spec.training.batch_size == "full" else min(int(spec.training.batch_size), rows)


def _run(course: Course, job: TrainingJob) -> Outcome:
    """All trials, stacked where that is faster and possible."""
    if len(course.seeds) == 1:
        return Runner(course).run(job.checkpoint)
    reason = cannot_stack(course)
    if reason is None:
        course.report.event("info", f"{len(course.seeds)} trials train as one stacked network.")
        return StackedRunner(course).run(job.checkpoint)
    course.report.event("info", f"Trials train one after the other: {reason} cannot be stacked.")
    return Runner(course).run(job.checkpoint)


def _course(
    job: TrainingJob, spec: Spec, compiled: Compiled, source: Feeds, rows: Rows, report: Reporter, split: str
) -> Course:
    training, model = spec.training, compiled.model
    seeds = [training.seed + index for index in range(training.restarts)]
    monitor, larger = _monitored(spec, "validation" in source.held_out)

    def initialise(seed: int) -> keras.Model:
        if seed == seeds[0]:
            return model
        keras.utils.set_random_seed(seed)
        return build_network(spec)

    return Course(
        compiled=compiled,
        feed=source.train,
        validation=source.held_out.get("validation"),
        epochs=training.epochs,
        seeds=seeds,
        initialise=initialise,
        callbacks=lambda: build_callbacks(spec),
        report=report,
        folder=job.folder,
        fingerprint=receipt.digest_of([job.spec, split, receipt._versions()]),
        checkpoint_seconds=job.checkpoint_seconds,
        monitor=monitor,
        larger_is_better=larger,
        watch=Watch(model, rows, training.epochs, -(-rows.count // compiled.batch_size)),
        keep_epochs=training.keep_epochs,
    )


def _monitored(spec: Spec, validated: bool) -> tuple[str, bool]:
    """What trials are compared by, and whether more of it is better."""
    stopping = spec.training.early_stopping
    if stopping is None:
        return ("val_loss" if validated else "loss"), False
    return stopping.monitor, stopping.mode == "max"


def _finished(
    job: TrainingJob,
    spec: Spec,
    facts: DatasetFacts,
    prepared: Prepared,
    course: Course,
    source: Feeds,
    encoded: dict[str, Encoded],
    rows: dict[str, Rows],
    outcome: Outcome,
    report: Reporter,
    moments: tuple[float, float, float],
) -> TrainingResult:
    fitted, parts, table, compiled = prepared.fitted, prepared.parts, prepared.table, course.compiled
    best = outcome.trials[outcome.best]
    unseen = next(part for part in (parts.test, parts.validation, parts.train) if len(part))

    def exported_into(folder: Path) -> Exported:
        network = serving_network(_in_32_bits(compiled.model, spec), spec)
        return export(network, fitted.encoder, fitted.targets, table.take(unseen[:256]), folder, report)

    exported = exported_into(job.folder)
    inputs = [one.name for one in exported.session.get_inputs()]
    outputs = [one.name for one in exported.session.get_outputs()]
    metrics = _metrics(prepared, source, rows, compiled)
    evaluation = {}
    for name in metrics:
        taken = table.take(getattr(parts, name))
        evaluation[name] = simple_figures(fitted.targets, taken, serve(exported.session, fitted.encoder, taken))
    questioned = Trained(
        fitted=fitted,
        parts=parts,
        table=table,
        encoded=encoded,
        serve=lambda x: dict(
            zip(outputs, exported.session.run(outputs, {name: x[name] for name in inputs}), strict=True)
        ),
        model=compiled.model,
        watch=course.watch,
        kept_epoch=int(best.best_epoch or best.epochs),
        seconds=moments[2] - moments[1],
        seed=spec.training.seed,
    )
    files, figures = study(questioned, job.folder)
    report.progress()
    told = receipt.receipt(
        job.spec, facts.sha256, encoded_rows.fingerprint(prepared.whole), spec.training.seed, job.threads
    )
    told["weights"] = receipt.weights_digest(compiled.model)
    manifest = {
        "task": spec.task,
        "encoder": fitted.encoder.to_json(),
        "targets": fitted.targets.to_json(),
        **exported.entries,
        "training_distribution": training_distribution(fitted.encoder.columns, table.take(parts.train)),
        "prediction_distribution": prediction_distribution(
            exported.entries["outputs"], serve(exported.session, fitted.encoder, table.take(_some(parts.train)))
        ),
        "spec": job.spec,
        "receipt": told,
        "metrics": metrics,
    }
    begun, prepared_at, trained_at = moments
    result = {
        "metrics": metrics,
        "evaluation": evaluation,
        "figures": figures,
        "epochs": best.epochs,
        "best_trial": outcome.best,
        "best_epoch": best.best_epoch,
        "trials": [asdict(trial) for trial in outcome.trials],
        "spread": outcome.spread(),
        "rows": {name: len(getattr(prepared.whole, name)) for name in ("train", "validation", "test")},
        "parameters": int(compiled.model.count_params()),
        "parity": exported.entries["parity"],
        "seconds": {
            "prepare": prepared_at - begun,
            "train": trained_at - prepared_at,
            "finish": time.perf_counter() - trained_at,
        },
    }
    kept: dict[int, KeptEpoch] = {}
    for epoch, weights in sorted(outcome.kept.items()):
        compiled.model.set_weights(weights)
        own = exported_into(job.folder / f"epoch-{epoch}")
        digest = {**told, "weights": receipt.weights_digest(compiled.model)}
        differing = {**own.entries, "epoch": epoch, "receipt": digest}
        differing["metrics"] = _metrics(prepared, source, rows, compiled)
        kept[epoch] = KeptEpoch(own.files, finite_json(differing))
        report.progress()
    if missing := [epoch for epoch in spec.training.keep_epochs if epoch not in kept]:
        report.event("warn", f"Training ended before epochs that were to be kept: {missing}.", {"epochs": missing})
    return TrainingResult({**exported.files, **files}, finite_json(manifest), finite_json(result), kept)


def _some(rows: np.ndarray, most: int = 20_000) -> np.ndarray:
    """Every n-th of the rows, so that there are not more than `most`."""
    return rows[:: -(-len(rows) // most)] if len(rows) > most else rows


def _metrics(prepared: Prepared, source: Feeds, rows: dict[str, Rows], compiled: Compiled) -> dict[str, Any]:
    """Loss and metrics of the network as it is, on each part that has rows and is not too large."""
    metrics = {}
    for name in ("train", "validation", "test"):
        part = getattr(prepared.parts, name)
        held_out = rows["validation"] if rows["validation"].count else rows["train"]
        if not len(part) or (name == "train" and len(part) > 100_000):
            continue
        feed = source.held_out.get(name) if prepared.streamed else None
        feed = feed or Resident(_weighted_as(rows[name], held_out))
        metrics[name] = Loop(compiled, Resident(rows["train"]), None, 0).evaluate(feed)
    return metrics


def _in_32_bits(model: keras.Model, spec: Spec) -> keras.Model:
    """The network as it is served: one trained in mixed precision has 32-bit weights, and computes with them."""
    if not spec.training.mixed_precision:
        return model
    twin = build_network(
        spec.model_copy(update={"training": spec.training.model_copy(update={"mixed_precision": False})})
    )
    twin.set_weights(model.get_weights())
    return twin


def _weighted_as(rows: Rows, held_out: Rows) -> Rows:
    """Rows with or without weights as the compiled function was traced: class weights are for training alone."""
    if (rows.weight is None) == (held_out.weight is None):
        return rows
    if held_out.weight is None:
        return Rows(rows.x, rows.y)
    return Rows(rows.x, rows.y, keras.tree.map_structure(lambda _: keras.ops.ones(rows.count), held_out.weight))
