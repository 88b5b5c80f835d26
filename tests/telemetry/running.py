"""The embedded default under traffic, with a Prometheus that scrapes it and a collector of its traces."""

from __future__ import annotations

import http.server
import json
import shutil
import subprocess
import threading
import time
import urllib.parse
import urllib.request
from collections.abc import Callable
from datetime import datetime
from pathlib import Path
from typing import Any

import yaml
from google.protobuf.json_format import MessageToDict
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

from tests.conftest import PROJECT, Server, free_ports
from tests.needs import need
from tests.waiting import PATIENCE, wait_until

RULES = PROJECT / "deploy" / "prometheus" / "fitserve.rules.yml"


class Collector:
    """An OTLP/HTTP collector that stores every span it receives."""

    def __init__(self) -> None:
        self.spans: list[dict[str, Any]] = []
        spans = self.spans

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"]))
                if self.headers.get("Content-Encoding") == "gzip":
                    import gzip

                    body = gzip.decompress(body)
                for resource in ExportTraceServiceRequest.FromString(body).resource_spans:
                    service = next(
                        a.value.string_value for a in resource.resource.attributes if a.key == "service.name"
                    )
                    for scope in resource.scope_spans:
                        for span in scope.spans:
                            fields = MessageToDict(span)
                            fields["service"] = service
                            fields["trace"] = span.trace_id.hex()
                            fields["span"], fields["parent"] = span.span_id.hex(), span.parent_span_id.hex()
                            spans.append(fields)
                self.send_response(200)
                self.send_header("Content-Length", "0")
                self.end_headers()

            def log_message(self, format: str, *args: object) -> None:
                """Log nothing."""

        self.server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.server.daemon_threads = True
        threading.Thread(target=self.server.serve_forever, daemon=True).start()

    @property
    def endpoint(self) -> str:
        return f"http://127.0.0.1:{self.server.server_address[1]}"

    def stop(self) -> None:
        self.server.shutdown()
        self.server.server_close()


class Prometheus:
    """A Prometheus with our rules that scrapes every second."""

    def __init__(self, folder: Path, targets: dict[str, str]) -> None:
        binary = need("prometheus")
        folder.mkdir()
        shutil.copy(RULES, folder)
        config = {
            "global": {"scrape_interval": "1s", "evaluation_interval": "1s"},
            "rule_files": [RULES.name],
            "scrape_configs": [
                {"job_name": job, "static_configs": [{"targets": [target]}]} for job, target in targets.items()
            ],
        }
        (folder / "prometheus.yml").write_text(yaml.safe_dump(config))
        (port,) = free_ports(1)
        self.url = f"http://127.0.0.1:{port}"
        command = [binary, f"--config.file={folder / 'prometheus.yml'}", f"--storage.tsdb.path={folder / 'data'}"]
        command += [f"--web.listen-address=127.0.0.1:{port}", "--log.level=error"]
        self.process = subprocess.Popen(command)
        eventually(self._ready, 30)

    def _ready(self) -> bool:
        try:
            with urllib.request.urlopen(f"{self.url}/-/ready", timeout=2) as answer:
                return answer.status == 200
        except OSError:
            return False

    def get(self, path: str, **parameters: str) -> Any:
        url = f"{self.url}/api/v1/{path}?{urllib.parse.urlencode(parameters)}"
        try:
            with urllib.request.urlopen(url, timeout=PATIENCE) as answer:
                return json.loads(answer.read())["data"]
        except urllib.error.HTTPError as error:
            raise AssertionError((parameters, error.read().decode())) from None

    def query(self, expression: str) -> list[dict[str, Any]]:
        """Evaluate an expression now."""
        data = self.get("query", query=expression)
        return data["result"] if data["resultType"] != "scalar" else [{"value": data["result"]}]

    def wait_for_scrapes(self) -> None:
        """Wait until every process has been scraped from now on, and then every rule evaluated."""
        for times, what in ((self._scrapes, "a scrape of every process"), (self._evaluations, "all rules' evaluation")):
            now = time.time()
            eventually(lambda times=times, now=now: min(times(), default=0.0) > now, why=what)

    def _scrapes(self) -> list[float]:
        return [float(one["value"][1]) for one in self.query("timestamp(up)")]

    def _evaluations(self) -> list[float]:
        rules = [rule for group in self.get("rules")["groups"] for rule in group["rules"]]
        return [datetime.fromisoformat(rule["lastEvaluation"]).timestamp() for rule in rules]

    def ever(self, expression: str, since: float) -> bool:
        """Whether an expression had a value at any second since then."""
        data = self.get("query_range", query=expression, start=str(since), end=str(time.time()), step="1")
        return any(series["values"] for series in data["result"])

    def total(self, selector: str) -> float:
        """Return the total of counters, including counts from before restarts."""
        total = 0.0
        for series in self.query(f"{selector}[1h]"):
            before = 0.0
            for _, text in series["values"]:
                value = float(text)
                total += value if value < before else value - before
                before = value
        return total

    def stop(self) -> None:
        self.process.terminate()
        self.process.wait(PATIENCE)


def targets_of(server: Server) -> dict[str, str]:
    urls = {
        "api": server.base_url,
        "predict": server.predict_url,
        "worker": server.worker_metrics_url,
        "reaper": server.reaper_metrics_url,
    }
    return {job: urllib.parse.urlsplit(url).netloc for job, url in urls.items()}


def eventually(condition: Callable[[], Any], seconds: float = PATIENCE, why: str = "") -> Any:
    """Return the first true value of a condition. Fails after `seconds`, or PATIENCE where that is longer."""
    return wait_until(condition, why or "the condition", patience=max(seconds, PATIENCE), pause=0.1)


def log_lines(server: Server) -> list[dict[str, Any]]:
    """Return the log lines of all processes."""
    lines = []
    whole = server.log.read_text(errors="replace").rpartition("\n")[0]  # the last line may be half written
    for line in whole.splitlines():
        if line.startswith("{"):
            lines.append(json.loads(line))
    return lines
