"""The API's process stays small."""

from __future__ import annotations

import subprocess
import sys

from tests.waiting import PATIENCE

PROGRAM = """
import sys
from services.http.memory import release_memory, stay_small
stay_small()
import pyarrow as pa
assert pa.array(["a", None]).null_count == 1
assert "pandas" not in sys.modules
assert pa.default_memory_pool().backend_name == "system"
release_memory()
"""


def test_pandas_is_not_loaded_and_memory_goes_back() -> None:
    subprocess.run([sys.executable, "-c", PROGRAM], check=True, timeout=PATIENCE)
