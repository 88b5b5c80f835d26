"""nginx with the files of deploy/nginx, in front of services of this machine."""

from __future__ import annotations

import re
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path

from tests.conftest import PROJECT

DEPLOY = PROJECT / "deploy" / "nginx"


def version(nginx: str) -> tuple[int, ...]:
    """Return the version of a program, such as (1, 28, 0)."""
    said = subprocess.run([nginx, "-v"], capture_output=True, text=True, check=True).stderr
    return tuple(int(part) for part in said.rpartition("/")[2].split()[0].split("."))


def configuration(
    nginx: str,
    folder: Path,
    listen: Sequence[str],
    addresses: Mapping[str, Sequence[str]],
    kind: str = "http",
    access_log: str = "off",
) -> Path:
    """Write deploy's configuration into `folder`, and return the path of the main file.

    `listen` is the address for HTTP, and one more for gRPC, which releases before 1.25.1 cannot have on the same one.
    `addresses` are those of `api`, `predict` and `grpc`.
    """
    release = version(nginx)
    upstreams = _read("upstreams.conf.template").replace("${NGINX_LOCAL_RESOLVERS}", "127.0.0.1")
    for name, several in addresses.items():
        listed = " ".join(f"server {one} fail_timeout=3s;" for one in several)
        upstreams = upstreams.replace(f"server ${{FITSERVE_{name.upper()}_ADDRESS}} resolve fail_timeout=3s;", listed)
    server = _read(f"{kind}.conf.template").replace("${FITSERVE_PROXY_PORT}", listen[0])
    if release < (1, 25, 1):
        secure = " ssl" if kind == "https" else ""
        server = server.replace("http2 on;", f"listen {listen[1]}{secure} http2;")
    else:
        server = server.replace("http2 on;", f"http2 on;\n    listen {listen[1]}{' ssl' if kind == 'https' else ''};")
    assert "${" not in upstreams + server
    (folder / "fitserve").mkdir()
    (folder / "fitserve" / "routes.conf").write_text((DEPLOY / "routes.conf").read_text())
    kinds = ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")  # by default in places that need root
    lines = [
        f"daemon off;\npid {folder}/pid;\nerror_log {folder}/error.log;\nworker_processes 1;",
        "events { worker_connections 8192; }\nhttp {",
        f"access_log {access_log};\nkeepalive_timeout 65;",
        *(f"{one}_temp_path {folder}/{one};" for one in kinds),
        *(upstreams, server, "}\n"),
    ]
    path = folder / "nginx.conf"
    path.write_text("\n".join(lines))
    return path


def _read(name: str) -> str:
    return re.sub(r"(?m)^#.*\n", "", (DEPLOY / name).read_text())
