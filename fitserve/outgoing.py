"""HTTP requests to addresses that clients name: webhooks, and tables that are fetched.

Such a request must not reach addresses that only this server can reach (server-side request forgery). The name is
therefore resolved here, all of its addresses are checked, and the connection goes to a checked address without
resolving the name again, so that DNS rebinding has no effect. Only networks that the operator allows
(`FITSERVE_OUTGOING_NETWORKS`) are exempt. Proxies of the environment are not used.
"""

from __future__ import annotations

import http.client
import ipaddress
import re
import socket
import ssl
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cached_property
from urllib.parse import SplitResult, urljoin, urlsplit

from fitserve import name_resolution
from fitserve.errors import BadInput, FitserveError

Address = ipaddress.IPv4Address | ipaddress.IPv6Address
Network = ipaddress.IPv4Network | ipaddress.IPv6Network
Resolve = Callable[[str, int, float], Sequence[str]]  # host, port, seconds

MAX_URL = 2048  # characters
CHUNK = 65_536  # bytes of a response that are read at a time
CONNECT_SECONDS = 10.0  # for each address of a name
CHECK_SECONDS = 2.0  # to resolve the name of a URL that is checked but not requested
_checks = threading.BoundedSemaphore(8)  # such checks at once
# Headers that hold no secret. Any other one, such as `X-Api-Key` or `PRIVATE-TOKEN`, may.
_WITHOUT_SECRETS = frozenset(
    {"user-agent", "accept", "accept-encoding", "content-type", "range", "if-range", "if-none-match"}
)
_PORTS = {"https": 443, "http": 80}

# Not the public Internet, by IANA's registries of special-purpose addresses. Python's `is_global` differs between its
# releases, and holds addresses to be global that carry a private one (6to4, NAT64).
_FORBIDDEN_V4 = [
    ipaddress.IPv4Network(network)
    for network in (
        *("0.0.0.0/8", "10.0.0.0/8", "100.64.0.0/10", "127.0.0.0/8", "169.254.0.0/16", "172.16.0.0/12"),
        *("192.0.0.0/24", "192.0.2.0/24", "192.31.196.0/24", "192.52.193.0/24", "192.88.99.0/24", "192.168.0.0/16"),
        *("192.175.48.0/24", "198.18.0.0/15", "198.51.100.0/24", "203.0.113.0/24", "224.0.0.0/4", "240.0.0.0/4"),
        "168.63.129.16/32",  # Azure's platform, which answers virtual machines only
    )
]
_PUBLIC_V6 = ipaddress.IPv6Network("2000::/3")
_FORBIDDEN_V6 = [
    ipaddress.IPv6Network(network)
    for network in ("2001::/23", "2001:db8::/32", "2002::/16", "2620:4f:8000::/48", "3fff::/20")
]
_CARRIES_V4 = [ipaddress.IPv6Network(network) for network in ("::ffff:0:0/96", "64:ff9b::/96")]

_NAME = re.compile(r"(?!-)[a-z0-9_-]{1,63}(?<!-)(?>(\.(?!-)[a-z0-9_-]{1,63}(?<!-))*)")
_DOTTED = re.compile(r"(0|[1-9]\d{0,2})(\.(0|[1-9]\d{0,2})){3}")


class ForbiddenAddress(BadInput):
    """Requests to this address are not allowed."""

    slug = "forbidden-address"
    title = "Forbidden address"


class NoAnswer(FitserveError):
    """The other side did not answer."""

    status = 502
    slug = "no-answer"
    title = "No answer"


@dataclass(frozen=True, slots=True)
class OutgoingUrl:
    """A URL whose form was checked: where it leads is known once its host is resolved."""

    url: str
    scheme: str
    host: str  # a name, or an address without brackets
    port: int
    path: str  # with its query

    @property
    def host_header(self) -> str:
        host = f"[{self.host}]" if ":" in self.host else self.host
        return host if self.port == _PORTS[self.scheme] else f"{host}:{self.port}"


