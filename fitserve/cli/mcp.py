"""`fitserve mcp`: the API as tools for a language model's client."""

from __future__ import annotations

from importlib.util import find_spec
from typing import Annotated

import typer

from fitserve.cli.server import NotInstalled, exec_module
from fitserve.cli.session import Session, command

group = typer.Typer()


@command(group, "mcp", "fitserve mcp", "fitserve mcp --http --port 8765", prints_json=False)
def mcp(
    session: Session,
    http: Annotated[
        bool, typer.Option("--http", help="Streamable HTTP at /mcp instead of stdio; each request brings its API key.")
    ] = False,
    host: Annotated[str, typer.Option(help="With --http: the address to listen on.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=1, max=65535, help="With --http: the port.")] = 8765,
) -> None:
    """Serve the API as tools of the Model Context Protocol: upload, train, diagnose, predict, promote.

    Over stdio the key is FITSERVE_API_KEY: give a model one with the scopes that it needs, from `fitserve keys create`.
    """
    for package in ("mcp", *(("httptools", "uvicorn") if http else ())):
        if find_spec(package) is None:
            fix = "Install it: pip install 'fitserve[mcp]'"
            raise NotInstalled(f"The package {package} is not installed here.", fix=fix)
    from fitserve import mcp as server

    if not http:
        server.run_stdio(session.url)
        return
    server.check_exposure(session.url, host)
    session.hint(f"MCP over HTTP: http://{host}:{port}/mcp")
    url = [] if session.url is None else ["--url", session.url]
    exec_module("services.mcp", *url, "--host", host, "--port", str(port))
