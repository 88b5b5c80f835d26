"""TLS by setting, over real sockets: the API, the prediction service's REST and its gRPC."""

from __future__ import annotations

import os
import socket
import ssl
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import grpc
import httpx2
import pytest

from services.predict.protocols.proto import inference_pb2 as pb
from tests.conftest import PROJECT, free_ports
from tests.predict.toy_registry import ToyRegistry, numeric
from tests.tls.certificate import make_certificate
from tests.waiting import PATIENCE, wait_until

ROW = {"instances": [[1.0] * 6]}


@dataclass(frozen=True)
class Secured:
    api: int
    predict: int
    grpc: int
    certificate: Path
    token: str

    @property
    def headers(self) -> dict[str, str]:
        return {"Authorization": f"Bearer {self.token}"}

    def client(self, port: int) -> httpx2.Client:
        trusted = ssl.create_default_context(cafile=str(self.certificate))
        return httpx2.Client(
            base_url=f"https://localhost:{port}", verify=trusted, headers=self.headers, timeout=PATIENCE
        )


@pytest.fixture(scope="module")
def secured(tmp_path_factory: pytest.TempPathFactory, redis_url: str) -> Iterator[Secured]:
    home = tmp_path_factory.mktemp("tls")
    toys = ToyRegistry(home / "home")
    toys.register("m", numeric())
    certificate, key = make_certificate(home)
    api, predict, grpc_port = free_ports(3)
    environment = {
        **os.environ,
        **toys.settings(
            FITSERVE_PORT=str(api),
            FITSERVE_PREDICT_PORT=str(predict),
            FITSERVE_GRPC_PORT=str(grpc_port),
            FITSERVE_REDIS_URL=redis_url,
            FITSERVE_TLS_CERTIFICATE=str(certificate),
            FITSERVE_TLS_KEY=str(key),
        ),
    }
    processes = [
        subprocess.Popen([sys.executable, "-m", module], cwd=PROJECT, env=environment)
        for module in ("services.control", "services.predict")
    ]
    made = Secured(api, predict, grpc_port, certificate, toys.create_key(["predict", "read"]))
    try:
        for port in (api, predict):
            wait_secured(made, port)
        yield made
    finally:
        for process in processes:
            process.terminate()
        for process in processes:
            process.wait(PATIENCE)


def wait_secured(secured: Secured, port: int) -> None:
    def is_ready() -> bool:
        try:
            return client.get("/readyz").status_code == 200
        except httpx2.TransportError:
            return False

    with secured.client(port) as client:
        wait_until(is_ready, f"port {port}", pause=0.1)


def test_the_api_speaks_tls(secured: Secured) -> None:
    with secured.client(secured.api) as client:
        answer = client.get("/api/v1/session")
        assert answer.status_code == 200
        signed_in = client.post("/api/v1/session", json={"token": secured.token})
        assert "secure" in signed_in.headers["set-cookie"].lower()
        forwarded = client.post("/v1/models/m:predict", json=ROW)  # to the prediction service, which speaks TLS too
        assert forwarded.status_code == 200, forwarded.text


def test_the_prediction_service_speaks_tls(secured: Secured) -> None:
    with secured.client(secured.predict) as client:
        for _ in range(3):  # the fast lane begins with the second
            answer = client.post("/v1/models/m:predict", json=ROW)
            assert answer.status_code == 200, answer.text
            assert len(answer.json()["predictions"][0]) == 2


def test_grpc_speaks_tls(secured: Secured) -> None:
    credentials = grpc.ssl_channel_credentials(secured.certificate.read_bytes())
    with grpc.secure_channel(f"localhost:{secured.grpc}", credentials) as channel:
        infer = channel.unary_unary(
            "/inference.GRPCInferenceService/ModelInfer",
            request_serializer=pb.ModelInferRequest.SerializeToString,
            response_deserializer=pb.ModelInferResponse.FromString,
        )
        request = pb.ModelInferRequest(model_name="m")
        tensor = request.inputs.add(name="features", datatype="FP32", shape=[1, 6])
        tensor.contents.fp32_contents.extend([1.0] * 6)
        metadata = (("authorization", f"Bearer {secured.token}"),)
        assert infer(request, metadata=metadata, timeout=PATIENCE).model_name == "m"


@pytest.mark.parametrize("which", ["api", "predict", "grpc"])
def test_plain_text_and_old_versions_are_refused(secured: Secured, which: str) -> None:
    port = getattr(secured, which)
    with socket.create_connection(("localhost", port), PATIENCE) as plain:
        plain.sendall(b"GET /livez HTTP/1.1\r\nHost: localhost\r\n\r\n")
        plain.settimeout(PATIENCE)
        try:
            assert not plain.recv(100).startswith(b"HTTP/1.1 200")
        except ConnectionResetError:
            pass
    with socket.create_connection(("localhost", port), PATIENCE) as opened:
        context = ssl.create_default_context(cafile=str(secured.certificate))
        with context.wrap_socket(opened, server_hostname="localhost") as wrapped:
            assert wrapped.version() in ("TLSv1.2", "TLSv1.3")


def test_an_unknown_certificate_is_not_believed(secured: Secured) -> None:
    with pytest.raises(httpx2.TransportError), httpx2.Client(timeout=PATIENCE) as client:
        client.get(f"https://localhost:{secured.api}/livez")
