"""How a program that is configured by others reaches the cluster: what a command line, Celery's configuration, Flask's
and Django's settings say, as one value.

Each of them is a layer, and what an upper one says goes before what a lower one does; the lowest is the environment.
What makes no sense is told by the name that it has where it was said.
"""

import difflib
import os
import re
from dataclasses import dataclass
from typing import Any, Callable, Collection, Dict, List, Mapping, NamedTuple, Optional, Sequence, Tuple, Union

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


class Layer(NamedTuple):
    """One place where settings are."""

    given: Mapping[str, Any]
    """By the names ENDPOINTS, TOKEN, TLS (a mapping with CA, CERT, KEY, SERVER_NAME), INSECURE, TIMEOUT, NAMESPACE,
    BROKER, CELERY_APP; what is None counts as left out."""
    named: Callable[..., str]
    """How a setting, and a part of one, is called there."""


def in_environment(*path: str) -> str:
    """`CHRONARCH_TLS_CA`; also of Flask's configuration."""
    return "_".join(("CHRONARCH", *path))


def in_celery(key: str, *parts: str) -> str:
    """`chronarch_tls["CA"]`."""
    return f"chronarch_{key.lower()}" + "".join(f'["{part}"]' for part in parts)


def in_django(*path: str) -> str:
    """`CHRONARCH["TLS"]["CA"]`."""
    return "CHRONARCH" + "".join(f'["{part}"]' for part in path)


def on_command_line(*path: str) -> str:
    """`--tls-ca`."""
    return "--" + "-".join(path).lower().replace("_", "-")


def flat(variables: Mapping[str, Any]) -> Dict[str, Any]:
    """What a layer has of variables by the names CHRONARCH_ENDPOINTS, CHRONARCH_TLS_CA and so on; what is empty counts
    as left out."""

    def of(name: str) -> Any:
        value = variables.get(name)
        return None if value == "" else value

    parts = {part: of(in_environment("TLS", part)) for part in ("CA", "CERT", "KEY")}
    found = {key: of(in_environment(key)) for key in KEYS if key != "TLS"}
    return {**found, "TLS": {part: path for part, path in parts.items() if path is not None} or None}


def read(
    layers: Sequence[Layer], environ: Optional[Mapping[str, str]] = None, *, keys: Optional[Collection[str]] = None
) -> Options:
    """Options of settings.

    Args:
        layers: from the uppermost to the lowest.
        environ: what lies below all of them; None: the environment of the process.
        keys: those that matter; None: all.

    Raises:
        Misconfigured: some make no sense.
    """
    stack = [*layers, Layer(flat(os.environ if environ is None else environ), in_environment)]
    problems = [
        f"{layer.named(str(key))}: unknown setting{near_miss(str(key).upper(), KEYS)}"
        for layer in layers
        for key in layer.given
        if key not in KEYS
    ]
    values: Dict[str, Any] = {}
    names: Dict[str, str] = {}
    for key in KEYS if keys is None else keys:
        if key == "TLS":
            continue
        for layer in stack:
            value = layer.given.get(key)
            if value is not None:
                names[key] = layer.named(key)
                try:
                    values[key.lower()] = _READERS[key](value)
                except ValueError as error:
                    problems.append(f"{names[key]}: {error}")
                break
    if keys is None or "TLS" in keys:
        values["tls"] = _tls(stack, problems)
    if not problems and values.get("token") is not None:
        try:
            nodes = parse_endpoints(None if "endpoints" not in values else list(values["endpoints"]))
            named = stack[0].named
            ways = (named("TLS", "CA"), named("INSECURE"))
            check_token(values["token"], values["tls"], nodes, values.get("insecure", False), ways)
        except ValueError as error:
            problems.append(f"{names['TOKEN']}: {str(error).split(': ', 1)[-1]}")
    if problems:
        raise Misconfigured(problems)
    return Options(**values)


def near_miss(name: str, known: Collection[str]) -> str:
    """What is told of a name that is unknown."""
    near = difflib.get_close_matches(name, known, 1)
    return f"; did you mean {near[0]}?" if near else f"; known are {', '.join(sorted(known))}"


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


_TLS_PARTS = {"CA": "ca", "CERT": "cert", "KEY": "key", "SERVER_NAME": "server_name"}


def _tls(stack: Sequence[Layer], problems: List[str]) -> Optional[Tls]:
    """Of all layers together, part by part: the authority may be the project's and the key the machine's. A layer that
    has it as one value hides those below, and is hidden by those above."""
    parts: Dict[str, Any] = {}
    names: Dict[str, str] = {}
    for layer in stack:
        value = layer.given.get("TLS")
        if isinstance(value, Tls) or value is True:
            if not parts:
                return value if isinstance(value, Tls) else Tls()
            break
        if value is not None and not isinstance(value, Mapping):
            expected = "expected a mapping with CA, CERT, KEY, SERVER_NAME, or True"
            problems.append(f"{layer.named('TLS')}: {expected}, found {value!r}")
            return None
        for given, text in (value or {}).items():
            part = str(given).upper()
            if part not in _TLS_PARTS:
                problems.append(f"{layer.named('TLS', str(given))}: unknown{near_miss(part, _TLS_PARTS)}")
            elif text not in (None, ""):
                parts.setdefault(part, text)
                names.setdefault(part, layer.named("TLS", part))
    wrong = _problems_of_tls(parts, names)
    problems += wrong
    return Tls(**{_TLS_PARTS[part]: path for part, path in parts.items()}) if parts and not wrong else None


def _problems_of_tls(parts: Mapping[str, Any], names: Mapping[str, str]) -> List[str]:
    problems = []
    for part, path in parts.items():
        # An integer would be taken for the number of an open file.
        if not isinstance(path, (str, os.PathLike)):
            problems.append(f"{names[part]}: expected a text, found {path!r}")
        elif part != "SERVER_NAME" and not os.path.isfile(path):
            problems.append(f"{names[part]}: there is no file {os.fspath(path)!r}")
    for part, other in (("CERT", "KEY"), ("KEY", "CERT")):
        if part in parts and other not in parts:
            problems.append(f"{names[part]}: CERT and KEY need one another")
    return problems


_READERS: Dict[str, Callable[[Any], Any]] = {
    "ENDPOINTS": _endpoints,
    "TOKEN": _token,
    "INSECURE": _flag,
    "TIMEOUT": _seconds,
    "NAMESPACE": _name,
    "BROKER": _name,
    "CELERY_APP": _text,
}
KEYS = (*_READERS, "TLS")
