"""Connections that the operator names. Clients refer to them by name, and never see an address or password.

`FITSERVE_CONNECTIONS` or the file `FITSERVE_CONNECTIONS_FILE` holds them as one YAML or JSON mapping. The file is read
at each import, so a changed password needs no restart.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl, quote, unquote, urlsplit, urlunsplit

import yaml
from pydantic import ConfigDict, Field, SecretStr, ValidationError, field_validator

from fitserve.data_model import DataModel
from fitserve.errors import BadInput, FitserveError, Problem, Unavailable
from fitserve.settings import Settings
from fitserve.validation import unknown_name
from fitserve.wire.sources import ConnectionInfo

FILE_SCHEMES = ("s3", "gs", "az")
SECRET_WORDS = (
    "key",
    "secret",
    "token",
    "password",
    "credential",
    "authorization",
    "pwd",
    "odbc_connect",
)  # in the names of options whose values are secret
_HOST = re.compile(r"(\[[^\[\]]*\]|[^:\[\]]*)(:\d*)?")


class BadConnections(FitserveError):
    """The operator's connections cannot be read."""

    slug = "bad-connections"
    title = "Connections cannot be read"


class SourceRefused(BadInput):
    """The source refuses, and asking again would not help."""

    slug = "source-refused"
    title = "Source refused"


class NamedConnection(DataModel):
    """A connection as the operator has configured it."""

    model_config = ConfigDict(extra="forbid")

    url: SecretStr = Field(description="postgresql://user@host/database, another SQLAlchemy URL, or s3://bucket/folder")
    password: SecretStr | None = None
    password_file: Path | None = None
    options: dict[str, Any] = Field(default_factory=dict, description="Of fsspec's file system, such as key and secret")
    owners: list[str] | None = Field(None, description="Who may use it; everybody if omitted")
    statement_seconds: float = Field(600, gt=0, le=86_400)
    writable: bool = Field(False, description="Whether batch predictions may be written through it")

    @field_validator("url")
    @classmethod
    def _check_url(cls, url: SecretStr) -> SecretStr:
        if ":" not in (text := url.get_secret_value()):
            raise ValueError("A connection's url begins with its scheme, such as postgresql://.")
        try:
            authority = urlsplit(text).netloc
        except ValueError:
            authority = ":@@"
        # A password with such signs would be read as a host or a port, which drivers name in their messages.
        hosts = authority.rpartition("@")[2].split(",")
        if authority.count("@") > 1 or not all(_HOST.fullmatch(host) for host in hosts):
            raise ValueError(
                "Its host and port cannot be read. Put the password into `password` or `password_file`, or write signs"
                " such as / @ : # in it as %2F %40 %3A %23."
            )
        return url

    def is_open_to(self, owner: str) -> bool:
        """Return whether an owner may use it."""
        return self.owners is None or owner in self.owners

    @property
    def scheme(self) -> str:
        """The URL's scheme without a driver: `mysql` of `mysql+pymysql`."""
        scheme = self.url.get_secret_value().partition(":")[0].partition("+")[0].lower()
        return "postgresql" if scheme == "postgres" else scheme

    @property
    def sources(self) -> list[str]:
        """The kinds of sources that can use this connection."""
        if self.scheme in FILE_SCHEMES:
            return [self.scheme, "delta"]
        return {"file": ["delta"], "https": ["https"], "http": ["https"]}.get(self.scheme, ["sql"])

    def below(self, path: str, pointer: str) -> str:
        """Return the address of a path below the connection's folder. Raises BadInput for a path that leaves it."""
        if path.startswith("/") or "" in path.rstrip("/").split("/") or leaves_its_folder(path):
            what = "A path is below the connection's folder: it has neither `..` nor empty parts."
            raise BadInput(what, problems=[Problem(what, pointer, received=path[:120], expected="2026/*.parquet")])
        return f"{self.url.get_secret_value().rstrip('/')}/{path.rstrip('/')}"

    @property
    def full_url(self) -> str:
        """The URL with its password. Raises BadConnections."""
        password = self._password
        if password is None:
            return self.url.get_secret_value()
        parts = urlsplit(self.url.get_secret_value())
        user, _, host = parts.netloc.rpartition("@")
        user = user.partition(":")[0]
        return urlunsplit(parts._replace(netloc=f"{user}:{quote(password, safe='')}@{host}"))

    @property
    def hosts(self) -> list[str]:
        """The hosts that its URL names, or for an object store its endpoint."""
        address = self.url.get_secret_value()
        if self.scheme in FILE_SCHEMES:
            client = self.options.get("client_kwargs")
            named = self.options.get("endpoint_url") or (client if isinstance(client, dict) else {}).get("endpoint_url")
            address = named if isinstance(named, str) else ""
        elif self.scheme == "sqlite" or "://" not in address:
            return []
        authority = urlsplit(address).netloc.rpartition("@")[2]
        found = [match[1].strip("[]") for host in authority.split(",") if (match := _HOST.fullmatch(host))]
        return [host for host in found if host and "%" not in host]  # %2F begins the path of a socket

    @property
    def _password(self) -> str | None:
        if self.password_file is not None:
            try:
                return self.password_file.read_text().strip()
            except OSError as error:
                raise BadConnections(f"A connection's password file cannot be read: {error.strerror}.") from None
        return None if self.password is None else self.password.get_secret_value()

    def redact(self, text: str) -> str:
        """Return a message of a driver without this connection's secrets, on one line."""
        parts = urlsplit(self.url.get_secret_value())
        secrets = {self._password, parts.password, unquote(parts.password or ""), self.url.get_secret_value()}
        named = [*_flat(self.options), *((name.lower(), value) for name, value in parse_qsl(parts.query))]
        secrets |= {value for name, value in named if any(word in name for word in SECRET_WORDS)}
        for secret in sorted((s for s in secrets if s), key=len, reverse=True):
            text = text.replace(secret, "***").replace(quote(secret, safe=""), "***")
        return " ".join(text.split())[:400]