@dataclass(slots=True)
class Response:
    """The answer to a request, while its connection is open. Iterate over it to read the body."""

    url: str  # after redirects
    status: int
    headers: http.client.HTTPMessage
    _raw: http.client.HTTPResponse
    _deadline: _Deadline

    def __iter__(self) -> Iterator[bytes]:
        # returns whatever has arrived, without waiting for a full chunk
        while chunk := self._received(self._raw.read1, CHUNK):
            yield chunk

    def read(self, most: int) -> bytes:
        """Return the first bytes of the body, `most` at the most."""
        return self._received(self._raw.read, most)

    def _received(self, read: Callable[[int], bytes], size: int) -> bytes:
        with self._deadline.explained():
            data = read(size)
            if not data and self._raw.length:
                raise http.client.IncompleteRead(data, self._raw.length)
            return data


@dataclass
class Outgoing:
    """Makes requests to addresses that clients name, and refuses those that they must not reach."""

    networks: str = ""  # allowed private networks, comma-separated
    resolve: Resolve = field(default=lambda *asked: _resolve(*asked))

    @cached_property
    def allowed(self) -> tuple[Network, ...]:
        """The networks that the operator allows. Raises ValueError."""
        return tuple(ipaddress.ip_network(text.strip()) for text in self.networks.split(",") if text.strip())

    @cached_property
    def _tls(self) -> ssl.SSLContext:
        return ssl.create_default_context()  # verifies chain and host name; SSL_CERT_FILE names other authorities

    def check(self, url: str, pointer: str | None = None) -> None:
        """Raise ForbiddenAddress unless the URL may be requested.

        A name passes if no address is found within CHECK_SECONDS, because each request is checked again.
        """
        target = parse(url, pointer)
        if not _checks.acquire(blocking=False):  # slow names must not hold the threads of other clients
            return
        try:
            self.addresses(target, pointer, CHECK_SECONDS)
        except NoAnswer:
            return
        finally:
            _checks.release()

    def addresses(
        self, target: OutgoingUrl, pointer: str | None = None, seconds: float = name_resolution.SECONDS
    ) -> list[str]:
        """Return the addresses to connect to. Raises ForbiddenAddress where one is forbidden, NoAnswer without any."""
        literal = _literal(target.host)
        addresses = [str(literal)] if literal is not None else list(self.resolve(target.host, target.port, seconds))
        if not addresses:
            raise NoAnswer(f"The name {target.host} has no address.", received=target.host)
        for text in addresses:
            self._check_address(target, ipaddress.ip_address(text.partition("%")[0]), pointer)
        return addresses

    def _check_address(self, target: OutgoingUrl, address: Address, pointer: str | None) -> None:
        carried = _embedded_ipv4(address)
        for one in (address, carried):
            if one is not None and any(one in network for network in self.allowed if network.version == one.version):
                return
        if not _is_public(carried or address):
            raise _forbidden(target.url, pointer, "It leads to an address that is not on the public Internet.")
        if target.scheme != "https":
            raise _forbidden(target.url, pointer, "Plain http is used in the operator's own networks only.")
        if target.port < 1024 and target.port != 443:
            raise _forbidden(target.url, pointer, f"Port {target.port} belongs to another protocol.")

    @contextmanager
    def request(
        self,
        method: str,
        url: str,
        *,
        headers: Mapping[str, str] | None = None,
        body: bytes | None = None,
        seconds: float = 30.0,
        silence: float | None = None,
        redirects: int = 0,
        pointer: str | None = None,
    ) -> Iterator[Response]:
        """Make a request, and yield its response; all of it takes at most `seconds`, of which `silence` without a byte.

        Each of up to `redirects` redirects is checked like the first address; one more, or any with `redirects=0`, is
        answered as it is. Headers that may hold a secret are not sent on to another origin. Raises ForbiddenAddress,
        NoAnswer.
        """
        deadline = _Deadline(seconds, silence)
        sent = {"User-Agent": "fitserve", "Accept-Encoding": "identity", **(headers or {})}
        with deadline:
            for hop in range(redirects + 1):
                target = parse(url, pointer)
                connection, raw = self._answer(method, target, sent, body, deadline, pointer)
                try:
                    location = raw.getheader("Location") if raw.status in (301, 302, 303, 307, 308) else None
                    if location is None or hop == redirects:
                        yield Response(url, raw.status, raw.msg, raw, deadline)
                        return
                finally:
                    connection.close()
                url = _redirected(target, location, pointer)
                if parse(url, pointer).host_header != target.host_header:
                    sent = {name: value for name, value in sent.items() if name.lower() in _WITHOUT_SECRETS}
                if raw.status == 303:
                    method, body = "GET", None

    def _answer(
        self,
        method: str,
        target: OutgoingUrl,
        headers: Mapping[str, str],
        body: bytes | None,
        deadline: _Deadline,
        pointer: str | None,
    ) -> tuple[http.client.HTTPConnection, http.client.HTTPResponse]:
        with deadline.explained():
            addresses = self.addresses(target, pointer, min(name_resolution.SECONDS, deadline.left()))
            connection = _Pinned(target, addresses, self._tls if target.scheme == "https" else None, deadline)
            try:
                connection.request(method, target.path, body, {"Host": target.host_header, **headers})
                return connection, connection.getresponse()
            except BaseException:
                connection.close()
                raise


