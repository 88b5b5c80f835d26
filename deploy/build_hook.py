"""The build of wheel and source distribution: requires the dashboard's pages, and records the commit and the day.

Hatchling calls it; `make wheel` builds the pages first. SOURCE_DATE_EPOCH sets the day, and FITSERVE_COMMIT the commit
where there is no Git, as in the build of an image.
"""

from __future__ import annotations

import json
import os
import sys
import tempfile
from dataclasses import asdict, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface

PAGES = Path("services", "dashboard", "build", "index.html")

RECORD = Path("fitserve", "build.json")


class BuildHook(BuildHookInterface):  # type: ignore[type-arg]
    """Adds fitserve/build.json, which a wheel takes over from a source distribution.

    An editable installation needs neither that nor the pages.
    """

    _folder: tempfile.TemporaryDirectory[str] | None = None

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        project = Path(self.root)
        if version == "editable" or (project / RECORD).exists():
            return
        if not (project / PAGES).is_file():
            raise SystemExit("fitserve's pages are not built: run `make wheel`, which builds them, then the wheel.")
        sys.path.insert(0, str(project))
        from fitserve.build_info import of_checkout

        seconds = os.environ.get("SOURCE_DATE_EPOCH")
        day = datetime.fromtimestamp(int(seconds), UTC) if seconds else datetime.now(UTC)
        self._folder = tempfile.TemporaryDirectory()
        record = Path(self._folder.name) / "build.json"
        info = of_checkout(project, day.date().isoformat())
        if info.commit is None:
            info = replace(info, commit=os.environ.get("FITSERVE_COMMIT") or None)
        record.write_text(json.dumps(asdict(info)))
        build_data["force_include"][str(record)] = str(RECORD)

    def finalize(self, version: str, build_data: dict[str, Any], artifact_path: str) -> None:
        if self._folder is not None:
            self._folder.cleanup()
