"""The documentation's code blocks and the command line's examples work against a real server."""

from __future__ import annotations

import gzip
import json
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save_file

from docs import make_cli
from fitserve.client import Client
from tests.cli.test_help import COMMANDS, examples_of
from tests.conftest import PROJECT, Server
from tests.docs.blocks import Block, Reader, blocks_of, pages
from tests.waiting import PATIENCE

DOCS = PROJECT / "docs"
README = PROJECT / "README.md"  # test_readme runs it
ENGLISH = DOCS / "tutorial.md"
CHINESE = DOCS / "tutorial-zh.md"
MAX_NOT_RUN = 26
PAGES = [page for page in pages() if page not in (README, CHINESE) and any(True for _ in blocks_of(page))]


@pytest.fixture
def reader(server: Server, tmp_path: Path) -> Reader:
    return Reader(server, tmp_path)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(PROJECT)))
def test_a_page(page: Path, reader: Reader, request: pytest.FixtureRequest) -> None:
    if page.name == "postgresql-redis.md":
        reader.replacements = {
            "postgresql+psycopg://fitserve:secret@db.example/fitserve": request.getfixturevalue("postgres_url"),
            "redis://redis.example:6379/0": request.getfixturevalue("redis_url"),
            "file:///tmp/fitserve-blobs": f"file://{reader.folder}/blobs",
        }
    for block in blocks_of(page):
        reader.read(block)


def test_the_chinese_tutorial_has_the_same_blocks() -> None:
    english, chinese = ([(b.language, b.text, b.marker, b.argument) for b in blocks_of(p)] for p in (ENGLISH, CHINESE))
    assert chinese == english


def test_few_blocks_are_skipped_and_each_gives_a_reason() -> None:
    blocks = [block for page in pages() if page != CHINESE for block in blocks_of(page)]
    skipped = [block for block in blocks if block.marker == "not run"]
    assert len(skipped) <= MAX_NOT_RUN, [str(block) for block in skipped]
    for block in skipped:
        assert len(block.argument.split()) >= 4, f"{block}: {block.argument!r} is no reason"


def test_a_wrong_block_fails(reader: Reader) -> None:
    """The runner can fail: a command that does not exist, a wrong spec, an error in Python."""
    page = ENGLISH
    for block in (
        Block(page, 1, "sh", "fitserve datasets uplod x.csv\n"),
        Block(page, 1, "sh", "false\ntrue\n"),
        Block(page, 1, "python", "import fitserve\nfitserve.Clint()\n"),
        Block(page, 1, "yaml", "target: y\nnetwork: [{Dens: 3}]\n"),
        Block(page, 1, "json", '{"a": }'),
        Block(page, 1, "ruby", "puts 1"),
    ):
        with pytest.raises(AssertionError):
            reader.read(block)


# The examples of the commands, each in a folder of its own.

NOT_RUN_HERE = {
    "up": "becomes a server; tests/cli starts and stops one",
    "start": "becomes a server; tests/deploy starts all four from a wheel",
    "migrate": "needs an empty PostgreSQL; how-to/postgresql-redis.md migrates one",
    "down": "stops a server; tests/cli/test_up.py does",
    "copy-blobs": "needs a blob store of its own; how-to/backup.md and tests/layout/test_backup.py copy one",
    "logs": "needs a server that runs from this folder; tests/cli/test_up.py reads them",
    "mcp": "serves until its client leaves; tests/cli/test_mcp.py is one",
    "datasets import": "needs a source; tests/datasets imports from each kind, tests/cli says which is missing",
    "datasets refresh": "needs an imported dataset; as above",
    "webhooks redeliver": "is refused while the first delivery is under way; tests/events delivers again",
    "demo": "trains for half a minute; tests/cli runs it",
}
LEFT_OUT = (
    "--apply",  # tests/insight applies findings of runs that are made to have one
    "saved-model",  # starts TensorFlow twice; tests/client/test_exports.py makes one
    "batch admissions applicants --to",  # needs the operator's connections; tests/predict/test_destinations.py has them
)


def examples() -> list[tuple[str, str]]:
    """Return every command with each of its examples."""
    return [(" ".join(path[1:]), example) for path in COMMANDS for example in examples_of(path)]


EXAMPLES = [pair for pair in examples() if pair[0] not in NOT_RUN_HERE and not any(one in pair[1] for one in LEFT_OUT)]
# The first example of each command every time, the others in the long form; so is what starts TensorFlow and is run by
# tests/cli/test_commands.py every time.
FIRSTS = frozenset(pair for pair in dict(reversed(EXAMPLES)).items() if pair[0] != "doctor")
PARAMETERS = [pytest.param(*pair, id=pair[1], marks=() if pair in FIRSTS else pytest.mark.long) for pair in EXAMPLES]
# One small network: what the recipe trains is the pages' part.
SPEC = "dataset: admissions\ntarget: admit\npreset: plain\ntraining: {epochs: 2}\nmodel: admissions\n"


