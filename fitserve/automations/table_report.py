"""Whether a new version of a table is sound enough to train on, compared with the last version that was."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from fitserve.tables import Dataset

MISSING_RISE = 0.2  # largest rise of the share of missing values: 5% may become 25%
ROWS_LEFT = 0.5  # least share of the rows that must still be there


def compare(before: Dataset, after: Dataset, used: Sequence[str] | None = None) -> dict[str, Any]:
    """Compare two versions of a table. Returns `ok`, and `problems` by column; of the columns in `used`, if given."""
    old = {column["name"]: column for column in before.columns}
    new = {column["name"]: column for column in after.columns}
    names = [name for name in (used or old) if name in old]
    problems: list[dict[str, Any]] = []
    for name in names:
        if name not in new:
            problems.append({"column": name, "what": "gone", "detail": f"The column {name} is gone."})
            continue
        problems += _column_problems(name, before, after, old[name], new[name])
    if after.rows < ROWS_LEFT * before.rows:
        detail = f"The table has {after.rows} rows; the version before had {before.rows}."
        problems.append({"column": None, "what": "rows", "detail": detail})
    return {
        "ok": not problems,
        "before": f"{before.name}@{before.version}",
        "after": f"{after.name}@{after.version}",
        "columns": len(names),
        "added": sorted(set(new) - set(old)),
        "problems": problems,
    }


def _column_problems(
    name: str, before: Dataset, after: Dataset, old: Mapping[str, Any], new: Mapping[str, Any]
) -> list[dict[str, Any]]:
    problems = []
    if old["kind"] != new["kind"]:
        detail = f"{name} was {old['kind']} and is {new['kind']}."
        problems.append({"column": name, "what": "kind", "detail": detail, "before": old["kind"], "after": new["kind"]})
    if _family(old["storage"]) != _family(new["storage"]):
        detail = f"{name} held {_family(old['storage'])} and holds {_family(new['storage'])}."
        problems.append({"column": name, "what": "values", "detail": detail})
    was, now = _shares(before, after, old, new)
    if now - was > MISSING_RISE:
        detail = f"{now:.0%} of {name} are missing in the new rows; {was:.0%} were before."
        problems.append({"column": name, "what": "missing", "detail": detail, "before": was, "after": now})
    return problems


def _shares(before: Dataset, after: Dataset, old: Mapping[str, Any], new: Mapping[str, Any]) -> tuple[float, float]:
    """Return the shares of missing values before and now; after an append, `now` is that of the new rows alone."""
    was = old.get("missing", 0) / max(1, before.rows)
    rows, missing = after.rows - before.rows, new.get("missing", 0) - old.get("missing", 0)
    appended = (after.source or {}).get("appended") is not None
    if appended and rows > 0 and missing >= 0:
        return was, missing / rows
    return was, new.get("missing", 0) / max(1, after.rows)


def _family(storage: str) -> str:
    if storage in ("int64", "float64"):
        return "numbers"
    return {"timestamp": "times", "bool": "booleans"}.get(storage, "texts" if storage == "string" else storage)
