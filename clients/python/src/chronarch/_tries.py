"""Whether a call that brought no answer is tried again, and what is told when it is not.

Pure: it is told the time and what came of each try, and answers how long to pause, or raises why the call is over. Both
clients, sync and asyncio, drive it.

Any node answers, for followers forward to the leader, so a client only has to find a node that lives. Endpoint after
endpoint is asked, round after round with a pause between, until the timeout of the call is over, as the command line
does. What happens when an answer is lost depends on the call (`Kind`): reads, writes with an operation id and writes
that may be repeated are asked again; any other write is sent at most once, and its result is unknown from there on.
"""

from typing import Any, Dict, List, Optional, Tuple

import grpc

from ._schema import Kind
from .errors import (
    AlreadyExists,
    ChronarchError,
    InvalidArgument,
    LimitReached,
    NotFound,
    PermissionDenied,
    Problem,
    Refused,
    Tried,
    Unauthenticated,
    Unexpected,
    UnknownResult,
    Unreachable,
)

# Seconds that one endpoint may take to answer before the next is asked. A write that waits for a slow disk is repeated
# with its id and joins the first.
TRY_MAX = 3.0
# No try begins with fewer seconds left: one that cannot be answered would only put the result in doubt.
TRY_MIN = 0.05
# Seconds after a round in which no endpoint could answer, doubled from round to round.
PAUSE_MIN, PAUSE_MAX = 0.05, 0.5
# After so many rounds (about a second) in which every endpoint refused the connection nobody is there, and waiting out
# the timeout would only delay the message.
REFUSED_ROUNDS_MAX = 5
HINT = "chronarch-hint"
# A node says with it that it does not lead, and surely did nothing.
NOT_LEADER = "chronarch-not-leader"
# What gRPC says under UNKNOWN, INTERNAL or CANCELLED when a connection breaks in the middle of a call. A node's own
# words under these codes are an answer.
_BROKEN = ("Received RST_STREAM", "Stream removed", "Connection reset", "Socket closed", "transport", "RST_STREAM")


class Tries:
    """The tries of one call."""

    def __init__(self, kind: Kind, operation_id: Optional[str], endpoints: int, timeout: float, now: float) -> None:
        self._kind = kind
        self._operation_id = operation_id
        self._endpoints = endpoints
        self._deadline = now + timeout
        self._tried: Dict[str, Tried] = {}
        self._in_round: List[bool] = []
        self._refused_rounds = 0
        self._reached = False
        self._pause = PAUSE_MIN

    def limit(self, now: float) -> float:
        """Seconds that the next try may take. A write that is sent once has all the time there is."""
        left = max(self._deadline - now, 0.001)
        return left if self._kind is Kind.ONCE else min(TRY_MAX, left)

    def failed(self, endpoint: str, reason: str, reached: bool, now: float) -> float:
        """Notes a try that brought no answer, and returns how many seconds to wait before the next endpoint is asked.

        Raises:
            Unreachable: the time is over, or nobody is there; a write was certainly not done.
            UnknownResult: it may be done.
        """
        self._tried.pop(endpoint, None)
        self._tried[endpoint] = Tried(endpoint, reason, reached)
        self._reached |= reached
        self._in_round.append(reached)
        if (self._kind is Kind.ONCE and reached) or now + TRY_MIN > self._deadline:
            raise self._over()
        if len(self._in_round) < self._endpoints:
            return 0.0
        self._refused_rounds = 0 if any(self._in_round) else self._refused_rounds + 1
        self._in_round = []
        if self._refused_rounds >= REFUSED_ROUNDS_MAX:
            raise self._over()
        pause, self._pause = self._pause, min(self._pause * 2, PAUSE_MAX)
        if now + pause + TRY_MIN > self._deadline:
            raise self._over()
        return pause

    def _over(self) -> ChronarchError:
        tried = list(self._tried.values())
        if self._reached and self._kind is not Kind.READ:
            return UnknownResult(self._operation_id, tried)
        return Unreachable(tried)


def passes(code: Any, details: str) -> bool:
    """Whether the next endpoint, or the same one later, may do better: the node is away, has no leader, or the
    connection broke under the call."""
    if code in (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.DEADLINE_EXCEEDED):
        return True
    broken = (grpc.StatusCode.UNKNOWN, grpc.StatusCode.INTERNAL, grpc.StatusCode.CANCELLED)
    return code in broken and any(word in details for word in _BROKEN)


def surely_not_done(trailing: Any) -> bool:
    """Whether the node said that it does not lead."""
    return NOT_LEADER in dict(_pairs(trailing))


def refusal(code: Any, details: str, trailing: Any) -> ChronarchError:
    """The exception for a status that is an answer."""
    hint = dict(_pairs(trailing)).get(HINT)
    status = grpc.StatusCode
    if code in (status.INVALID_ARGUMENT, status.OUT_OF_RANGE):
        problems, omitted = read_problems(details)
        if hint and problems and problems[-1].hint is None:
            problems[-1] = Problem(problems[-1].path, problems[-1].reason, hint)
        return InvalidArgument(problems, omitted)
    classes = {
        status.NOT_FOUND: NotFound,
        status.FAILED_PRECONDITION: Refused,
        status.ABORTED: Refused,
        status.ALREADY_EXISTS: AlreadyExists,
        status.RESOURCE_EXHAUSTED: LimitReached,
        status.UNAUTHENTICATED: Unauthenticated,
        status.PERMISSION_DENIED: PermissionDenied,
    }
    if code in classes:
        return classes[code](details, hint)
    return Unexpected(code.name, details)


def read_problems(details: str) -> Tuple[List[Problem], int]:
    """The problems of a refusal: one a line, `path: reason`, its hint below, and how many more there are."""
    problems: List[Problem] = []
    omitted = 0
    for line in details.split("\n"):
        words = line.split()
        if line.startswith("hint: ") and problems:
            last = problems[-1]
            problems[-1] = Problem(last.path, last.reason, line[len("hint: ") :])
        elif len(words) == 3 and words[0] == "and" and words[2] == "more" and words[1].isdigit():
            omitted += int(words[1])
        else:
            path, found, reason = line.partition(": ")
            # A sentence may have a colon too; a path has no space.
            problems.append(Problem(path, reason) if found and " " not in path else Problem("", line))
    return problems, omitted


def _pairs(trailing: Any) -> List[Tuple[str, str]]:
    return [(str(key), value) for key, value in (trailing or ()) if isinstance(value, str)]


__all__ = ["NOT_LEADER", "Tries", "passes", "read_problems", "refusal", "surely_not_done"]
