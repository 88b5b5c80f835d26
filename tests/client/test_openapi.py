"""The OpenAPI documents: rendered as the reference page, linted, and used to generate a client that predicts."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import venv
from pathlib import Path

import pytest

from docs.make_api import documents, page
from services.control.openapi import METHODS
from tests.conftest import PROJECT, Server, get_text
from tests.needs import need, needs

CLIENT = PROJECT / "clients" / "typescript"


def test_the_reference_page_names_every_route_and_shape() -> None:
    text = page()
    for spec, prefix in zip(documents(), ("/", "/v"), strict=True):
        for path, item in spec["paths"].items():
            for method in item:
                assert not path.startswith(prefix) or text.count(f"\n### `{method.upper()} {path}`\n") == 1, path
        for shape in spec["components"]["schemas"]:
            assert text.count(f"\n### {shape}\n") == 1, shape
    assert not re.search(r"\]\(#\)|\bNone\b", text)


@pytest.fixture(scope="session")
def typescript(server: Server, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The TypeScript client with its packages installed, beside both documents of the running server."""
    folder = tmp_path_factory.mktemp("typescript")
    shutil.copytree(CLIENT, folder, dirs_exist_ok=True, ignore=shutil.ignore_patterns("node_modules", "dist", "*.json"))
    for name in ("package.json", "package-lock.json", "tsconfig.json"):
        shutil.copy(CLIENT / name, folder)
    (folder / "control.json").write_text(get_text(f"{server.base_url}/api/v1/openapi.json"))
    (folder / "predict.json").write_text(get_text(f"{server.predict_url}/openapi.json"))
    npm(folder, "ci", "--ignore-scripts")
    return folder


def npm(folder: Path, *words: str, **environment: str) -> str:
    quiet = {"REDOCLY_TELEMETRY": "off", "npm_config_update_notifier": "false"}
    program = Path(need("npm"))
    path = f"{program.parent}{os.pathsep}{os.environ['PATH']}"  # its Node is beside it
    variables = {**os.environ, **quiet, **environment, "PATH": path}
    done = subprocess.run([program, *words], cwd=folder, env=variables, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    return done.stdout


@needs("npm")
def test_redocly_finds_no_error(typescript: Path) -> None:
    npm(typescript, "run", "lint")


@needs("npm")
def test_the_typescript_client_uploads_trains_watches_and_predicts(typescript: Path, server: Server) -> None:
    npm(typescript, "run", "generate")
    npm(typescript, "run", "build")
    environment = {"FITSERVE_URL": server.base_url, "FITSERVE_PREDICT_URL": server.predict_url}
    output = npm(typescript, "run", "--silent", "start", FITSERVE_API_KEY=server.token, **environment)
    uploaded, refused, trained, *predicted = (json.loads(line) for line in output.splitlines())
    assert (uploaded["rows"], uploaded["columns"]) == (200, ["x", "y", "side"])
    assert refused["status"] == 422
    assert "sides" in refused["message"]
    assert (trained["state"], trained["epochs"]) == ("succeeded", 40)
    inner, outer = (row["scores"] for row in predicted)
    assert max(inner, key=inner.__getitem__) == "in"
    assert max(outer, key=outer.__getitem__) == "out"
    assert all(len(row["output"]) == 1 for row in predicted)


@pytest.mark.long
def test_python_clients_are_generated_whole_and_upload_train_wait_and_predict(server: Server, tmp_path: Path) -> None:
    """By openapi-python-client, in an environment of its own."""
    venv.create(tmp_path / "environment", with_pip=True)
    programs = tmp_path / "environment" / "bin"
    tools = [str(programs / "python"), "-m", "pip", "install", "-q", "openapi-python-client", "ruff"]
    installed = subprocess.run(tools, capture_output=True, text=True)
    if installed.returncode != 0:
        pytest.skip(f"openapi-python-client cannot be installed: {installed.stderr.strip()[-200:]}")
    environment = {**os.environ, "PATH": f"{programs}{os.pathsep}{os.environ['PATH']}"}
    addresses = {"control": f"{server.base_url}/api/v1/openapi.json", "predict": f"{server.predict_url}/openapi.json"}
    for name, address in addresses.items():
        (tmp_path / f"{name}.json").write_text(get_text(address))
        words = ["generate", "--meta", "none", "--path", f"{name}.json", "--output-path", name]
        command = [str(programs / "openapi-python-client"), *words, "--fail-on-warning"]
        command += ["--config", str(PROJECT / "clients" / "openapi-python-client.yaml")]
        made = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True)
        assert made.returncode == 0, made.stdout + made.stderr
        routes = json.loads((tmp_path / f"{name}.json").read_text())["paths"].values()
        endpoints = [one for one in (tmp_path / name / "api").glob("*/*.py") if one.name != "__init__.py"]
        assert len(endpoints) == sum(method in METHODS for route in routes for method in route)
    shutil.copy(Path(__file__).parent / "generated_journey.py", tmp_path)
    environment |= {"FITSERVE_URL": server.base_url, "FITSERVE_PREDICT_URL": server.predict_url}
    environment["FITSERVE_API_KEY"] = server.token
    command = [str(programs / "python"), "generated_journey.py"]
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout) == [200, "succeeded", 2, ["left", "right"]]
