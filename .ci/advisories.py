"""Check every pinned package against a folder of public advisories: `python .ci/advisories.py FOLDER LOCK...`.

FOLDER holds documents in the OSV format, YAML or JSON, at any depth: a clone of pypa/advisory-database or of
github/advisory-database, or OSV's export for PyPI, unpacked. Nothing is fetched. Exits with 1 if an advisory applies.
"""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import yaml
from packaging.utils import canonicalize_name
from packaging.version import InvalidVersion, Version

Pins = dict[str, dict[str, set[str]]]  # by package and version: the locks that pin it


def read_pins(locks: list[Path]) -> Pins:
    """Return what the locks pin."""
    pins: Pins = {}
    for lock in locks:
        for name, version in re.findall(r"(?m)^([\w.-]+)(?:\[[^\]]*\])?==([^\s;\\]+)", lock.read_text()):
            pins.setdefault(canonicalize_name(name), {}).setdefault(version, set()).add(lock.name)
    return pins


def read_advisories(folder: Path) -> Iterator[Mapping[str, Any]]:
    """Yield the documents that name a package of PyPI and were not withdrawn."""
    for path in sorted(folder.rglob("*")):
        if path.suffix not in (".yaml", ".yml", ".json") or "pypi" not in (text := path.read_text("utf-8")).lower():
            continue
        # There are tens of thousands of files, and libyaml's loader is ten times as fast as Python's.
        document = json.loads(text) if path.suffix == ".json" else yaml.load(text, yaml.CSafeLoader)
        if isinstance(document, dict) and "affected" in document and not document.get("withdrawn"):
            yield document


def applies(affected: Mapping[str, Any], version: str) -> bool:
    """Return whether one entry of an advisory affects this version, by its list or by its ranges."""
    if version in (affected.get("versions") or ()):
        return True
    ranges = [one["events"] for one in affected.get("ranges") or () if one["type"] == "ECOSYSTEM"]
    return any(_within(events, Version(version)) for events in ranges)


def _within(events: list[dict[str, str]], version: Version) -> bool:
    affected = False
    for event in sorted(events, key=lambda one: _order(next(iter(one.values())))):
        ((kind, at),) = event.items()
        if kind == "introduced" and version >= _order(at):
            affected = True
        elif (kind == "fixed" and version >= _order(at)) or (kind == "last_affected" and version > _order(at)):
            affected = False
    return affected


def _order(text: str) -> Version:
    try:
        return Version(text)
    except InvalidVersion:  # of a release before PEP 440
        return Version("0")


def main() -> int:
    """Print what applies, and return the exit status."""
    folder, *locks = map(Path, sys.argv[1:])
    if not sys.argv[1] or not folder.is_dir():
        print("audit: FITSERVE_ADVISORIES must name a folder, for example a clone of pypa/advisory-database.")
        return 2
    pins = read_pins(locks)
    about, newest, found = 0, "", 0
    for advisory in read_advisories(folder):
        newest = max(newest, str(advisory.get("published") or ""))
        for affected in advisory["affected"]:
            package = affected.get("package") or {}
            versions = pins.get(canonicalize_name(str(package.get("name", ""))), {})
            if package.get("ecosystem") != "PyPI" or not versions:
                continue
            about += 1
            for version in versions:
                if applies(affected, version):
                    found += 1
                    known = ", ".join([advisory["id"], *(advisory.get("aliases") or ())])
                    print(f"audit: {package['name']} {version} in {', '.join(sorted(versions[version]))}: {known}")
    checked = f"{about} advisories about {len(pins)} pinned packages, the newest of {newest[:10] or 'no day'}"
    print(f"audit: {found or 'none'} of {checked} apply")
    return int(found > 0)


if __name__ == "__main__":
    sys.exit(main())
