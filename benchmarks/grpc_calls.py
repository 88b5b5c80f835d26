"""Cost of a gRPC call relative to bare `grpc.aio`, in the server's processor time: part of `make bench-serving`.

Both sides answer ModelInfer of one row of six numbers, raw: ours predicts, the other sends the request's bytes back.

    python -m benchmarks.grpc_calls        the figures alone, as one JSON object
"""

from __future__ import annotations

import asyncio
import json
import sys
import tempfile
from pathlib import Path

import grpc
import grpc.aio
import numpy as np

from benchmarks.wrk import SERVER_CORE, median, processor_seconds, started_when
from services.predict.protocols.proto import inference_pb2 as pb
from tests.conftest import free_ports
from tests.predict.toy_registry import RunningService, ToyRegistry, numeric, run_service

METHOD = "/inference.GRPCInferenceService/ModelInfer"
CALLS, AT_ONCE, ROUNDS = 4000, 16, 5

ECHO = """
import asyncio, sys
import grpc, grpc.aio

class Echo(grpc.GenericRpcHandler):
    def service(self, details):
        return grpc.unary_unary_rpc_method_handler(answer)

async def answer(data, context):
    return data

async def main():
    server = grpc.aio.server()
    server.add_generic_rpc_handlers((Echo(),))
    server.add_insecure_port("127.0.0.1:" + sys.argv[1])
    await server.start()
    await server.wait_for_termination()

asyncio.run(main())
"""


def request_bytes() -> bytes:
    """Return a ModelInferRequest of one raw row."""
    request = pb.ModelInferRequest(model_name="m1")
    request.inputs.add(name="instances", datatype="FP32", shape=[1, 6])
    request.raw_input_contents.append(np.array([1.5, -2.25, 3.0, 0.125, 5.75, -6.5], "<f4").tobytes())
    return bytes(request.SerializeToString())


async def call(port: int, token: str | None) -> None:
    """Make CALLS calls, AT_ONCE at a time."""
    data, metadata = request_bytes(), () if token is None else (("authorization", f"Bearer {token}"),)
    async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
        method = channel.unary_unary(METHOD)

        async def several() -> None:
            for _ in range(CALLS // AT_ONCE):
                await method(data, metadata=metadata)

        await asyncio.gather(*(several() for _ in range(AT_ONCE)))


def figures(served: RunningService, folder: Path) -> dict[str, float]:
    """Return `grpc_ratio`, and the microseconds of a call on both sides."""
    (port,) = free_ports(1)
    (folder / "grpc_echo.py").write_text(ECHO)

    def answers() -> bool:
        with grpc.insecure_channel(f"127.0.0.1:{port}") as channel:
            try:
                return bool(channel.unary_unary("/x/y")(b"", timeout=2) == b"")
            except grpc.RpcError:
                return False

    spent: dict[str, list[float]] = {"ours": [], "echo": []}
    with started_when([sys.executable, "grpc_echo.py", str(port)], folder, answers, {}) as pid:
        sides = {"ours": (served.grpc_port, served.toys.token, served.process.pid), "echo": (port, None, pid)}
        for _ in range(ROUNDS):
            for name, (own, token, process) in sides.items():
                before = processor_seconds(process)
                asyncio.run(call(own, token))
                spent[name].append((processor_seconds(process) - before) / CALLS * 1e6)
    ratio = median([a / b for a, b in zip(spent["ours"], spent["echo"], strict=True)])
    us = {f"grpc_{name}_us": round(median(several), 1) for name, several in spent.items()}
    return {"grpc_ratio": round(ratio, 3), **us}


def main() -> None:
    with tempfile.TemporaryDirectory() as name:
        toys = ToyRegistry(Path(name) / "home")
        toys.register("m1", numeric())
        with run_service(toys, ("taskset", "-c", SERVER_CORE)) as served:
            print(json.dumps(figures(served, Path(name))))


if __name__ == "__main__":
    main()
