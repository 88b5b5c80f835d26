"""A worker's supervision of its trainer, with real processes: stop, resume, cancel, and each kind of failure."""

from __future__ import annotations

import json
import os
import signal
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from fitserve import db
from fitserve.queue import Publisher
from fitserve.runs import queries
from fitserve.tables import Event, Run
from tests.faults.checker import AcknowledgedRun, check_runs
from tests.faults.cluster import CALM, Cluster, Member, wait_for
from tests.faults.fake_trainer import final_weights
from tests.waiting import PATIENCE, fastest

pytestmark = pytest.mark.xdist_group("faults")
MB = 1024 * 1024


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    """One worker and one reaper, for tests that leave them running."""
    environment = {
        "FITSERVE_TRAINER_MEMORY_BYTES": str(300 * MB),
        "FITSERVE_NO_PROGRESS_SECONDS": "10",  # starting is progress too, and slow on a busy machine
        "FITSERVE_MAX_ATTEMPTS": "2",
        **CALM,
    }
    with Cluster(tmp_path_factory.mktemp("shared") / "home", environment=environment) as cluster:
        cluster.start("worker")
        cluster.start("reaper")
        cluster.wait_over(cluster.submit())
        yield cluster


def events(cluster: Cluster, run_id: str) -> list[Event]:
    with db.reading(cluster.engine) as session:
        return queries.events_after(session, run_id, 0, 10_000)


def logged(cluster: Cluster, words: str) -> list[dict[str, Any]]:
    """The log's lines with these words in their message; a thread passes a trainer's output on, which may take time."""
    whole = cluster.log.read_text().rpartition("\n")[0].splitlines()  # the last line may be half written
    return [line for line in map(json.loads, whole) if words in line["message"]]


def error_of(run: Run) -> dict[str, Any]:
    assert run.state == "failed"
    assert run.error is not None
    return run.error


def test_a_divergence_names_epoch_and_layer_and_is_not_tried_again(shared: Cluster) -> None:
    run = shared.wait_over(shared.submit(fails="diverged", at=2))
    assert error_of(run)["cause"] == "diverged"
    assert (run.attempt, error_of(run)["epoch"], error_of(run)["layer"]) == (1, 2, "dense")


def test_an_unexpected_exception_is_an_internal_error(shared: Cluster) -> None:
    run = shared.wait_over(shared.submit(fails="raise"))
    assert error_of(run)["cause"] == "internal_error"
    assert "unexpected" in error_of(run)["detail"]


def test_out_of_memory_names_the_limit_and_the_peak(shared: Cluster) -> None:
    error = error_of(shared.wait_over(shared.submit(fails="memory")))
    assert error["cause"] == "out_of_memory"
    assert error["limit_bytes"] == 300 * MB
    assert 100 * MB < error["peak_bytes"] <= 310 * MB
    assert "300 MB" in error["detail"]


def test_a_traceback_is_one_line_of_the_log(shared: Cluster) -> None:
    shared.wait_over(shared.submit(fails="raise"))
    found = wait_for(lambda: logged(shared, "ValueError: unexpected"))
    assert {line["level"] for line in found} == {"ERROR"}
    assert all(line["traceback"].startswith("Traceback (most recent call last)") for line in found)


def test_a_trainer_that_hangs_is_killed_and_the_run_fails_in_the_end(shared: Cluster) -> None:
    run = shared.wait_over(shared.submit(fails="hang"))
    assert (error_of(run)["cause"], run.attempt) == ("no_progress", 2)


def test_a_trainer_that_exits_is_tried_again_and_then_given_up(shared: Cluster) -> None:
    run = shared.wait_over(shared.submit(fails="exit"))
    assert (error_of(run)["cause"], run.attempt) == ("killed", 2)
    [line] = error_of(run)["last_lines"]
    assert line.endswith("Check failed: the tensor is 100% wrong")
    found = wait_for(lambda: logged(shared, "tensor.cc:85"))
    assert {(line["level"], line["logger"]) for line in found} == {("CRITICAL", "workers.trainer_output")}
    assert "oneDNN" not in shared.log.read_text()


