"""`fitserve mcp`, asked by the package's own client: a whole journey over stdio, keys over HTTP, 20 tasks."""

from __future__ import annotations

import asyncio
import importlib.util
import json
import os
import subprocess
import sys
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import httpx2
import pytest

from fitserve.cli.session import Exit
from fitserve.client import Client
from fitserve.errors import Forbidden
from tests.cli.conftest import Fitserve
from tests.client.scripted_server import json_reply, scripted_server
from tests.conftest import Server, free_ports, listens
from tests.waiting import PATIENCE, wait_until

if TYPE_CHECKING:  # half a second, which only the process of these tests takes
    from mcp import Client as McpClient

pytestmark = pytest.mark.skipif(importlib.util.find_spec("mcp") is None, reason="needs the extra mcp")
ROWS = "\n".join(f"{x},{x * x % 7},{'big' if x > 30 else 'small'}" for x in range(60))
NETWORK = [{"Dense": {"units": 4, "activation": "relu"}}]


def max_seconds() -> float:
    """Return how long to wait for an answer, at most as long as the tool `wait` does."""
    from fitserve.mcp import MAX_WAIT

    return min(PATIENCE, MAX_WAIT)


class Asking:
    """Calls of tools: their answers, read from JSON."""

    def __init__(self, client: McpClient) -> None:
        self.client = client

    async def __call__(self, tool: str, **arguments: Any) -> Any:
        from fitserve.mcp import MAX_CHARACTERS

        result = await self.client.call_tool(tool, arguments)
        assert not result.is_error, result.content[0].text
        text = result.content[0].text
        assert len(text) < MAX_CHARACTERS + 100
        return json.loads(text)

    async def refused(self, tool: str, **arguments: Any) -> str:
        result = await self.client.call_tool(tool, arguments)
        assert result.is_error
        return str(result.content[0].text)


def over_stdio(server: Server, work: Callable[[Asking], Awaitable[None]], key: str | None = None) -> None:
    """Start `fitserve mcp` with a key, and do some work with it."""
    from mcp import Client as McpClient
    from mcp import StdioServerParameters

    async def main() -> None:
        environment = {**os.environ, "FITSERVE_URL": server.base_url, "FITSERVE_API_KEY": key or server.token}
        command = StdioServerParameters(command=sys.executable, args=["-m", "fitserve.cli", "mcp"], env=environment)
        async with McpClient(command, read_timeout_seconds=max_seconds()) as client:
            await work(Asking(client))

    asyncio.run(main())


def test_a_whole_journey_over_stdio(server: Server, tmp_path: Path) -> None:
    from fitserve.mcp import TOOLS

    (tmp_path / "sizes.csv").write_text("x,y,size\n" + ROWS)

    async def journey(ask: Asking) -> None:
        listed = await ask.client.list_tools()
        assert [tool.name for tool in listed.tools] == list(TOOLS)
        assert all(tool.description and tool.annotations for tool in listed.tools)
        made = await ask("upload_table", name="mcp-sizes", path=str(tmp_path / "sizes.csv"))
        assert made["columns"] == {"x": "numeric", "y": "numeric", "size": "categorical"}
        again = await ask("upload_table", name="mcp-sizes", csv="x,y,size\n" + ROWS)
        assert again["dataset"] == made["dataset"]
        profile = await ask("profile_table", dataset="mcp-sizes", target="size")
        assert profile["columns"]["size"]["top"] == {"small": 31, "big": 29}
        assert profile["relations"][0]["column"] == "x"
        checked = await ask("check_spec", dataset="mcp-sizes", target="size", network=NETWORK)
        assert checked["features"] == ["x", "y"]
        spec = {"dataset": "mcp-sizes", "target": "size", "network": NETWORK, "training": {"epochs": 3}}
        started = await ask("train", **spec, model="mcp-sizes")
        run = (await ask("wait", run=started["run"], seconds=max_seconds()))["run"]
        assert (await ask("wait", run=run, seconds=0))["state"] == "succeeded"
        assert "accuracy" in (await ask("evaluate", run=run))["models"]["size"]["this network"]
        found = (await ask("findings", run=run))["findings"]
        patched = next(one for one in found if one.get("patch"))
        child = (await ask("apply_finding", run=run, n=patched["n"]))["run"]
        assert (await ask("wait", run=child, seconds=max_seconds()))["state"] == "succeeded"
        compared = await ask("compare", runs=[run, child])
        assert compared["differences of the specs, in this order"]
        promoted = await ask("promote", model="mcp-sizes", version=1)
        assert promoted["version"] == 1
        predicted = await ask("predict", model="mcp-sizes", version=1, rows=[{"x": 1, "y": 1}, {"x": 59, "y": 2}])
        assert (predicted["version"], len(predicted["predictions"])) == (1, 2)
        assert predicted["predictions"][0]["label"] in ("small", "big")
        assert (await ask("show_model", model="mcp-sizes"))["labels"] == {"champion": 1}
        assert run in [one["run"] for one in await ask("list_all", what="runs")]
        unknown = await ask.refused("train", **{**spec, "target": "seize"})
        assert "seize" in unknown
        assert "size" in unknown  # the fix
        assert "is not a number" in await ask.refused("predict", model="mcp-sizes", rows=[{"x": "wide", "y": 1}])
        assert "exactly one" in await ask.refused("upload_table", name="mcp-sizes")

    over_stdio(server, journey)


