"""Train one run, from its spec and its dataset's file to the files of a trained network."""

from __future__ import annotations

import time
from dataclasses import replace

from fitserve.dataset_facts import DatasetFacts
from fitserve.spec.spec import Spec, parse
from workers.trainer.checks.run_checks import run_checks
from workers.trainer.data import preparation
from workers.trainer.data.feeds import free_bytes
from workers.trainer.engine.checkpoint import Checkpoint
from workers.trainer.engine.collectives import Collectives
from workers.trainer.engine.device import placed
from workers.trainer.engine.gang import follow
from workers.trainer.engine.kept_networks import KEPT
from workers.trainer.engine.shared_steps import SharedCompiled
from workers.trainer.interface import Reporter, Room, TrainingFailed, TrainingRequest, TrainingResult, TrainingStopped
from workers.trainer.ready_run import make_ready, run_trials
from workers.trainer.trials.sequential import SequentialTrials


def train(request: TrainingRequest, report: Reporter) -> TrainingResult:
    """Train, evaluate and export; only train, where one trial is asked for. Raises TrainingStopped, TrainingFailed."""
    spec, facts = parse(request.spec), DatasetFacts.model_validate(request.facts)
    try:
        group = None
        if request.gang is not None:
            group = Collectives(request.gang.addresses, request.gang.rank)
            group.connect()  # before anything else asks TensorFlow for a device
        request = replace(request, room=_room(request))
        with placed(spec.training, report):
            if group is None:
                result = _train(request, spec, facts, report)
            else:
                result = _train_together(request, spec, facts, report, group)
    except TrainingStopped:
        KEPT.take_back()
        raise
    except BaseException:  # after a failure, such as exhausted memory, cached networks are not reused
        KEPT.clear()
        raise
    KEPT.take_back()
    return result


def _train(request: TrainingRequest, spec: Spec, facts: DatasetFacts, report: Reporter) -> TrainingResult:
    if spec.check is not None:
        return run_checks(request, spec, facts, report)
    if spec.search is not None:
        from workers.trainer.search.search_run import SearchRun  # imports Optuna, which other runs do not need

        search = SearchRun(request, facts, report)
        return search.result() if request.trial is None else search.divided_result(request.trial)
    ready = make_ready(request, spec, facts, report)
    if request.trial is not None:
        return SequentialTrials(ready.setup).run_divided(request.trial, request.checkpoint)
    began_at = time.perf_counter()
    outcome = run_trials(ready.setup, request.checkpoint)
    return ready.finish(outcome, time.perf_counter() - began_at)


def _room(request: TrainingRequest) -> Room:
    """Return this process's room for rows, at most that of earlier attempts, so that rows keep their order."""
    reading = None if request.checkpoint is None else Checkpoint.reading(request.checkpoint)
    memory = preparation.memory_budget() if reading in (None, "memory") else 0
    return Room(memory, 0 if reading == "file" else free_bytes(request.folder))


def _train_together(
    request: TrainingRequest, spec: Spec, facts: DatasetFacts, report: Reporter, group: Collectives
) -> TrainingResult:
    """Train as one of several processes. Only the leader returns a network. Raises GangBroken as well."""
    assert request.room is not None
    request = replace(request, room=Room(*group.least([request.room.memory, request.room.disk])))
    ready = make_ready(request, spec, facts, report, group=group)
    group.agree(ready.setup.fingerprint, "Rows, spec or release")
    setup, leader = ready.setup, ready.setup.leader
    if leader is None:
        seed = setup.seeds[0]
        assert isinstance(setup.compiled, SharedCompiled)
        follow(setup.compiled, setup.feed(seed), setup.validation(seed), report)
        return TrainingResult({}, {})
    began_at = time.perf_counter()
    try:
        outcome = run_trials(setup, request.checkpoint)
    except (TrainingStopped, TrainingFailed):
        leader.end()
        raise
    leader.end()
    return ready.finish(outcome, time.perf_counter() - began_at)
