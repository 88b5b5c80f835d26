"""Without extras, the client, the command line and the spec work: they need none of the server's dependencies."""

from __future__ import annotations

import subprocess
import sys

from tests.waiting import PATIENCE

SERVERS = """
    sqlalchemy celery kombu redis alembic fastapi starlette uvicorn pyarrow onnxruntime prometheus_client fsspec
    msgspec jsonpatch tensorflow keras sklearn pandas polars matplotlib grpc psycopg services workers migrations
""".split()  # noqa: SIM905

CODE = f"""
import importlib.abc, sys

class Refuse(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in {SERVERS!r}:
            raise ModuleNotFoundError(f"no {{name}} here", name=name)

sys.meta_path.insert(0, Refuse())
import importlib.util
known = importlib.util.find_spec
importlib.util.find_spec = lambda name, *rest: None if name.partition(".")[0] in {SERVERS!r} else known(name, *rest)
"""


def light(code: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", CODE + code, *arguments], capture_output=True, text=True, timeout=PATIENCE
    )


def test_everything_imports_without_the_server() -> None:
    done = light(
        "import pkgutil, fitserve.client, fitserve.cli, fitserve.spec, fitserve.wire\n"
        "for package in (fitserve.client, fitserve.cli, fitserve.spec, fitserve.wire):\n"
        "    for module in pkgutil.walk_packages(package.__path__, package.__name__ + '.'):\n"
        "        if not module.name.endswith('__main__'):\n"
        "            importlib.import_module(module.name)\n"
        "from fitserve import Client, AsyncClient\n"
        "fitserve.spec.spec.parse({'dataset': 'd', 'target': 't'})\n"
        "Client('http://127.0.0.1:9', 'k.s').close()\n"
        "print('light')"
    )
    assert done.stdout == "light\n", done.stderr


def test_up_reports_what_is_missing() -> None:
    code = """
from fitserve.cli import app
for command in sys.argv[1:]:
    try:
        app([command])
    except SystemExit as end:
        print("exit code", end.code, file=sys.stderr)
"""
    done = light(code, "up", "migrate", "doctor")
    *reports, rest = done.stderr.split("exit code 3\n")
    assert (len(reports), rest) == (3, ""), done.stderr
    for report in reports:
        assert "pip install -e '.[" in report
        assert "sqlalchemy" in report


def test_the_client_loads_neither_numpy_nor_the_layers_of_a_spec() -> None:
    done = light(
        "import fitserve.client\n"
        "print(sorted(name for name in sys.modules if name == 'numpy' or name.startswith('fitserve.spec.')))"
    )
    small = [f"fitserve.spec.{name}" for name in ("argument_types", "assessment", "interval")]  # a level's check
    assert done.stdout == f"{small}\n", done.stderr


def test_help_is_quick_and_loads_neither_http_nor_numpy() -> None:
    code = "from fitserve.cli import app\ntry:\n    app(['--help'])\nfinally:\n    "
    code += "print({'httpx2', 'numpy'} & set(sys.modules))"
    assert light(code).stdout.endswith("set()\n")