# Drivers that SQLAlchemy reaches databases by: the beginning of a URL, and the package.
_DRIVERS = {
    "mysql": ("mysql+pymysql://", "pymysql"),
    "mariadb": ("mariadb+pymysql://", "pymysql"),
    "oracle": ("oracle+oracledb://", "oracledb"),
    "mssql": ("mssql+pymssql://", "pymssql"),
    "postgresql": ("postgresql://", "psycopg[binary]"),
}


def driver_missing(connection: NamedConnection, module: str | None) -> Unavailable:
    """Return the error of a database whose driver is not installed, with the command that brings one."""
    url, package = _DRIVERS.get(connection.scheme, ("", module or "its driver"))
    written = f", and the connection's url begins with {url}" if url else ""
    fix = f"Ask the operator to install a driver beside fitserve (pip install {package}){written}."
    return Unavailable(f"The driver of {connection.scheme} is not installed: {module}.", fix=fix)


def leaves_its_folder(path: str) -> bool:
    """Return whether a part is `.` or `..`, or holds a backslash, also after unquoting, which some stores do."""
    while (plain := unquote(path)) != path:
        path = plain
    return "\\" in path or not {".", ".."}.isdisjoint(path.split("/"))


def _flat(options: Any, name: str = "") -> list[tuple[str, str]]:
    if isinstance(options, dict):
        return [pair for key, value in options.items() for pair in _flat(value, str(key).lower())]
    return [(name, options)] if isinstance(options, str) else []


def load(settings: Settings) -> dict[str, NamedConnection]:
    """Return all connections by name. Raises BadConnections, which shows no value."""
    texts = [] if settings.connections is None else [settings.connections.get_secret_value()]
    if settings.connections_file is not None:
        try:
            texts.append(settings.connections_file.read_text())
        except OSError as error:
            raise BadConnections(f"FITSERVE_CONNECTIONS_FILE cannot be read: {error.strerror}.") from None
    connections: dict[str, NamedConnection] = {}
    for text in texts:
        try:
            stated = yaml.safe_load(text) or {}
        except yaml.YAMLError:
            raise BadConnections("The connections are neither YAML nor JSON.") from None
        if not isinstance(stated, dict):
            raise BadConnections("The connections are a mapping of names.", expected="{warehouse: {url: ...}}")
        for name, value in stated.items():
            try:
                connections[str(name)] = NamedConnection.model_validate(value)
            except ValidationError as error:
                first = error.errors(include_input=False, include_url=False)[0]
                where = ".".join(str(key) for key in first["loc"])
                raise BadConnections(f"Connection {name!r}: {where}: {first['msg']}") from None
    return connections


def visible(settings: Settings, owner: str | None) -> list[ConnectionInfo]:
    """Return the connections that an owner may use; for owner None, all of them."""
    return [
        ConnectionInfo(name=name, kind=one.scheme, sources=one.sources, writable=one.writable)
        for name, one in sorted(load(settings).items())
        if owner is None or one.is_open_to(owner)
    ]


def find(settings: Settings, name: str, kind: str, owner: str, pointer: str | None = None) -> NamedConnection:
    """Return the connection of a name for a kind of source or destination. Raises BadInput with a pointer."""
    pointer = pointer or f"/source/{kind}/connection"
    allowed = {key: one for key, one in load(settings).items() if one.is_open_to(owner)}
    fitting = [key for key, one in allowed.items() if kind in one.sources]
    if name not in allowed:
        fix = "The operator names connections in FITSERVE_CONNECTIONS_FILE."
        problem = unknown_name(f"There is no connection {name!r}.", name, fitting, pointer, fix=fix)
        raise BadInput(problem.detail, problems=[problem])
    connection = allowed[name]
    if kind not in connection.sources:
        what = f"The connection {name!r} is for {' and '.join(connection.sources)}, not for {kind}."
        problem = Problem(what, pointer, received=name, expected=", ".join(fitting) or "a connection of that kind")
        raise BadInput(what, problems=[problem])
    return connection
