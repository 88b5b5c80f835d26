"""Emulators of Google Cloud Storage and Azure, each with the connection by which the server reaches it."""

from __future__ import annotations

import importlib
import os
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import fsspec

from fitserve.ids import new_id
from tests.conftest import free_ports, listens
from tests.needs import need
from tests.waiting import wait_until

KINDS = ("gs", "az")
AZURE_KEY = "Eby8vdM02xNOcqFlqUwJPLlmEtlCDXJ1OUzFT50uSRZ6IFsuFq2UVErCz4I6tq/K1SZFPTOtr/KBHBeksoGMGw=="  # everybody's


@contextmanager
def emulated(kind: str) -> Iterator[tuple[dict[str, Any], Any, str]]:
    """Yield a connection to an empty store of a kind, its file system, and the folder that the connection names."""
    with _google() if kind == "gs" else _azure() as options:
        bucket = new_id("b").replace("_", "-")
        store = fsspec.filesystem(kind, skip_instance_cache=True, use_listings_cache=False, **options)
        store.mkdir(bucket)
        yield {"url": f"{kind}://{bucket}/data", "options": options}, store, f"{bucket}/data"


@contextmanager
def _google() -> Iterator[dict[str, Any]]:
    need("an emulator of Google Cloud Storage")
    os.environ["GCSFS_EXPERIMENTAL_ZB_HNS_SUPPORT"] = "false"  # asks over gRPC, which the emulator does not have
    server = importlib.import_module("gcp_storage_emulator.server")
    (port,) = free_ports(1)
    emulator = server.create_server("127.0.0.1", port, in_memory=True)
    emulator.start()
    try:
        yield {"endpoint_url": f"http://127.0.0.1:{port}", "token": "anon", "project": "test"}
    finally:
        emulator.stop()


@contextmanager
def _azure() -> Iterator[dict[str, Any]]:
    program = need("an emulator of Azure's storage")
    (port,) = free_ports(1)
    command = [program, "--inMemoryPersistence", "--blobPort", str(port), "--skipApiVersionCheck", "--silent"]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        wait_until(lambda: listens(port), "azurite", process=process)
        account = f"http://127.0.0.1:{port}/devstoreaccount1"
        stated = {"AccountName": "devstoreaccount1", "AccountKey": AZURE_KEY, "BlobEndpoint": account}
        named = ";".join(f"{name}={value}" for name, value in stated.items())
        yield {"connection_string": f"DefaultEndpointsProtocol=http;{named};"}
    finally:
        process.kill()
        process.wait()