@pytest.fixture(scope="module")
def example_objects(server: Server, tmp_path_factory: pytest.TempPathFactory) -> Callable[[str, Path], dict[str, str]]:
    """Create what the examples refer to: files, a dataset, a model with four versions, runs in each state, a key."""
    folder = tmp_path_factory.mktemp("examples")
    table = "gre,gpa,rank,admit\n" + "".join(
        f"{300 + row * 7 % 500},{2 + row % 20 / 10},{row % 4 + 1},{'yes' if row * 7 % 500 > 250 else 'no'}\n"
        for row in range(200)
    )
    (folder / "admissions.csv").write_text(table)
    (folder / "sales.csv.gz").write_bytes(gzip.compress(b"zip,n\n" + b"10115,3\n80331,4\n" * 20 + b"1\n"))
    booked = "".join(f"2024-03-{day:02};{day},50\n" for day in range(1, 31))
    (folder / "statement.csv").write_text(f"Account;7\nFrom;March\nTo;March\n\nbooked;amount\n{booked}Total;30 rows\n")
    (folder / "rows.csv").write_text("\n".join(table.split("\n")[:4]).replace(",admit", "").replace(",no", "") + "\n")
    (folder / "rows.jsonl").write_text('{"gre": 700, "gpa": 3.9, "rank": 1}\n' * 2)
    (folder / "spec.yaml").write_text(SPEC)
    client = Client(server.base_url, server.token)
    frame = client.datasets.upload(folder / "admissions.csv").to_pandas()
    frame.assign(large=frame.gre * 2).to_parquet(folder / "large.parquet")
    runs = [client.runs.create(folder / "spec.yaml", training={"epochs": 2, "seed": n}) for n in range(4)]
    finished = [run.wait(PATIENCE) for run in runs]
    newest = max(run.version or 0 for run in finished)  # 4, unless pages have trained the same model before
    client.models.promote("admissions", newest - 1)

    def prepare(command: str, into: Path) -> dict[str, str]:
        shutil.copytree(folder, into, dirs_exist_ok=True)
        if command == "spec init":
            (into / "spec.yaml").unlink()
        one = finished[0].id
        if command in ("runs cancel", "runs retry"):
            # A retried run is watched to its end.
            epochs = 3000 if command == "runs cancel" else 100
            run = client.runs.create(into / "spec.yaml", training={"epochs": epochs})
            one = run.id if command == "runs cancel" else run.cancel().wait(PATIENCE, check=False).id
        if command.startswith("models rollout "):
            _prepare_rollout(client, command, newest)
        if command.startswith("automations "):
            _prepare_automation(client, command, into)
        if command == "datasets append":
            client.datasets.upload(into / "rows.csv", "visits")
            for name in ("more.csv", "hour.csv"):
                shutil.copy(into / "rows.csv", into / name)
        if command == "models batch":
            client.datasets.upload(into / "admissions.csv", "applicants")
        weights = ""
        if command.startswith("weights "):
            save_file({"dense/0": np.ones((3, 2), np.float32)}, into / "body.safetensors")
            weights = client.weights.upload(into / "body.safetensors").id
        hook = ""
        if command.startswith("webhooks "):
            hook = client.webhooks.create("https://8.8.8.8/hook", events=["run.failed"]).id
        key = client.keys.create("to-be-revoked", ["read"]).id if command == "keys revoke" else ""
        return {
            "run_01kb...": one,
            "run_01kc...": finished[1].id,
            "key_01kb...": key,
            "wh_01kb...": hook,
            "wts_01kb...": weights,
            "--channel team-chat": "https://8.8.8.8/chat",
            "| jq .resolved": "| grep epochs",
            "--to 4": f"--to {newest}",
            "share admissions@2": "share admissions",
            "--epoch 20": "--epoch 1",  # of the two that are trained here
            "--epoch 40": "--epoch 1",
            "--epochs 120": "--epochs 3",
        }

    return prepare


def _prepare_automation(client: Client, command: str, into: Path) -> None:
    """Write a policy, and have an automation for the commands that are about one."""
    policy = {"on": {"schedule": "0 3 1 1 *"}, "do": {"champion": "admissions"}, "then": "notify"}
    (into / "policy.yaml").write_text(json.dumps(policy))
    for one in client.automations.list():
        client.automations.delete(one.id)
    if command != "automations create":
        client.automations.create("weekly", policy)


def _prepare_rollout(client: Client, command: str, newest: int) -> None:
    """Have the version before the newest answer, and a rollout of the newest for the commands that are about one."""
    for one in client.rollouts.list("admissions"):
        if one.finished_at is None:
            client.rollouts.abort("admissions", one.id)
    for label in client.models.get("admissions").labels:
        if label.weight:
            client.models.remove_label("admissions", label.label)
    client.models.promote("admissions", newest - 1)
    if command.rpartition(" ")[2] not in ("start", "ab"):
        client.rollouts.start("admissions", newest)


@pytest.mark.parametrize(("command", "example"), PARAMETERS)
def test_an_example_of_the_command_line(
    command: str, example: str, example_objects: Callable[[str, Path], dict[str, str]], reader: Reader
) -> None:
    reader.replacements = example_objects(command, reader.folder)
    reader.read(Block(make_cli.PAGE, 1, "sh", example + "\n"))
