"""Where nodes listen, and how a connection to one is made."""

import ipaddress
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any, List, Optional, Sequence, Tuple, Union
from urllib.parse import urlsplit

import grpc

ENDPOINTS_DEFAULT = "127.0.0.1:7401,127.0.0.1:7402,127.0.0.1:7403"
# Endpoints of one client at most.
ENDPOINTS_MAX = 64
# The longest answer that is read, bytes; a page of 1,000 large jobs fits.
ANSWER_BYTES_MAX = 64 << 20
# Seconds that one endpoint may take to accept a connection.
CONNECT_MAX = 1.0

# Milliseconds. The library's own pauses grow to two minutes, and its retries are not ours: what is repeated is
# decided in _tries.py alone.
OPTIONS: List[Tuple[str, Any]] = [
    ("grpc.initial_reconnect_backoff_ms", 50),
    # Also the time that a connection may take.
    ("grpc.min_reconnect_backoff_ms", int(CONNECT_MAX * 1_000)),
    ("grpc.max_reconnect_backoff_ms", 500),
    ("grpc.keepalive_time_ms", 5_000),
    ("grpc.keepalive_timeout_ms", 3_000),
    ("grpc.http2.max_pings_without_data", 0),
    ("grpc.enable_retries", 0),
    # A node is spoken to directly, whatever proxy the environment names for the web.
    ("grpc.enable_http_proxy", 0),
    # A client's connections are its own, so that closing it ends them.
    ("grpc.use_local_subchannel_pool", 1),
    ("grpc.max_receive_message_length", ANSWER_BYTES_MAX),
    ("grpc.max_send_message_length", ANSWER_BYTES_MAX),
    ("grpc.primary_user_agent", "chronarch-python"),
]

PathText = Union[str, "os.PathLike[str]"]


@dataclass(frozen=True)
class Tls:
    """How connections are encrypted: paths of PEM files."""

    ca: Optional[PathText] = None
    """Authorities that the nodes' certificates are checked against; None: those that gRPC ships with."""
    cert: Optional[PathText] = None
    """This client's certificate, where nodes ask for one; with `key`."""
    key: Optional[PathText] = None
    server_name: Optional[str] = None
    """The name in the nodes' certificates, where it is not the host of the endpoint."""

    def credentials(self) -> grpc.ChannelCredentials:
        """Reads the files.

        Raises:
            OSError: one of them cannot be read.
            ValueError: there is a certificate without a key, or a key without a certificate.
        """
        if (self.cert is None) != (self.key is None):
            raise ValueError("tls: `cert` and `key` need one another")

        def text(path: Optional[PathText]) -> Optional[bytes]:
            return None if path is None else Path(path).read_bytes()

        return grpc.ssl_channel_credentials(text(self.ca), text(self.key), text(self.cert))

    def options(self) -> List[Tuple[str, Any]]:
        """Of a channel, beside those of every channel."""
        return [("grpc.ssl_target_name_override", self.server_name)] if self.server_name else []


def parse_endpoints(given: Union[str, Sequence[str], None]) -> List[str]:
    """The endpoints `host:port` of a list, or of a text with commas; None: of CHRONARCH_ENDPOINTS.

    Raises:
        ValueError: one of them is not `host:port`, or there are none, or more than ENDPOINTS_MAX.
    """
    if given is None:
        given = os.environ.get("CHRONARCH_ENDPOINTS") or ENDPOINTS_DEFAULT
    texts = given.split(",") if isinstance(given, str) else list(given)
    if not 1 <= len(texts) <= ENDPOINTS_MAX:
        raise ValueError(f"endpoints: {len(texts)} given, expected 1 to {ENDPOINTS_MAX}")
    return [_endpoint(text) for text in texts]


def _endpoint(text: str) -> str:
    bare = text.strip()
    for scheme in ("http://", "https://"):
        if bare.startswith(scheme):
            bare = bare[len(scheme) :].rstrip("/")
    try:
        parts = urlsplit(f"//{bare}")
        complete = bool(parts.hostname) and bool(parts.port) and not parts.path and "@" not in bare
    except ValueError:
        complete = False
    if not complete or any(character.isspace() for character in bare):
        raise ValueError(f"endpoints: `{text}` is not HOST:PORT, such as 127.0.0.1:7401")
    return bare


def check_token(
    token: Optional[str],
    tls: Optional[Tls],
    endpoints: Sequence[str],
    insecure: bool,
    ways: Tuple[str, str] = ("`tls`", "`insecure=True`"),
) -> None:
    """A token is a secret: it does not leave the machine in plain text unless that is asked for.

    Args:
        token, tls, endpoints, insecure: as of a client.
        ways: how `tls` and `insecure` are called where they were given.

    Raises:
        ValueError: it would.
    """
    if token is None:
        return
    if not token.isascii() or not token.isprintable():
        raise ValueError("token: only printable ASCII characters can be sent")
    if tls is None and not insecure:
        for endpoint in endpoints:
            if not _is_loopback(urlsplit(f"//{endpoint}").hostname or ""):
                raise ValueError(f"token: {endpoint} would be sent it in plain text; give {ways[0]}, or {ways[1]}")


def _is_loopback(host: str) -> bool:
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def metadata(token: Optional[str]) -> Tuple[Tuple[str, Union[str, bytes]], ...]:
    """What goes with each request."""
    return () if token is None else (("authorization", f"Bearer {token}"),)
