"""What both clients do with a request before it is sent, and with what they were given at the start."""

import uuid
from typing import Any, Dict, List, Mapping, Optional, Sequence, Tuple, Union

import grpc

from . import _convert
from ._endpoints import OPTIONS, Tls, check_token, metadata, parse_endpoints
from ._schema import Method, method
from ._tries import passes, refusal, surely_not_done

TIMEOUT_DEFAULT = 10.0


class Settings:
    """The checked options of a client."""

    def __init__(
        self,
        endpoints: Union[str, Sequence[str], None],
        tls: Optional[Tls],
        token: Optional[str],
        timeout: float,
        actor: str,
        insecure: bool,
    ) -> None:
        self.endpoints = parse_endpoints(endpoints)
        check_token(token, tls, self.endpoints, insecure)
        if not timeout > 0:
            raise ValueError(f"timeout: expected seconds above 0, found {timeout}")
        self.credentials = None if tls is None else tls.credentials()
        self.options: List[Tuple[str, Any]] = [*OPTIONS, *(tls.options() if tls else [])]
        self.metadata = metadata(token)
        self.timeout = timeout
        self.actor = actor


class Prepared:
    """One call, ready to be sent."""

    def __init__(self, settings: Settings, service: str, name: str, fields: Mapping[str, Any]) -> None:
        self.method: Method = method(service, name)
        filled: Dict[str, Any] = dict(fields)
        # Filled in here, so that each repetition has the same.
        if "operation_id" in filled and not filled["operation_id"]:
            filled["operation_id"] = uuid.uuid4().hex
        if "actor" in filled and not filled["actor"]:
            filled["actor"] = settings.actor
        self.operation_id: Optional[str] = filled.get("operation_id")
        self.message = _convert.to_message(self.method.request.DESCRIPTOR.name, filled)


# How gRPC says that a request never left, for there was no connection to send it on. Should a release say it in other
# words, a write is told as unknown that was certainly not done: the safe side.
_NOT_SENT = ("failed to connect to all addresses", "DNS resolution failed", "Name resolution failure")


class Lost(Exception):
    """A try brought no answer."""

    def __init__(self, reason: str, reached: bool, connected: bool = True) -> None:
        super().__init__(reason)
        self.reason = reason
        self.reached = reached
        self.connected = connected
        """False: there was no connection to send anything on."""


def lost(error: Any) -> Lost:
    """What became of a request whose call ended with this `grpc.RpcError`.

    Raises:
        ChronarchError: it is an answer.
    """
    code, details, trailing = error.code(), error.details() or "", error.trailing_metadata()
    if not passes(code, details):
        raise refusal(code, details, trailing) from None
    if code is grpc.StatusCode.DEADLINE_EXCEEDED:
        details = "no answer in time"
    connected = not details.startswith(_NOT_SENT)
    return Lost(details, connected and not surely_not_done(trailing), connected)
