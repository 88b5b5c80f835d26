"""Run the code blocks of a Markdown page in order, against a real server, as a reader would.

`sh`, `bash` and `python` blocks run; their variables are kept for the page's next blocks. `yaml` blocks with a
network or a target are checked as specs, other `yaml`, `json` and `toml` blocks are parsed. A block below

    <!-- file: spec.yaml -->          is written to that file in the page's folder
    <!-- not run: needs Docker -->    is skipped; the reason is for readers of the source
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import shlex
import subprocess
import sys
import tomllib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml
from typer.testing import CliRunner

from docs import make_api, make_cli
from fitserve.cli import app
from fitserve.errors import FitserveError
from fitserve.spec.search import is_search, read_search
from fitserve.spec.spec import SpecRefused, parse
from fitserve.strictjson import loads
from tests.conftest import PROJECT, Server
from tests.needs import need
from tests.waiting import PATIENCE

_FENCE = re.compile(
    r"^(?P<indent> *)```(?P<language>[\w+-]*)[^\n]*\n(?P<text>.*?)^(?P=indent)```", re.MULTILINE | re.DOTALL
)
_MARKER = re.compile(r"<!-- (not run|file): ([^\n]+?) -->\s*\Z")
RUN = frozenset({"sh", "bash", "python"})
# The reader's home is not the server's, so `doctor` rightly reports a problem (exit code 1).
_DOCTOR = (
    'fitserve() { command fitserve "$@" || { local code=$?; [ "$1" = doctor ] && [ $code = 1 ] || return $code; }; }'
)
# One command without anything that only a shell can do. `doctor` looks at TensorFlow, which stays out of this process.
_ALONE = re.compile(r"fitserve (?!doctor)[^|<>&;$`*?~(){}#!\\]*")
READ = frozenset({"yaml", "json", "toml"})
SHOWN = frozenset({"", "text", "mermaid"})  # output, trees, drawings


@dataclass(frozen=True)
class Block:
    """One fenced block. `marker` is `not run` or `file`, `argument` the text after it."""

    page: Path
    line: int
    language: str
    text: str
    marker: str = ""
    argument: str = ""

    def __str__(self) -> str:
        return f"{self.page.relative_to(PROJECT)}:{self.line}"


def blocks_of(page: Path) -> Iterator[Block]:
    """Yield the blocks of a page."""
    source = page.read_text()
    for match in _FENCE.finditer(source):
        marker = _MARKER.search(source, 0, match.start())
        indent = len(match["indent"])
        text = "".join(line[indent:] if line.strip() else line for line in match["text"].splitlines(keepends=True))
        marking = (marker[1], marker[2].strip()) if marker else ("", "")
        yield Block(page, source.count("\n", 0, match.start()) + 1, match["language"], text, *marking)


def pages() -> list[Path]:
    """Return every page whose blocks are run: all but the generated references."""
    written = {*(PROJECT / "docs").rglob("*.md")} - {make_api.PAGE, make_cli.PAGE}
    return [PROJECT / "README.md", PROJECT / "ARCHITECTURE.md", *sorted(written)]


@dataclass
class Reader:
    """Runs blocks in its own folder, as a reader would."""

    server: Server
    folder: Path
    environment: Mapping[str, str] = field(default_factory=dict)
    replacements: Mapping[str, str] = field(default_factory=dict)  # text of a block, and what to use instead
    names: dict[str, Any] = field(default_factory=lambda: {"__name__": "__page__"})
    output: str = ""

    def __post_init__(self) -> None:
        home = self.folder / "fitserve-data"
        home.mkdir()
        (home / "first-key").write_text(self.server.token + "\n")
        self.variables = {
            **{name: value for name, value in os.environ.items() if not name.startswith("FITSERVE_")},
            "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
            "PYTHONPATH": str(PROJECT),
            "FITSERVE_URL": self.server.base_url,
            "COLUMNS": "160",
            **self.environment,
        }

    def read(self, block: Block) -> None:
        """Run one block. Raises AssertionError if it fails."""
        text = self._localized(block.text)
        if block.marker == "file":
            path = self.folder / block.argument
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text)
        if block.marker == "not run" or block.language in SHOWN:
            return
        assert block.language in RUN | READ or block.marker == "file", f"{block}: cannot run {block.language}"
        if block.language in READ:
            check(block)
        elif block.language == "python":
            self._python(block, text)
        elif block.language in RUN:
            self._shell(block, text)

    def _localized(self, text: str) -> str:
        """Replace the documented addresses with this server's."""
        grpc = f"127.0.0.1:{self.server.grpc_port}"
        replacements = {
            **self.replacements,
            "http://127.0.0.1:8000": self.server.base_url,
            "http://127.0.0.1:8501": self.server.predict_url,
            "127.0.0.1:8501": self.server.predict_url.removeprefix("http://"),
            "127.0.0.1:8500": grpc,
            "http://127.0.0.1:9101": self.server.worker_metrics_url,
            "http://127.0.0.1:9102": self.server.reaper_metrics_url,
        }
        for documented, actual in replacements.items():
            text = text.replace(documented, actual)
        return text

    def _shell(self, block: Block, text: str) -> None:
        if all(_ALONE.fullmatch(line) for line in text.splitlines()):
            for line in text.splitlines():
                self._command(block, line)
            return
        if re.search(r"\bcurl\b", text):
            need("curl")
        variables = self.folder / ".environment"
        script = f"{_DOCTOR}\n{text}\nenv -0 > {variables}\n"
        done = subprocess.run(
            ["bash", "-euo", "pipefail", "-c", script],
            cwd=self.folder,
            env=self.variables,
            capture_output=True,
            text=True,
            timeout=2 * PATIENCE,
            check=False,
        )
        self.output += done.stdout
        assert done.returncode == 0, f"{block}:\n{text}\n{done.stdout[-1500:]}\n{done.stderr[-1500:]}"
        pairs = (line.partition("=") for line in variables.read_text().split("\0") if line)
        self.variables = {name: value for name, _, value in pairs if name not in ("_", "SHLVL", "PWD")}

    def _command(self, block: Block, text: str) -> None:
        """Run one command in this process: starting another takes longer than most commands do."""
        with self._place():
            done = CliRunner().invoke(app, shlex.split(text)[1:], prog_name="fitserve")
        self.output += done.stdout
        assert done.exit_code == 0, f"{block}:\n{text}\n{done.output[-3000:]}\n{done.exception!r}"

    def _python(self, block: Block, text: str) -> None:
        code = compile("\n" * block.line + text, str(block.page), "exec")
        output = _Output()
        try:
            with self._place(), contextlib.redirect_stdout(output):  # type: ignore[type-var]
                exec(code, self.names)
        except Exception as error:
            raise AssertionError(f"{block}: {error!r}") from error
        finally:
            self.output += output.text

    @contextlib.contextmanager
    def _place(self) -> Iterator[None]:
        """Have the page's folder and variables in this process."""
        before = dict(os.environ)
        os.environ.clear()
        os.environ.update(self.variables)
        try:
            with contextlib.chdir(self.folder):
                yield
        finally:
            os.environ.clear()
            os.environ.update(before)


class _Output:
    def __init__(self) -> None:
        self.text = ""

    def write(self, text: str) -> None:
        self.text += text

    def flush(self) -> None:
        pass


def _check_spec(body: dict[str, Any]) -> None:
    if not is_search(body):
        parse(body)
    elif problems := read_search(body)[1]:
        raise SpecRefused.because(problems)


def check(block: Block) -> None:
    """Parse a block that is data; validate a spec as far as possible without its dataset."""
    try:
        if block.language == "json":
            loads(block.text.encode())
        elif block.language == "toml":
            tomllib.loads(block.text)
        else:
            for value in yaml.safe_load_all(block.text):
                if isinstance(value, dict) and {"target", "network"} & value.keys():
                    _check_spec(value)
    except (FitserveError, ValueError, json.JSONDecodeError, yaml.YAMLError, tomllib.TOMLDecodeError) as error:
        raise AssertionError(f"{block}: {error}") from error
