"""KServe's client; test_kserve_client runs it in another process, as its messages have the names of tritonclient's.

Arguments: URL, gRPC port, token. Prints one JSON object: the server's answers.
"""

from __future__ import annotations

import asyncio
import json
import sys

import grpc
import httpx
import numpy as np
from kserve import InferInput, InferRequest
from kserve.inference_client import InferenceGRPCClient, InferenceRESTClient, RESTConfig
from kserve.protocol.infer_type import RequestedOutput

ADM = {"gre": ("INT64", 700), "gpa": ("FP64", 3.5), "rank": ("INT32", 3), "city": ("BYTES", "Rom")}


def matrix(model: str, binary: bool = False, **more: object) -> InferRequest:
    rows = InferInput("instances", [2, 6], "FP32")
    rows.set_data_from_numpy(np.arange(12, dtype=np.float32).reshape(2, 6), binary_data=binary)
    return InferRequest(model, [rows], request_id="seven", **more)


def columns(binary: bool) -> InferRequest:
    inputs = []
    for name, (datatype, value) in ADM.items():
        inputs.append(InferInput(name, [1, 1], datatype))
        dtype = {"INT64": np.int64, "FP64": np.float64, "INT32": np.int32, "BYTES": object}[datatype]
        inputs[-1].set_data_from_numpy(np.array([[value]], dtype), binary_data=binary)
    return InferRequest("adm", inputs)


async def rest(url: str, token: str) -> dict[str, object]:
    report: dict[str, object] = {}
    headers = {"Authorization": f"Bearer {token}"}
    v2 = InferenceRESTClient(RESTConfig(protocol="v2"))
    report["live"], report["ready"] = await v2.is_server_live(url), await v2.is_server_ready(url)
    report["model_ready"] = await v2.is_model_ready(url, "m1", headers=headers)
    response_headers: dict[str, str] = {}
    answer = await v2.infer(url, matrix("m1"), "m1", headers=dict(headers), response_headers=response_headers)
    report["infer"], report["id"] = answer.outputs[0].as_numpy().tolist(), answer.id
    report["version"] = response_headers["x-model-version"]  # their REST client leaves the body's out
    binary = matrix("m1", binary=True, request_outputs=[RequestedOutput("y", {"binary_data": True})])
    answer = await v2.infer(url, binary, "m1", headers=dict(headers))
    report["binary"] = answer.outputs[0].as_numpy().tolist()
    for mode in (False, True):
        answer = await v2.infer(url, columns(mode), "adm", headers=dict(headers))
        report[f"columns_{mode}".lower()] = answer.outputs[0].as_numpy().tolist()
    v1 = InferenceRESTClient(RESTConfig(protocol="v1"))
    rows = {"instances": np.arange(12.0).reshape(2, 6).tolist()}
    report["v1"] = (await v1.infer(url, rows, "m1", headers=headers))["predictions"]
    report["explained"] = sorted((await v1.explain(url, "m1", rows, headers=headers))["explanations"][0])
    report["errors"] = []
    for model, key in (("none", headers), ("m1", {})):
        try:
            await v2.infer(url, matrix(model), model, headers=dict(key))
        except httpx.HTTPStatusError as error:
            report["errors"].append(error.response.status_code)
    await v1.close()
    await v2.close()
    return report


async def over_grpc(address: str, token: str) -> dict[str, object]:
    report: dict[str, object] = {}
    metadata = (("authorization", f"Bearer {token}"),)
    async with InferenceGRPCClient(address) as client:
        report["live"], report["ready"] = await client.is_server_live(), await client.is_server_ready()
        report["model_ready"] = await client.is_model_ready("m1", headers=metadata)
        for name, request in {"infer": matrix("m1"), "binary": matrix("m1", binary=True)}.items():
            answer = await client.infer(request, headers=metadata)
            report[name] = answer.outputs[0].as_numpy().tolist()
        report["version"], report["id"] = answer.model_version, answer.id
        report["columns"] = (await client.infer(columns(False), headers=metadata)).outputs[0].as_numpy().tolist()
        try:
            await client.infer(matrix("none"), headers=metadata)
        except grpc.RpcError as error:
            report["error"] = error.code().name
    return report


async def main(url: str, port: str, token: str) -> None:
    print(json.dumps({"rest": await rest(url, token), "grpc": await over_grpc(f"127.0.0.1:{port}", token)}))


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