def test_a_killed_trainer_resumes_from_its_checkpoint_and_ends_the_same(shared: Cluster) -> None:
    run_id = shared.submit(seed=11, epochs=30, seconds=0.1, checkpoint_every=3)
    wait_for(lambda: (shared.run(run_id).checkpoint_epoch or 0) >= 6, PATIENCE)
    shared.members[0].trainers()[0].kill()
    run = shared.wait_over(run_id)
    assert run.attempt == 2
    assert check_runs(shared.engine, shared.blobs, [AcknowledgedRun(run_id, 11, 30)]).ok
    resumed = [e.data["resumed_after"] for e in events(shared, run_id) if e.message == "Training"]
    assert resumed[1] >= 6
    assert run.result is not None
    assert run.result["weights"] == final_weights(11, 30)


def test_a_cancel_is_effective_within_six_seconds(shared: Cluster) -> None:
    def cancelled() -> float:
        run_id = shared.submit(epochs=10_000, seconds=0.1)
        shared.wait_epoch(run_id, 2)
        begun = time.monotonic()
        assert shared.cancel(run_id).state == "running"
        assert shared.wait_over(run_id).state == "cancelled"
        return time.monotonic() - begun

    assert fastest(cancelled, 6) < 6


def test_a_trainer_that_ignores_a_cancel_is_killed(shared: Cluster) -> None:
    run_id = shared.submit(epochs=3, fails="hang", at=2)
    shared.wait_epoch(run_id, 1)
    before = {process.pid for process in shared.members[0].trainers()}
    shared.cancel(run_id)
    assert shared.wait_over(run_id).state == "cancelled"
    wait_for(lambda: not any(psutil.pid_exists(pid) for pid in before))


def test_priorities_hold_whatever_the_messages_say(shared: Cluster) -> None:
    blocker = shared.submit(epochs=5, seconds=0.2)
    shared.wait_epoch(blocker, 1)
    low, high = shared.submit(priority=-5), shared.submit(priority=5)
    publisher = Publisher(shared.settings)
    wait_for(lambda: publisher.publish(low), 10)
    publisher.close()
    first, second = shared.wait_over(high), shared.wait_over(low)
    assert first.started_at is not None
    assert second.started_at is not None
    assert first.started_at < second.started_at


def test_a_trainer_has_no_credentials_and_a_group_of_its_own(shared: Cluster) -> None:
    run_id = shared.submit(epochs=20, seconds=0.1)
    shared.wait_epoch(run_id, 1)
    trainer = shared.members[0].trainers()[0]
    names = {name for name in trainer.environ() if name.startswith("FITSERVE_")}
    assert names <= {"FITSERVE_TEST_HOOKS", "FITSERVE_TRAINER_MODULE", "FITSERVE_CRASH_AT", "FITSERVE_CRASH_TOKENS"}
    assert os.getpgid(trainer.pid) == trainer.pid
    shared.cancel(run_id)


def test_a_trainer_is_used_again_and_dies_with_its_worker(cluster: Cluster) -> None:
    worker = cluster.start("worker", FITSERVE_TRAINER_RUNS="2", **CALM)
    pids = []
    for seed in range(3):
        run_id = cluster.submit(seed=seed, epochs=3, seconds=0.1)
        cluster.wait_epoch(run_id, 1)
        pids.append(worker.trainers()[0].pid)
        cluster.wait_over(run_id)
    assert pids[0] == pids[1] != pids[2]
    worker.kill()
    wait_for(lambda: not psutil.pid_exists(pids[2]), 5, "the trainer's end")


