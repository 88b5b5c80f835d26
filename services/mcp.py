"""`python -m services.mcp`: tools for language models over HTTP, as `fitserve mcp --http` starts them.

Connections have the limits of the other services, by the same settings. FastAPI and the database are not needed.
"""

from __future__ import annotations

import argparse
import sys

import uvicorn

from fitserve import mcp
from fitserve.settings import Settings
from services.connections import SweepingServer, limited


def make_server(base_url: str | None, host: str, port: int, settings: Settings) -> SweepingServer:
    """Return a server of the tools at `http://host:port/mcp`, for the fitserve at `base_url`."""
    config = uvicorn.Config(
        mcp.make_http_app(base_url, host),
        host=host,
        port=port,
        http=limited(settings),
        ws="none",
        log_level="warning",
        server_header=False,
        proxy_headers=bool(settings.trusted_proxies),
        forwarded_allow_ips=settings.trusted_proxies,
        timeout_keep_alive=30,
        timeout_graceful_shutdown=10,
    )
    return SweepingServer(config)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--url")
    parser.add_argument("--host", required=True)
    parser.add_argument("--port", required=True, type=int)
    args = parser.parse_args()
    make_server(args.url, args.host, args.port, Settings()).run()
    return 0


if __name__ == "__main__":
    sys.exit(main())
