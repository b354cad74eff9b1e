"""Why a call gave no result: one class for each reason that a caller may act on differently.

ChronarchError
├── InvalidArgument     the request makes no sense, whatever the state of the cluster; `problems` has each field
├── NotFound            no such job, run, breaker, worker or node
├── Refused             a rule of the cluster forbids it now
│   ├── AlreadyExists   it is what it would be made
│   └── LimitReached    a limit, which the message names
├── Unauthenticated     no token, or one that the cluster does not know
├── PermissionDenied    the caller may not do this
├── Unreachable         no endpoint answered in time; a write was certainly not done
├── UnknownResult       time ran out after a write was sent; it may or may not be done
└── Unexpected          the node failed in a way that the protocol does not foresee
"""

from dataclasses import dataclass
from typing import Optional, Sequence, Tuple


@dataclass(frozen=True)
class Problem:
    """One thing that is wrong with a request."""

    path: str
    """The field, as in a job file: `jobs[0].target.http.url`; empty where it is the request as a whole."""
    reason: str
    hint: Optional[str] = None
    """What would be right, where that can be told."""

    def __str__(self) -> str:
        text = f"{self.path}: {self.reason}" if self.path else self.reason
        return f"{text}\nhint: {self.hint}" if self.hint else text


@dataclass(frozen=True)
class Tried:
    """The newest try at one endpoint that brought no answer."""

    endpoint: str
    reason: str
    reached: bool
    """Whether the request may have reached the node."""

    def __str__(self) -> str:
        return f"{self.endpoint}: {self.reason}"


class ChronarchError(Exception):
    """The base of all reasons."""

    def __init__(self, message: str, hint: Optional[str] = None) -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint
        """What would help, where that is known."""

    def __str__(self) -> str:
        return f"{self.message}\nhint: {self.hint}" if self.hint else self.message


class InvalidArgument(ChronarchError, ValueError):
    """The request makes no sense, whatever the state of the cluster."""

    def __init__(self, problems: Sequence[Problem], omitted: int = 0) -> None:
        lines = [str(problem) for problem in problems] + ([f"and {omitted} more"] if omitted else [])
        super().__init__("\n".join(lines))
        self.problems: Tuple[Problem, ...] = tuple(problems)
        self.omitted = omitted
        """How many more there are than `problems` tells."""


class NotFound(ChronarchError, LookupError):
    """No such job, run, breaker, worker or node."""


class Refused(ChronarchError):
    """A rule of the cluster forbids it now."""


class AlreadyExists(Refused):
    """It is what it would be made."""


class LimitReached(Refused):
    """A limit of the cluster, which the message names."""


class Unauthenticated(ChronarchError):
    """No token, or one that the cluster does not know."""


class PermissionDenied(ChronarchError):
    """The caller may not do this."""


class Unreachable(ChronarchError, ConnectionError):
    """No endpoint answered in time; a write was certainly not done."""

    def __init__(self, tried: Sequence[Tried]) -> None:
        text = "; ".join(str(one) for one in tried)
        hint = "is the cluster up? `chronarch cluster status` asks every endpoint"
        if "WRONG_VERSION_NUMBER" in text:
            hint = "what answers speaks plain text, as nodes do; `tls` is for a proxy before them"
        super().__init__(f"no endpoint answered: {text}", hint)
        self.tried: Tuple[Tried, ...] = tuple(tried)


class UnknownResult(ChronarchError):
    """Time ran out after a write was sent; it may or may not be done."""

    def __init__(self, operation_id: Optional[str], tried: Sequence[Tried]) -> None:
        hint = "look at what it was to change before it is done again"
        if operation_id:
            hint = f"repeat the call with operation_id={operation_id!r}: it is done at most once"
        text = "; ".join(str(one) for one in tried)
        super().__init__(f"the result is unknown, for no endpoint answered in time: {text}", hint)
        self.operation_id = operation_id
        """Asking again with this id tells the result, or does the work once; None where the call takes none."""
        self.tried: Tuple[Tried, ...] = tuple(tried)


class Unexpected(ChronarchError):
    """The node failed in a way that the protocol does not foresee."""

    def __init__(self, code: str, message: str) -> None:
        super().__init__(f"the node answered {code}: {message}")
        self.code = code
        """The gRPC status, such as `INTERNAL`."""
