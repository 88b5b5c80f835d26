"""`fitserve up` as a person at a terminal sees it, and `status`, `logs` and `down` in another one."""

from __future__ import annotations

import json
import os
import re
import signal
import stat
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import httpx2
import psutil
import pytest

from fitserve import local_server
from fitserve.client import Client
from services.up import log_files
from services.up.children import Child, stop_all
from services.up.log_files import LogFiles
from tests.cli.terminal import Terminal
from tests.client.conftest import circle
from tests.conftest import free_ports
from tests.waiting import PATIENCE, wait_until

pytestmark = pytest.mark.xdist_group("up")
WIDTH = 80
LONG = {"dataset": "circle", "target": "side", "network": [{"Dense": {"units": 8}}], "model": "circle"}
LONG |= {"training": {"epochs": 900_000, "batch_size": 8, "early_stopping": None}}


@dataclass
class Place:
    """A folder with the variables of its server."""

    folder: Path
    variables: dict[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        names = ("PORT", "PREDICT_PORT", "GRPC_PORT", "WORKER_METRICS_PORT", "REAPER_METRICS_PORT")
        ports = zip(names, free_ports(len(names)), strict=True)
        self.variables |= {f"FITSERVE_{name}": str(port) for name, port in ports}
        self.variables |= {"FITSERVE_HOME": str(self.home), "FITSERVE_URL": "", "FITSERVE_API_KEY": ""}

    @property
    def home(self) -> Path:
        return self.folder / "fitserve-data"

    def up(self, *words: str, **variables: str) -> Terminal:
        return Terminal("up", *words, environment={**self.variables, **variables}, columns=WIDTH)

    def run(self, *words: str, code: int | None = 0) -> subprocess.CompletedProcess[str]:
        """Run the command line in another terminal: a pipe."""
        done = subprocess.run(
            [sys.executable, "-m", "fitserve.cli", *words],
            env={**os.environ, **self.variables}, capture_output=True, text=True, timeout=PATIENCE, check=False,
        )  # fmt: skip
        assert code is None or done.returncode == code, f"{words}\n{done.stdout}\n{done.stderr}"
        return done

    def client(self) -> Client:
        key = (self.home / "first-key").read_text().strip()
        return Client(f"http://127.0.0.1:{self.variables['FITSERVE_PORT']}", key)


def until(condition: Callable[[], object]) -> None:
    wait_until(condition, pause=0.1)


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Place:
    return Place(tmp_path_factory.mktemp("up"))


@pytest.fixture(scope="module")
def terminal(place: Place) -> Iterator[Terminal]:
    """`fitserve up` with a worker, in a terminal of 80 columns; the last test but those of other places ends it."""
    terminal = place.up()
    terminal.until("Ctrl-C stops everything")
    yield terminal
    if terminal.process.poll() is None:  # a test has failed
        terminal.process.terminate()
        terminal.end()


@pytest.fixture
def no_worker(tmp_path: Path) -> Place:
    return Place(tmp_path, {"FITSERVE_WORKERS": "0"})


# One server, from its start to the second Ctrl-C


def test_each_part_has_a_line_and_one_card_follows(terminal: Terminal, place: Place) -> None:
    for part in ("broker", "database", "API", "predictions", "worker", "reaper"):
        assert re.search(rf"✓ +{part} +ready after \d+\.\d s", terminal.plain), part
        if part not in ("broker", "database"):
            assert re.search(rf"{part} +starting", terminal.plain), part
    assert "fitserve is ready" in terminal.plain
    assert str(place.home / "first-key") in terminal.plain
    assert (place.home / "first-key").read_text().strip() not in terminal.plain
    assert "fitserve demo" in terminal.plain
    assert "fitserve train TABLE.csv --target COLUMN" in terminal.plain
    for noise in ('{"time"', "superuser", "oneDNN", "Warning", "Traceback"):
        assert noise not in terminal.plain
    # What may be longer than the terminal is what is copied from it: addresses, paths and commands.
    unbroken = [line for line in terminal.lines if len(line) > WIDTH and "/" not in line]
    assert not unbroken


def test_the_link_signs_in_once(terminal: Terminal, place: Place) -> None:
    address, token = re.findall(r"(http://127\.0\.0\.1:\d+)/#key=(once_[\w-]{22})", terminal.plain)[0]
    with httpx2.Client(base_url=address, timeout=PATIENCE) as browser:
        signed = browser.post("/api/v1/session", json={"token": token})
        assert signed.json()["scopes"] == ["admin"]
        assert browser.get("/api/v1/session").status_code == 200  # by the cookie
    again = httpx2.post(f"{address}/api/v1/session", json={"token": token}, timeout=PATIENCE)
    assert again.status_code == 401
    assert "used already" in again.json()["detail"]
    # It is not a key.
    headers = {"Authorization": f"Bearer {token}"}
    assert httpx2.get(f"{address}/api/v1/runs", headers=headers, timeout=PATIENCE).status_code == 401
    logs = "".join(path.read_text() for path in (place.home / "logs").glob("*"))
    assert token not in logs
    assert (place.home / "first-key").read_text().strip() not in logs


def test_status_in_another_terminal(terminal: Terminal, place: Place) -> None:
    shown = json.loads(place.run("status", "--json").stdout)
    assert shown["state"] == "ready"
    assert shown["base_url"] == f"http://127.0.0.1:{place.variables['FITSERVE_PORT']}"
    assert {part["name"]: part["ready"] for part in shown["parts"]} == dict.fromkeys(
        ("broker", "database", "api", "predict", "worker-1", "reaper"), True
    )
    assert shown["base_url"] in place.run("status").stdout
    assert stat.S_IMODE((place.home / "server.json").stat().st_mode) == 0o600


def test_started_twice_is_one_sentence_with_the_others_address(terminal: Terminal, place: Place) -> None:
    again = place.run("up", code=1)
    first, second, *rest = again.stderr.splitlines()
    assert f"http://127.0.0.1:{place.variables['FITSERVE_PORT']}/" in first
    assert "already runs" in first
    assert "fitserve down" in second
    assert not rest


def test_a_taken_port_is_one_sentence_with_a_command_that_works(
    terminal: Terminal, place: Place, tmp_path: Path
) -> None:
    other = Place(tmp_path, {})
    other.variables |= {name: place.variables[name] for name in ("FITSERVE_PORT", "FITSERVE_GRPC_PORT")}
    taken = other.run("up", code=1)
    port = place.variables["FITSERVE_PORT"]
    assert taken.stderr.startswith(f"fitserve: Port {port} is taken by another fitserve: http://127.0.0.1:{port}/")
    moved = dict(re.findall(r"(FITSERVE_\w+)=(\d+)", taken.stderr))
    assert moved.keys() == {"FITSERVE_PORT", "FITSERVE_GRPC_PORT"}
    assert not {*moved.values()} & {*place.variables.values()}
    assert "Traceback" not in taken.stderr
    assert not (other.home / "first-key").exists()  # no key was made that nobody has seen


def test_an_error_of_a_part_reaches_the_screen_and_it_is_started_again(terminal: Terminal, place: Place) -> None:
    server = local_server.find(place.home)
    assert server is not None
    pid = {part.name: part.pid for part in server.parts}["reaper"]
    assert pid is not None
    os.kill(pid, signal.SIGKILL)
    terminal.until("reaper: was killed by signal 9; starting it again")
    terminal.until("reaper: ready again")
    with (place.home / "logs" / "api.log").open("a") as log:
        line = {"time": "2030-01-01T00:00:00+00:00", "level": "ERROR", "process": "api", "message": "disk\x1b[2J full"}
        log.write(json.dumps(line) + "\n" + json.dumps({**line, "level": "INFO", "message": "calm"}) + "\n")
    terminal.until("API: error: disk")
    assert "\x1b[2J" not in terminal.text
    assert "calm" not in terminal.plain


def test_logs_are_readable_and_can_be_followed(terminal: Terminal, place: Place) -> None:
    shown = place.run("logs", "--lines", "500").stdout
    assert re.search(r"^\d\d:\d\d:\d\d up +INFO +ready seconds=\d", shown, re.MULTILINE)
    assert re.search(r"^\d\d:\d\d:\d\d up +ERROR +reaper ended; restarting it code=-9", shown, re.MULTILINE)
    assert "eady to accept connections" in place.run("logs", "broker").stdout
    assert place.run("logs", "up", "-n", "1").stdout.count("\n") == 1
    for part in ("up", "broker"):  # Redis writes text
        lines = place.run("logs", part, "--json").stdout.splitlines()
        assert lines
        assert {json.loads(line)["process"] for line in lines} == {part}
    assert "api, broker, predict" in place.run("logs", "nothing", code=3).stderr
    follower = Terminal("logs", "-f", "predictions", "-n", "0", environment=place.variables)
    try:
        with (place.home / "logs" / "predict.log").open("a") as log:
            deadline = time.monotonic() + 60
            while "something new" not in follower.plain:
                assert time.monotonic() < deadline
                log.write('{"time": "2030-01-01T00:00:00+00:00", "level": "INFO", "message": "something new"}\n')
                log.flush()
                follower.read_for(0.3)
        follower.press_ctrl_c()
        assert follower.end() == 130
    finally:
        follower.process.kill()


def test_ctrl_c_says_what_it_waits_for_and_a_second_one_hurries(terminal: Terminal, place: Place) -> None:
    with place.client() as client:
        client.datasets.upload(circle(), "circle")
        run = client.runs.create(LONG)
        until(lambda: run.refresh().state == "running" and any(run.epochs()))
    worker = local_server.find(place.home)
    assert worker is not None
    (pid,) = [part.pid for part in worker.parts if part.name == "worker-1"]
    assert pid is not None
    # The trainer, which holds no lock of the database that others would wait for.
    (trainer,) = [one for one in psutil.Process(pid).children(recursive=True) if "workers.trainer" in one.cmdline()]
    trainer.suspend()  # it cannot finish its epoch
    terminal.press_ctrl_c()
    terminal.until("Nothing is lost: it continues at the next start.")
    assert f"waiting for {run.id} (circle, epoch" in " ".join(terminal.plain.split())
    assert "25 s at most" in terminal.plain
    time.sleep(0.6)  # two within half a second are one request
    terminal.press_ctrl_c()
    terminal.until("Hurrying")
    assert terminal.end() == 0
    assert "fitserve has stopped. 1 run continues at the next start." in " ".join(terminal.plain.split())
    assert local_server.find(place.home) is None
    assert not (place.home / "server.json").exists()
    lines = place.run("logs", "worker", "--json").stdout.splitlines()
    (over,) = [line for line in map(json.loads, lines) if line["message"] == "attempt over"]
    assert over["state"] == "queued"  # handed back, not lost


# Other starts, without a worker


def test_a_part_that_fails_is_named_with_the_reason_and_the_fix(no_worker: Place) -> None:
    (no_worker.folder / "not-a-database").write_text("x" * 4096)
    terminal = no_worker.up(FITSERVE_DATABASE_URL=f"sqlite:///{no_worker.folder / 'not-a-database'}")
    assert terminal.end(90) == 1
    assert re.search(r"✗ +database +\w+", terminal.plain)
    assert re.search(r"fitserve: .*\n +.*fitserve \w+", terminal.plain)
    assert "Traceback" not in terminal.plain
    assert local_server.find(no_worker.home) is None


@pytest.mark.long
def test_a_process_that_ends_again_and_again_is_named_with_its_last_words(no_worker: Place) -> None:
    nothing = no_worker.folder / "none.pem"
    terminal = no_worker.up(FITSERVE_TLS_CERTIFICATE=str(nothing), FITSERVE_TLS_KEY=str(nothing))
    assert terminal.end(180) == 1
    assert re.search(r"✗ +(API|predictions) +ended with code 1: FileNotFoundError", terminal.plain)
    assert re.search(r"fitserve: The part (api|predict) would not start", terminal.plain)
    assert re.search(r"fitserve logs (api|predict)", terminal.plain)
    assert "Traceback" not in terminal.plain
    assert "Traceback" in no_worker.run("logs", "-n", "500").stdout


def test_down_in_another_terminal_after_a_server_that_was_killed(no_worker: Place) -> None:
    no_worker.home.mkdir()
    stale = {"pid": os.getpid(), "home": "", "base_url": "http://127.0.0.1:9", "predict_url": "", "started_at": 0}
    (no_worker.home / "server.json").write_text(json.dumps({**stale, "version": "0"}))
    assert "No server runs" in no_worker.run("status", code=4).stderr
    assert "Nothing to stop" in no_worker.run("down").stdout  # and this process still lives
    log = no_worker.folder / "log"
    with log.open("w") as sink:
        process = subprocess.Popen(
            [sys.executable, "-m", "fitserve.cli", "up"], env={**os.environ, **no_worker.variables},
            stdout=sink, stderr=sink, start_new_session=True,
            preexec_fn=lambda: signal.signal(signal.SIGHUP, signal.SIG_IGN),  # as `nohup` does
        )  # fmt: skip
    key = no_worker.home / "first-key"
    until(lambda: "Ctrl-C stops everything" in log.read_text())
    assert key.read_text().strip() in log.read_text()  # without a terminal, it is printed
    process.send_signal(signal.SIGHUP)  # its terminal is closed
    shown = no_worker.run("datasets", "list", "--json")  # found without FITSERVE_URL
    assert json.loads(shown.stdout) == []
    with no_worker.client() as client:
        client.datasets.upload(circle(), "circle")
        events = client.runs.create(LONG).events(silence=0)
        assert next(events).type == "state"  # an open stream, as a browser has one, does not hold the end up
        assert "fitserve has stopped." in no_worker.run("down").stdout
    assert process.wait(PATIENCE) == 0
    printed = [line for line in log.read_text().splitlines() if not line.startswith("{")]
    assert len(printed) == 5, printed  # the address, predictions, the key, Ctrl-C, the end
    lines = [json.loads(line) for line in log.read_text().splitlines() if line.startswith("{")]
    assert {line["level"] for line in lines} == {"INFO"}, lines


# Files and processes


def test_logs_stay_bounded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(log_files, "MAX_BYTES", 1000)
    logs = LogFiles(tmp_path / "logs")
    seen = []
    with logs.opened("api") as sink:
        for number in range(300):
            os.write(sink, f"line {number} of the API, whole\n".encode())
            if number % 7 == 0:
                seen += [line for _, line in logs.new_lines()]
    seen += [line for _, line in logs.new_lines()]
    assert seen == [f"line {number} of the API, whole" for number in range(300)]
    files = sorted(path.name for path in (tmp_path / "logs").iterdir())
    assert files == ["api.log", "api.log.1", "api.log.2"]
    assert sum(path.stat().st_size for path in (tmp_path / "logs").iterdir()) < 5000


@pytest.mark.parametrize(
    ("variables", "mark"), [({"PYTHONIOENCODING": "ascii"}, "ok"), ({"TERM": "dumb"}, ""), ({"NO_COLOR": "1"}, "✓")]
)
def test_other_terminals_are_served_too(variables: dict[str, str], mark: str) -> None:
    program = (
        "from pathlib import Path; from services.up.display import Screen; screen = Screen(); screen.hello(Path('x'));"
        "screen.begin(['api', 'worker-1', 'worker-2']); screen.starting('api'); screen.ready('api', 1.0);"
        "screen.failed('worker-2', 'ended\x1b[2J with code 1', 'Its log: fitserve logs worker-2');"
        "screen.stopping('run_1 to finish an epoch', 25); screen.stopped('1 run continues at the next start.')"
    )
    terminal = Terminal(program=("-c", program), environment=variables, columns=60)
    assert terminal.end() == 0, terminal.text
    assert re.search(rf"{mark} +API:? +ready after 1\.0 s", terminal.plain)
    assert "worker 2" in terminal.plain
    assert "fitserve logs worker-2" in terminal.plain
    assert "\x1b[2J" not in terminal.text
    assert "waiting for run_1 to finish an epoch, 25 s at most" in " ".join(terminal.plain.split())


def test_a_third_request_kills_what_still_runs() -> None:
    program = "import signal, time; [signal.signal(s, signal.SIG_IGN) for s in (2, 12, 15)]; print(1, flush=True)"
    process = subprocess.Popen([sys.executable, "-c", f"{program}; time.sleep(99)"], stdout=subprocess.PIPE)
    assert process.stdout is not None
    process.stdout.readline()  # it ignores the signals from here on
    counts = iter([1, 2, 2, 3])
    last = 1

    def requests() -> int:
        nonlocal last
        last = next(counts, 3)
        return last

    stop_all([Child("worker-1", "", process=process)], 60, requests, lambda: None)
    assert process.returncode == -signal.SIGKILL
    process.stdout.close()


def test_a_setting_that_is_wrong_is_named(no_worker: Place) -> None:
    no_worker.variables["FITSERVE_PORT"] = "eight"
    said = no_worker.run("up", code=2).stderr
    assert "FITSERVE_PORT" in said
    assert "Traceback" not in said
