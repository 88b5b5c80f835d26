"""`make audit-from`: which pinned versions an advisory applies to, by its list of versions and by its ranges."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import yaml

SCRIPT = Path(__file__).resolve().parents[2] / ".ci" / "advisories.py"


def _advisory(name: str, events: list[dict[str, str]], **more: Any) -> dict[str, Any]:
    affected = {
        "package": {"ecosystem": "PyPI", "name": name},
        "ranges": [{"type": "ECOSYSTEM", "events": events}],
        "versions": more.pop("versions", []),
    }
    return {"id": f"PYSEC-{name}", "published": "2024-05-01T00:00:00Z", "affected": [affected], **more}


def _audit(folder: Path, locks: str) -> tuple[int, str]:
    (folder / "lock.txt").write_text(locks)
    command = [sys.executable, str(SCRIPT), str(folder), str(folder / "lock.txt")]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    return done.returncode, done.stdout + done.stderr


def test_an_advisory_is_found_by_range_and_by_version(tmp_path: Path) -> None:
    between = [{"introduced": "0"}, {"fixed": "1.2"}, {"introduced": "2.0"}, {"fixed": "2.10"}]
    (tmp_path / "one.yaml").write_text(yaml.safe_dump(_advisory("Some_Package", between)))
    last = _advisory("other", [{"introduced": "1"}, {"last_affected": "3.1"}], aliases=["CVE-1"])
    (tmp_path / "two.json").write_text(json.dumps(last))
    named = _advisory("third", [{"introduced": "9"}], versions=["1.0"])
    (tmp_path / "three.json").write_text(json.dumps(named))
    taken_back = _advisory("some-package", [{"introduced": "0"}], withdrawn="2024-06-01T00:00:00Z")
    (tmp_path / "four.json").write_text(json.dumps(taken_back))

    def found(some: str, other: str, third: str) -> list[str]:
        status, said = _audit(tmp_path, f"some-package=={some} \\\n    --hash=x\nother[a]=={other}\nthird=={third}\n")
        names = [line.split()[1] for line in said.splitlines()[:-1]]
        assert status == bool(names), said
        return names

    assert found("2.9", "3.1", "1.0") == ["Some_Package", "third", "other"]
    assert found("1.1.9", "0.9", "1.1") == ["Some_Package"]
    assert found("1.2", "3.1.1", "8") == []
    assert found("2.10", "3.2", "9.5") == ["third"]


def test_a_folder_that_is_not_there_is_said() -> None:
    done = subprocess.run([sys.executable, str(SCRIPT), ""], capture_output=True, text=True, check=False)
    assert (done.returncode, "FITSERVE_ADVISORIES" in done.stdout) == (2, True)
