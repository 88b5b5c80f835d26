"""Artifacts: a trained network's files, and the manifest that lists them.

The manifest is a blob whose SHA-256 is the artifact's name. It lists every other file by SHA-256, so the artifact's
name is enough to verify everything that is loaded.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fitserve.blobs import BlobStore, Corrupt, StoredBlob

if TYPE_CHECKING:
    import onnxruntime

FORMAT = 1
ROWS_DIMENSION = "batch"  # what serving graphs call the number of rows
ONE_ROW_PROPERTY = "fitserve_one_row"  # metadata of a serving graph that has operators of its own for one row


@dataclass(frozen=True, slots=True)
class Artifact:
    """A manifest and its name. `manifest["onnx"]` and other files are `{"sha256", "bytes", ...}`."""

    sha256: str
    manifest: dict[str, Any]

    def file(self, kind: str) -> StoredBlob:
        """Return the blob of one of its files, such as `keras` or `onnx`."""
        entry = self.manifest[kind]
        return StoredBlob(entry["sha256"], entry["bytes"])

    @property
    def kinds(self) -> list[str]:
        """Return the kinds of its files."""
        return [key for key, value in self.manifest.items() if isinstance(value, dict) and "sha256" in value]


def write(
    blobs: BlobStore, files: Mapping[str, Path], manifest: Mapping[str, Any]
) -> tuple[Artifact, dict[str, StoredBlob]]:
    """Store files and manifest durably. The transaction that references the artifact writes the blobs' rows.

    Returns the artifact and all blobs by kind, including the manifest.
    """
    stored = {kind: blobs.put_file(path) for kind, path in files.items()}
    whole: dict[str, Any] = {"format": FORMAT, **manifest}
    for kind, blob in stored.items():
        whole[kind] = {**whole.get(kind, {}), "sha256": blob.sha256, "bytes": blob.bytes}
    stored["manifest"] = blobs.put_bytes(json.dumps(whole, sort_keys=True, allow_nan=False).encode())
    return Artifact(stored["manifest"].sha256, whole), stored


def read(blobs: BlobStore, sha256: str, run: str | None = None) -> Artifact:
    """Return the artifact with that name. Raises NotFound, Corrupt (also if it belongs to a run other than `run`)."""
    manifest = json.loads(blobs.read(sha256))
    if not isinstance(manifest, dict) or manifest.get("format") != FORMAT:
        raise Corrupt(f"Artifact {sha256} has a format that this release cannot read.")
    if run is not None and manifest.get("run") != run:
        raise Corrupt(f"Artifact {sha256} is of the run {manifest.get('run')}, not of {run}.")
    return Artifact(sha256, manifest)


def onnx_session(graph: bytes | Path, threads: int = 1, rows: int | None = None) -> onnxruntime.InferenceSession:
    """Open an ONNX graph on the CPU. Every process that runs a network runs it with these options.

    One thread by default: requests run in parallel, and a small network is slower on several threads. A session for a
    fixed number of `rows` has no branches for other numbers.
    """
    # imported here because it takes a third of a second, and most users of this module never run a graph
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.log_severity_level = 3  # errors only
    if rows is not None:
        options.add_free_dimension_override_by_name(ROWS_DIMENSION, rows)
    source = graph if isinstance(graph, bytes) else str(graph)
    return onnxruntime.InferenceSession(source, options, providers=["CPUExecutionProvider"])
