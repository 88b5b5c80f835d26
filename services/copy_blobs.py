"""`python -m services.copy_blobs FROM TO`: copies every blob that TO does not have, each verified by its SHA-256.

Both are URLs as in FITSERVE_BLOB_URL: a backup, its restoration, or the way from a folder to a bucket. Running it
again copies what is new.
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

from fitserve.blobs import BlobStore, open_store
from fitserve.errors import FitserveError, NotFound


def copy(source: BlobStore, target: BlobStore) -> int:
    """Returns how many blobs were copied. Raises Corrupt, Unavailable, StorageFull."""
    target.prepare()
    there = {sha256 for sha256, _ in target.listing()}
    copied = 0
    for sha256, _ in source.listing():
        if sha256 in there:
            continue
        with tempfile.TemporaryDirectory(prefix="fitserve-copy-") as folder:
            try:
                target.put_file(source.local(sha256, Path(folder)))
            except NotFound:  # collected since it was listed: nothing refers to it
                continue
        copied += 1
    return copied


def main() -> int:
    if len(sys.argv) != 3:
        print("usage: python -m services.copy_blobs FROM TO", file=sys.stderr)
        return 2
    try:
        copied = copy(open_store(sys.argv[1]), open_store(sys.argv[2]))
    except FitserveError as error:
        print(f"{error.detail} {error.fix or ''}".strip(), file=sys.stderr)
        return 1
    print(f"{copied} blobs copied.")
    return 0


if __name__ == "__main__":
    sys.exit(main())
