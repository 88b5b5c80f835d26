"""`python -m services.copy_blobs FROM TO`: copy every blob that TO lacks, each verified by its SHA-256.

Both are URLs as in FITSERVE_BLOB_URL. Use it for a backup, to restore one, or to move from a folder to a bucket.
Running it again copies only new blobs.
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

from fitserve.blobs import BlobStore, open_store
from fitserve.errors import FitserveError, NotFound


def copy_blobs(source: BlobStore, target: BlobStore) -> int:
    """Return how many blobs were copied. Raises Corrupt, Unavailable, StorageFull."""
    target.prepare()
    existing = {sha256 for sha256, _ in target.listing()}
    copied = 0
    for sha256, _ in source.listing():
        if sha256 in existing:
            continue
        with tempfile.TemporaryDirectory(prefix="fitserve-copy-") as folder:
            try:
                target.put_file(source.local(sha256, Path(folder)))
            except NotFound:  # garbage-collected since it was listed, so nothing refers to it
                continue
        copied += 1
    return copied


def main() -> int:
    if len(sys.argv) != 3:
        print("usage: python -m services.copy_blobs FROM TO", file=sys.stderr)
        return 2
    try:
        copied = copy_blobs(open_store(sys.argv[1]), open_store(sys.argv[2]))
    except FitserveError as error:
        print(f"{error.detail} {error.fix or ''}".strip(), file=sys.stderr)
        return 1
    print(f"{copied} blobs copied.")
    return 0


if __name__ == "__main__":
    sys.exit(main())
