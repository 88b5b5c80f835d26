"""From a version's row to a network in memory: read, verify by hash, build, warm up."""

from __future__ import annotations

from fitserve import artifacts
from fitserve.blobs import BlobStore, Corrupt
from fitserve.errors import NotFound, Unavailable
from services.predict.catalog.loaded_model import Network


class LoadFailed(Exception):
    """A version cannot be served now. `code` is one of gRPC's canonical names."""

    def __init__(self, code: str, message: str) -> None:
        super().__init__(message)
        self.code = code


def load(blobs: BlobStore, model: str, version: int, label: str | None, artifact: str) -> Network:
    """The network of an artifact; every byte is checked against its SHA-256. Raises LoadFailed."""
    try:
        manifest = artifacts.read(blobs, artifact).manifest
        onnx = blobs.read(manifest["onnx"]["sha256"])
        return Network(model, version, label, artifact, manifest, onnx)
    except Corrupt as error:
        raise LoadFailed("DATA_LOSS", error.detail) from error
    except NotFound as error:
        raise LoadFailed("NOT_FOUND", error.detail) from error
    except (Unavailable, OSError) as error:
        raise LoadFailed("UNAVAILABLE", f"The blob store is not reachable: {type(error).__name__}.") from error
    except Exception as error:
        raise LoadFailed("INTERNAL", f"The artifact cannot be loaded: {type(error).__name__}.") from error