def parse(url: str, pointer: str | None = None) -> OutgoingUrl:
    """Return a URL's parts. Raises ForbiddenAddress if two parsers could read different hosts in it."""
    if len(url) > MAX_URL or not url.isascii() or re.search(r"[\x00-\x20\x7f\\]", url):
        raise _forbidden(url, pointer, "It holds blanks, backslashes or other than ASCII, or is too long.")
    try:
        parts: SplitResult = urlsplit(url)
        port, host = parts.port, (parts.hostname or "").removesuffix(".")
    except ValueError as error:
        raise _forbidden(url, pointer, "It cannot be read.") from error
    if parts.scheme not in _PORTS:
        raise _forbidden(url, pointer, "Its scheme is not https.")
    if "@" in parts.netloc:
        raise _forbidden(url, pointer, "It holds a user name.")
    bracketed = parts.netloc.startswith("[")
    if bracketed != (":" in host) or (_literal(host) is None and not _NAME.fullmatch(host)):
        raise _forbidden(url, pointer, "Its host is not a name or an address in its usual form.")
    if _literal(host) is None and _ends_in_number(host):
        raise _forbidden(url, pointer, "Its host is a number: write an address as four decimal numbers.")
    path = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
    return OutgoingUrl(url, parts.scheme, host, port or _PORTS[parts.scheme], path)


def _literal(host: str) -> Address | None:
    """Return the normalised address if the host is a literal address; None for a name."""
    if ":" in host:
        try:
            return None if "%" in host else ipaddress.IPv6Address(host)
        except ValueError:
            return None
    try:
        return ipaddress.IPv4Address(host) if _DOTTED.fullmatch(host) else None
    except ValueError:
        return None


def _ends_in_number(host: str) -> bool:
    """Return whether some parser would read a host as IPv4: octal, hexadecimal, shortened or one number."""
    last = host.rpartition(".")[2]
    return last.isdigit() or re.fullmatch(r"0x[0-9a-f]*", last) is not None


def _embedded_ipv4(address: Address) -> Address | None:
    """Return the IPv4 address embedded in an IPv6 address (6to4, NAT64, ...), if any."""
    if isinstance(address, ipaddress.IPv6Address) and any(address in network for network in _CARRIES_V4):
        return ipaddress.IPv4Address(int(address) & 0xFFFFFFFF)
    return None


def _is_public(address: Address) -> bool:
    if isinstance(address, ipaddress.IPv4Address):
        return not any(address in network for network in _FORBIDDEN_V4)
    return address in _PUBLIC_V6 and not any(address in network for network in _FORBIDDEN_V6)


def _forbidden(url: str, pointer: str | None, why: str) -> ForbiddenAddress:
    return ForbiddenAddress(
        f"Requests to this address are not allowed. {why}",
        pointer=pointer,
        received=url[:200],
        expected="an https address on the public Internet",
        fix="Ask the operator to allow its network in FITSERVE_OUTGOING_NETWORKS.",
    )


