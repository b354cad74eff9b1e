"""How a program that is configured by others reaches the cluster: what Django's settings and Celery's say, as one
value.

Each part may also come from the environment, under the name that the command line uses; what the settings say goes
before it.
"""

import difflib
import os
import re
from dataclasses import dataclass
from typing import Any, Callable, Dict, List, Mapping, Optional, Sequence, Tuple, Union

from ._endpoints import Tls, check_token, parse_endpoints
from ._request import TIMEOUT_DEFAULT
from ._text import parse_span
from .client import Client

# The connection of the workers that tasks are sent through, unless the settings name another.
BROKER_DEFAULT = "celery"
NAMESPACE_DEFAULT = "default"
_NAME = re.compile(r"[a-z0-9._-]{1,128}")


class Misconfigured(ValueError):
    """Settings make no sense; `problems` has each, beginning with the name of the setting."""

    def __init__(self, problems: Sequence[str]) -> None:
        super().__init__("\n".join(problems))
        self.problems: Tuple[str, ...] = tuple(problems)


@dataclass(frozen=True)
class Options:
    """Checked settings."""

    endpoints: Optional[Tuple[str, ...]] = None
    """None: neither the settings nor the environment name any; the client assumes three nodes on this machine."""
    token: Optional[str] = None
    tls: Optional[Tls] = None
    insecure: bool = False
    """Whether the token may leave the machine in plain text."""
    timeout: float = TIMEOUT_DEFAULT
    """Seconds for a call, all tries together."""
    namespace: str = NAMESPACE_DEFAULT
    broker: str = BROKER_DEFAULT
    celery_app: Optional[str] = None
    """`module:attribute`, as `celery -A` takes it."""

    def client(self, actor: str) -> Client:
        """A client as configured, in the name of `actor`.

        Raises:
            ValueError: the parts do not go together.
            OSError: a file of `tls` cannot be read.
        """
        return Client(
            None if self.endpoints is None else list(self.endpoints),
            tls=self.tls,
            token=self.token,
            timeout=self.timeout,
            actor=actor,
            insecure=self.insecure,
        )


def read(given: Mapping[str, Any], prefix: str, environ: Optional[Mapping[str, str]] = None) -> Options:
    """Options of settings by the names ENDPOINTS, TOKEN, TLS, INSECURE, TIMEOUT, NAMESPACE, BROKER, CELERY_APP.

    Args:
        given: the settings; what is None counts as left out.
        prefix: how problems name a setting, such as `CHRONARCH["{}"]`.
        environ: where CHRONARCH_ENDPOINTS and so on are looked up; None: in the environment of the process.

    Raises:
        Misconfigured: some make no sense.
    """
    environ = os.environ if environ is None else environ
    problems: List[str] = []
    values: Dict[str, Any] = {}
    for key in given:
        if key not in _READERS:
            near = difflib.get_close_matches(str(key).upper(), _READERS, 1)
            hint = f"; did you mean {near[0]}?" if near else f"; known are {', '.join(sorted(_READERS))}"
            problems.append(f"{prefix.format(key)}: unknown setting{hint}")
    for key, reader in _READERS.items():
        value, name = given.get(key), prefix.format(key)
        if value is None:
            value, name = _of_environment(key, environ)
        if value is None:
            continue
        try:
            values[key.lower()] = reader(value)
        except ValueError as error:
            problems.append(f"{name}: {error}")
    if not problems and values.get("token") is not None:
        try:
            nodes = parse_endpoints(None if "endpoints" not in values else list(values["endpoints"]))
            check_token(values["token"], values.get("tls"), nodes, values.get("insecure", False))
        except ValueError as error:
            text = str(error).split(": ", 1)[-1].replace("`insecure=True`", "INSECURE").replace("`tls`", "TLS")
            problems.append(f"{prefix.format('TOKEN')}: {text}")
    if problems:
        raise Misconfigured(problems)
    return Options(**values)


def _of_environment(key: str, environ: Mapping[str, str]) -> Tuple[Any, str]:
    if key == "TLS":
        parts = {part: environ.get(f"CHRONARCH_TLS_{part}") for part in ("CA", "CERT", "KEY")}
        return ({part: path for part, path in parts.items() if path} or None), "CHRONARCH_TLS"
    name = f"CHRONARCH_{key}"
    return environ.get(name) or None, name


def _endpoints(value: Union[str, Sequence[str]]) -> Tuple[str, ...]:
    if not isinstance(value, (str, list, tuple)) or not all(isinstance(one, str) for one in value):
        raise ValueError(f"expected a list of HOST:PORT, or a text with commas, found {value!r}")
    return tuple(_bare(parse_endpoints, value))


def _bare(check: Callable[[Any], Any], value: Any) -> Any:
    """Problems of the client begin with the name of its own argument, which is another one here."""
    try:
        return check(value)
    except ValueError as error:
        raise ValueError(str(error).split(": ", 1)[-1]) from None


def _text(value: Any) -> str:
    if not isinstance(value, str) or not value.strip():
        raise ValueError(f"expected a text, found {value!r}")
    return value.strip()


def _name(value: Any) -> str:
    if not isinstance(value, str) or not _NAME.fullmatch(value):
        raise ValueError(f"expected a name of a-z, 0-9, `.`, `_`, `-`, found {value!r}")
    return value


def _token(value: Any) -> str:
    text = _text(value)
    if not text.isascii() or not text.isprintable():
        raise ValueError("only printable ASCII characters can be sent")
    return text


def _flag(value: Any) -> bool:
    words = {"1": True, "true": True, "yes": True, "0": False, "false": False, "no": False}
    found = words.get(str(value).strip().lower())
    if found is None:
        raise ValueError(f"expected true or false, found {value!r}")
    return found


def _seconds(value: Any) -> float:
    # A number, or text as the command line takes it: `90s`, `500ms`.
    try:
        seconds = float(value)
    except (TypeError, ValueError):
        seconds = parse_span(str(value)).total_seconds()
    if isinstance(value, bool) or not 0 < seconds < float("inf"):
        raise ValueError(f"expected seconds above 0, found {value!r}")
    return seconds


def _tls(value: Any) -> Tls:
    if isinstance(value, Tls):
        return value
    if value is True:
        return Tls()
    known = {"CA": "ca", "CERT": "cert", "KEY": "key", "SERVER_NAME": "server_name"}
    if not isinstance(value, Mapping):
        raise ValueError(f"expected a mapping with CA, CERT, KEY, SERVER_NAME, or True, found {value!r}")
    unknown = sorted(str(key) for key in value if str(key).upper() not in known)
    if unknown:
        raise ValueError(f"{', '.join(unknown)}: unknown; known are {', '.join(known)}")
    tls = Tls(**{known[str(key).upper()]: path for key, path in value.items() if path})
    if (tls.cert is None) != (tls.key is None):
        raise ValueError("CERT and KEY need one another")
    for path in (tls.ca, tls.cert, tls.key):
        if path is not None and not os.path.isfile(path):
            raise ValueError(f"there is no file {os.fspath(path)!r}")
    return tls


_READERS: Dict[str, Callable[[Any], Any]] = {
    "ENDPOINTS": _endpoints,
    "TOKEN": _token,
    "TLS": _tls,
    "INSECURE": _flag,
    "TIMEOUT": _seconds,
    "NAMESPACE": _name,
    "BROKER": _name,
    "CELERY_APP": _text,
}