def test_over_http_each_request_brings_its_key(server: Server, tmp_path: Path) -> None:
    from mcp import Client as McpClient
    from mcp.client.streamable_http import streamable_http_client

    with Client(server.base_url, server.token) as client:
        reader = str(client.keys.create("mcp-reader", ["read"]).token)
    (port,) = free_ports(1)
    command = [sys.executable, "-m", "fitserve.cli", "--url", server.base_url, "mcp", "--http", "--port", str(port)]
    environment = {**os.environ, "FITSERVE_API_KEY": server.token}  # which must not answer for whoever has none
    log = tmp_path / "log"

    async def ask(key: str | None, tool: str, **arguments: Any) -> tuple[bool, str]:
        headers = {"Authorization": f"Bearer {key}"} if key else {}
        async with httpx2.AsyncClient(headers=headers, timeout=PATIENCE) as http:
            transport = streamable_http_client(f"http://127.0.0.1:{port}/mcp", http_client=http)
            async with McpClient(transport, read_timeout_seconds=max_seconds()) as client:
                result = await client.call_tool(tool, arguments)
                return bool(result.is_error), str(result.content[0].text)

    with log.open("wb") as sink, subprocess.Popen(command, env=environment, stdout=sink, stderr=sink) as process:
        wait_until(lambda: listens(port), "fitserve mcp listens", process=process, log=log)
        try:
            assert asyncio.run(ask(reader, "list_all", what="samples"))[0] is False
            is_error, text = asyncio.run(ask(reader, "upload_table", name="mcp-http", sample="circle"))
            assert is_error
            assert "scope" in text
            is_error, text = asyncio.run(ask(None, "list_all", what="datasets"))
            assert is_error
            assert "Authorization: Bearer" in text
            is_error, text = asyncio.run(ask(server.token, "upload_table", name="mcp-http", path="/etc/hostname"))
            assert is_error
            assert "csv text" in text
        finally:
            process.terminate()


def test_a_server_without_keys_is_not_passed_on_to_other_machines() -> None:
    from fitserve.mcp import check_exposure

    with scripted_server() as server:
        server.script = [json_reply(200, {"owner": "admin"}), json_reply(401, {"detail": "No key."})]
        for host in ("127.0.0.1", "localhost", "::1"):
            check_exposure(server.url, host)
        with pytest.raises(Forbidden, match="asks for no API key"):
            check_exposure(server.url, "0.0.0.0")
        check_exposure(server.url, "::")


def test_without_the_package_the_command_says_what_to_install(
    fitserve: Fitserve, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("fitserve.cli.mcp.find_spec", lambda name: None)
    result = fitserve("mcp", code=Exit.refused)
    assert "pip install 'fitserve[mcp]'" in result.stderr


@pytest.mark.long
def test_twenty_tasks_from_a_table_to_a_model(server: Server) -> None:
    samples = ["circle", "xor", "gauss", "spiral", "plane", "gaussian_regression", "iris", "wine", "diabetes"]

    async def tasks(ask: Asking) -> None:
        known = {one["sample"]: one["target"] for one in await ask("list_all", what="samples")}
        chosen = [name for name in samples if name in known] or list(known)
        for task in range(20):
            sample, name = chosen[task % len(chosen)], f"mcp-task-{task}"
            dataset = (await ask("upload_table", name=name, sample=sample))["dataset"]
            target = known[sample]
            await ask("profile_table", dataset=dataset, target=target)
            training = {"epochs": 10 + task, "seed": task}
            started = await ask("train", dataset=dataset, target=target, network=NETWORK, training=training, model=name)
            run = await ask("wait", run=started["run"], seconds=max_seconds())
            assert run["state"] == "succeeded", run
            assert (await ask("evaluate", run=run["run"]))["models"]
            await ask("findings", run=run["run"])
            inputs = (await ask("show_model", model=name))["inputs"]
            rows = [dict.fromkeys(inputs, 1.0)]
            assert len((await ask("predict", model=name, rows=rows))["predictions"]) == 1
            await ask("promote", model=name, version=1)

    over_stdio(server, tasks)