def _redirected(target: OutgoingUrl, location: str, pointer: str | None) -> str:
    try:
        url = urljoin(target.url, location)
    except ValueError:  # `https://[`
        raise _forbidden(location, pointer, "It redirects to what cannot be read.") from None
    if target.scheme == "https" and parse(url, pointer).scheme != "https":
        raise _forbidden(url, pointer, "An https address redirects to a plain one.")
    return url


def _resolve(host: str, port: int, seconds: float) -> list[str]:
    """Return every address of a name. Raises NoAnswer."""
    try:
        return name_resolution.addresses(host, port, seconds)
    except OSError as error:
        why = f" within {seconds:.3g} s" if isinstance(error, TimeoutError) else ""
        raise NoAnswer(f"The name {host} cannot be resolved{why}.", received=host) from error


class _Deadline:
    """Ends a request after its time, even if the other side keeps sending a byte now and then."""

    def __init__(self, seconds: float, silence: float | None = None) -> None:
        self._ends_at = time.monotonic() + seconds
        self._seconds, self._silence = seconds, seconds if silence is None else silence
        self._socket: socket.socket | None = None
        self._timer = threading.Timer(seconds, self._cut)
        self._timer.daemon = True

    def __enter__(self) -> None:
        self._timer.start()

    def __exit__(self, *_: object) -> None:
        self._timer.cancel()

    def left(self) -> float:
        """Return the seconds left. Raises NoAnswer where there are none."""
        if (left := self._ends_at - time.monotonic()) <= 0:
            raise NoAnswer(f"No answer within {self._seconds:g} s.")
        return left

    def watch(self, opened: socket.socket) -> None:
        self._socket = opened
        opened.settimeout(min(self.left(), self._silence))

    def _cut(self) -> None:
        try:
            if self._socket is not None:
                socket.socket.shutdown(self._socket, socket.SHUT_RDWR)  # an SSLSocket's own would also forget its state
        except OSError:
            pass  # it is closed already

    @contextmanager
    def explained(self) -> Iterator[None]:
        """Raise NoAnswer, with a reason that names nothing but the request's own, where a connection fails."""
        try:
            yield
            self.left()  # a socket that was cut reads as one that ended
        except ssl.SSLCertVerificationError as error:
            raise NoAnswer(f"Its TLS certificate is not valid: {error.verify_message}.") from error
        except ssl.SSLError as error:
            raise NoAnswer("TLS failed.") from error
        except (OSError, http.client.HTTPException, ValueError) as error:  # ValueError: the length of a chunk
            self.left()
            if isinstance(error, TimeoutError):
                raise NoAnswer("The connection timed out.") from error
            reason = "The connection was refused." if isinstance(error, ConnectionRefusedError) else None
            raise NoAnswer(reason or "The connection broke, or what came back is not HTTP.") from error


class _Pinned(http.client.HTTPConnection):
    """A connection to one of the addresses that were checked. TLS verifies the name that the URL has."""

    def __init__(self, target: OutgoingUrl, addresses: Sequence[str], tls: ssl.SSLContext | None, deadline: _Deadline):
        super().__init__(target.host, target.port)
        self._target, self._addresses, self._context, self._deadline = target, addresses, tls, deadline

    def connect(self) -> None:
        self.sock = self._connected()
        self._deadline.watch(self.sock)
        if self._context is not None:
            # The handshake follows once the deadline knows this socket: wrapping has taken the first one's place.
            wrapped = self._context.wrap_socket(
                self.sock, server_hostname=self._target.host, do_handshake_on_connect=False
            )
            self.sock = wrapped
            self._deadline.watch(wrapped)
            wrapped.do_handshake()

    def _connected(self) -> socket.socket:
        failure: OSError | None = None
        for address in self._addresses:
            try:
                return socket.create_connection(
                    (address, self._target.port), min(CONNECT_SECONDS, self._deadline.left())
                )
            except OSError as error:
                failure = error
        raise failure or OSError("no address")
