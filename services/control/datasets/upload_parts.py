"""A resumable upload's bytes where every API finds them: the next PATCH may come to another machine.

While an upload gathers, its bytes are a file of this machine. When a PATCH ends before the upload does, what it
brought becomes a blob, and the row's `offset` moves by compare-and-set: whoever answers next builds the file anew
where it has not got it. A blob that nothing names is collected after a day, which is as long as an upload lives.
"""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

from sqlalchemy import Engine, update

from fitserve import db
from fitserve.blobs import BlobStore, disk_full_is_507
from fitserve.errors import Conflict, NotFound
from fitserve.settings import MB
from fitserve.tables import Upload

_PARTS = ""  # a key of `metadata_` that no client can name: tus has no empty names


def without_parts(metadata: dict[str, Any]) -> dict[str, Any]:
    """What the client said."""
    return {name: value for name, value in metadata.items() if name != _PARTS}


def gather(row: Upload, path: Path, blobs: BlobStore, cache: Path) -> None:
    """Sees that `path` holds at least what other machines have received. Raises NotFound where a part is gone."""
    if path.is_file() and path.stat().st_size >= row.offset:
        return
    with disk_full_is_507(), path.open("wb") as whole:
        for sha256 in row.metadata_.get(_PARTS, []):
            with blobs.local(sha256, cache).open("rb") as part:
                shutil.copyfileobj(part, whole, MB)
    if path.stat().st_size != row.offset:
        raise NotFound("A part of this upload is gone.")


def share(engine: Engine, blobs: BlobStore, row: Upload, path: Path) -> None:
    """Stores what has arrived since the last part. Raises Conflict where another machine was faster."""
    end = path.stat().st_size
    if end <= row.offset:
        return
    part = path.with_suffix(".part")
    try:
        with disk_full_is_507(), path.open("rb") as whole, part.open("wb") as file:
            whole.seek(row.offset)
            shutil.copyfileobj(whole, file, MB)
        stored = blobs.put_file(part)
    finally:
        part.unlink(missing_ok=True)
    parts = [*row.metadata_.get(_PARTS, []), stored.sha256]
    with db.transaction(engine) as session:
        changed = session.execute(
            update(Upload)
            .where(Upload.id == row.id, Upload.offset == row.offset, Upload.dataset_id.is_(None))
            .values(offset=end, metadata_={**row.metadata_, _PARTS: parts})
            .execution_options(synchronize_session=False)
        )
        if changed.rowcount != 1:  # type: ignore[attr-defined]
            path.unlink(missing_ok=True)
            raise Conflict("Another request has continued this upload.", fix="Ask for its offset: HEAD.")