def test_a_graceful_stop_hands_back_and_loses_no_epoch(cluster: Cluster) -> None:
    first = cluster.start("worker", **CALM)
    run_id = cluster.submit(seed=4, epochs=10, seconds=0.6, checkpoint_every=100)  # longer than a slow machine's pause
    cluster.wait_epoch(run_id, 3)
    first.process.terminate()
    first.process.wait(PATIENCE)
    run = cluster.run(run_id)
    assert (run.state, run.spent_attempts) == ("queued", 0)
    done = run.checkpoint_epoch
    assert done is not None
    assert done >= 3
    cluster.start("worker", **CALM)
    run = cluster.wait_over(run_id)
    assert (run.state, run.attempt, run.spent_attempts) == ("succeeded", 2, 0)
    assert check_runs(cluster.engine, cluster.blobs, [AcknowledgedRun(run_id, 4, 10)]).ok
    by_attempt = [(e.attempt, e.data["epoch"]) for e in events(cluster, run_id) if e.type == "metrics"]
    assert by_attempt == [(1 if epoch <= done else 2, epoch) for epoch in range(1, 11)]


def test_runs_are_found_without_a_broker(cluster: Cluster) -> None:
    assert cluster.redis is not None
    cluster.redis.kill()
    worker = cluster.start("worker")
    run_id = cluster.submit(epochs=2)
    assert cluster.wait_over(run_id).state == "succeeded"
    worker.process.terminate()  # though Celery never reached its broker
    worker.process.wait(PATIENCE)
    cluster.redis.start()


def test_a_pickled_message_is_refused_and_the_worker_survives(cluster: Cluster) -> None:
    worker = cluster.start("worker")
    cluster.wait_over(cluster.submit())
    publisher = Publisher(cluster.settings)
    with publisher.app.connection_for_write() as connection:
        body = b"\x80\x04\x95\x0b\x00\x00\x00\x00\x00\x00\x00\x8c\x05posix\x94."
        connection.Producer().publish(
            body,
            routing_key="fitserve",
            content_type="application/x-python-serialize",
            content_encoding="binary",
            headers={"task": "fitserve.wake", "id": "x"},
        )
    publisher.close()
    assert cluster.wait_over(cluster.submit()).state == "succeeded"
    assert worker.alive


def test_publishing_is_bounded_where_the_broker_hangs(cluster: Cluster, tmp_path: Path) -> None:
    assert cluster.redis is not None
    publisher = Publisher(cluster.settings)
    wait_for(lambda: publisher.publish("run_x"), 10)
    assert cluster.redis.process is not None
    cluster.redis.process.send_signal(signal.SIGSTOP)
    try:

        def published() -> float:
            begun = time.monotonic()
            publisher.publish("run_y")
            publisher.publish("run_z")
            return time.monotonic() - begun

        assert fastest(published, 2.5) < 2.5
    finally:
        cluster.redis.process.send_signal(signal.SIGCONT)
        publisher.close()


def probe(member: Member, path: str) -> tuple[int, str]:
    import urllib.error
    import urllib.request

    port = member.environment[
        "FITSERVE_WORKER_METRICS_PORT" if member.role == "worker" else "FITSERVE_REAPER_METRICS_PORT"
    ]
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}{path}", timeout=PATIENCE) as answer:
            return answer.status, answer.read().decode()
    except urllib.error.HTTPError as error:
        return error.code, error.read().decode()


def test_worker_and_reaper_answer_their_probes(shared: Cluster) -> None:
    worker, reaper = shared.members[:2]
    assert probe(worker, "/livez")[0] == 200
    wait_for(lambda: probe(worker, "/readyz")[0] == 200, 10, probe(worker, "/readyz"))
    assert "fitserve_epochs_total" in probe(worker, "/metrics")[1]
    assert probe(worker, "/nothing")[0] == 404
    assert probe(reaper, "/readyz")[0] == 200
    wait_for(lambda: 'fitserve_runs{state="queued"}' in probe(reaper, "/metrics")[1], 20)
