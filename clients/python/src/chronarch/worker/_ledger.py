"""The attempts that the worker holds, and what it still owes the leader about them.

Pure: no task, no clock. The event loop of `_serve` tells it what happened and asks what to do; that an attempt is
started at most once, that a report is repeated until it is acknowledged, and that everything is bounded, is decided
here and tested here.

An attempt is *waiting* (not begun), *running* (begun; it may have been told to stop) or *ended* (its report is not
acknowledged). An acknowledged one is no longer held, but its key is remembered for a while.

Invariants:

- A key is started at most once: it leaves `waiting` for good, and a key that is held or remembered is not accepted
  again.
- Of one run at most one attempt runs, and no attempt begins after a newer one was ordered: a larger fence means that
  the
  cluster has given the older attempt up.
"""

import enum
from collections import OrderedDict
from dataclasses import dataclass
from typing import Any, Callable, Dict, List, NamedTuple, Optional, Tuple

from .._schema import new, number
from ._task import Request

# Orders beyond the slots that wait for one; a further one is reported as failed. A leader that counts never gets there.
WAITING_MAX = 1_024
# Acknowledged attempts that are remembered, so that a late repetition of the order is recognised.
ACKNOWLEDGED_MAX = 16_384
# Seconds after which a report that is not acknowledged is sent again on the same link; on a new one it is at once.
REPORT_REPEAT = 5.0
# Bytes of a report's error, as the protocol limits them.
ERROR_BYTES = 512


class Key(NamedTuple):
    """Names an attempt."""

    run_id: str
    fence: int


class Stop(enum.Enum):
    """Why a running attempt was told to stop; the first reason stays."""

    CANCELLED = "cancelled"
    SUPERSEDED = "superseded"
    LEAVING = "leaving"


class Overflow(Exception):
    """The leader has sent more than any worker can have asked for."""


@dataclass
class Start:
    """An attempt that begins. `stop` is set by whoever carries it out, to be called when it is to end."""

    key: Key
    request: Request
    stop: Optional[Callable[[Stop], None]] = None
    told: Optional[Stop] = None

    def tell(self, why: Stop) -> None:
        """Has it stop, once."""
        if self.told is None:
            self.told = why
            if self.stop is not None:
                self.stop(why)


@dataclass
class _Ended:
    report: Any
    sent_at: Optional[float] = None


def outcome(word: str) -> int:
    """The number of an outcome by its word."""
    return number("Outcome", f"OUTCOME_{word.upper()}")


def make_report(key: Key, word: str, error: str = "", **fields: Any) -> Any:
    """The report of an attempt, its error cut to what the protocol allows."""
    cut = error.encode("utf-8", "replace")[:ERROR_BYTES].decode("utf-8", "ignore")
    return new("Report", run_id=key.run_id, fence=key.fence, outcome=outcome(word), error=cut, **fields)


class Ledger:
    """See the module."""

    def __init__(self, slots: int) -> None:
        self._slots = slots
        self._waiting: OrderedDict[Key, Request] = OrderedDict()
        self._running: Dict[Key, Start] = {}
        self._ended: Dict[Key, _Ended] = {}
        self._acknowledged: OrderedDict[Key, None] = OrderedDict()
        # The newest fence that was ever seen of a run that is held or remembered.
        self._newest: Dict[str, int] = {}

    @property
    def running(self) -> int:
        """How many run."""
        return len(self._running)

    @property
    def waiting(self) -> int:
        """How many wait."""
        return len(self._waiting)

    @property
    def unacknowledged(self) -> int:
        """How many have ended and are not acknowledged."""
        return len(self._ended)

    def is_empty(self) -> bool:
        """Whether nothing is held."""
        return not (self._waiting or self._running or self._ended)

    def held(self) -> List[Key]:
        """All that a hello announces."""
        return [*self._waiting, *self._running, *self._ended]

    def _knows(self, key: Key) -> bool:
        return key in self._waiting or key in self._running or key in self._ended

    def accept(self, key: Key, request: Optional[Request], refusal: str = "") -> None:
        """Takes an order in, unless it is known. One without a request cannot be carried out, and is answered so.

        Raises:
            Overflow: even the answer has no room.
        """
        if self._knows(key) or key in self._acknowledged:
            return
        self._make_room()
        if self._newest.get(key.run_id, 0) > key.fence:
            self._end(key, make_report(key, "cancelled", "a newer attempt of the run is known"))
            return
        self._supersede_older(key)
        self._newest[key.run_id] = key.fence
        if request is None:
            self._end(key, make_report(key, "failed", refusal))
        elif self.running + self.waiting >= self._slots + WAITING_MAX:
            text = f"the worker has {self._slots} slots and {WAITING_MAX} orders waiting"
            self._end(key, make_report(key, "failed", text))
        else:
            self._waiting[key] = request

    def start_next(self) -> Optional[Start]:
        """The next attempt to begin, if a slot is free for it. It counts as running from here on."""
        if self.running >= self._slots:
            return None
        busy = {key.run_id for key in self._running}
        for key, request in self._waiting.items():
            if key.run_id not in busy:
                del self._waiting[key]
                start = Start(key, request)
                self._running[key] = start
                return start
        return None

    def ended(self, key: Key, report: Any) -> None:
        """An attempt that ran has ended by itself or as it was told."""
        start = self._running.get(key)
        if start is None:
            return
        if report.outcome == outcome("cancelled"):
            if start.told is Stop.LEAVING:
                report.outcome, report.error = outcome("lost"), "the worker ended and stopped it"
            elif start.told is Stop.SUPERSEDED:
                report.error = "a newer attempt of the run took its place"
        self._end(key, report)

    def cancel(self, key: Key) -> None:
        """The leader wants the attempt to stop.

        Raises:
            Overflow: it is unknown, and the answer has no room.
        """
        if key in self._running:
            self._running[key].tell(Stop.CANCELLED)
        elif key in self._waiting:
            self._end(key, make_report(key, "cancelled", "cancelled before it began"))
        elif key not in self._ended and key not in self._acknowledged:
            self._make_room()
            self._end(key, make_report(key, "cancelled", "cancelled before the order arrived"))

    def acknowledge(self, key: Key) -> None:
        """The leader has the report: the attempt is no longer held."""
        if self._ended.pop(key, None) is None:
            return
        self._acknowledged[key] = None
        if len(self._acknowledged) > ACKNOWLEDGED_MAX:
            oldest, _ = self._acknowledged.popitem(last=False)
            if self._newest.get(oldest.run_id) == oldest.fence:
                del self._newest[oldest.run_id]

    def stream_opened(self) -> None:
        """Every report that is not acknowledged is owed again."""
        for ended in self._ended.values():
            ended.sent_at = None

    def next_report(self, now: float) -> Optional[Any]:
        """The next report to send; one that was sent long ago and is not acknowledged is sent again."""
        for ended in self._ended.values():
            if ended.sent_at is None or now - ended.sent_at >= REPORT_REPEAT:
                ended.sent_at = now
                return ended.report
        return None

    def leave(self) -> int:
        """The worker ends: what waits is given back, what runs is told to stop. Returns how many there were."""
        waiting = list(self._waiting)
        for key in waiting:
            self._end(key, make_report(key, "lost", "the worker ended before it began"))
        for start in list(self._running.values()):
            start.tell(Stop.LEAVING)
        return len(waiting) + self.running

    def abandon_running(self) -> None:
        """What still runs is dropped: nobody knows how it ends."""
        for key in list(self._running):
            self._end(key, make_report(key, "lost", "the worker ended and did not wait for it"))

    def _make_room(self) -> None:
        if len(self._waiting) + len(self._running) + len(self._ended) >= self._slots + 2 * WAITING_MAX:
            raise Overflow("the leader ordered more than the worker may hold")

    def _end(self, key: Key, report: Any) -> None:
        self._waiting.pop(key, None)
        self._running.pop(key, None)
        self._ended[key] = _Ended(report)
        self._newest[key.run_id] = max(self._newest.get(key.run_id, 0), key.fence)

    def _supersede_older(self, newer: Key) -> None:
        for key in self._older(newer):
            if key in self._running:
                self._running[key].tell(Stop.SUPERSEDED)
            else:
                text = "a newer attempt of the run took its place before it began"
                self._end(key, make_report(key, "cancelled", text))

    def _older(self, newer: Key) -> Tuple[Key, ...]:
        held = (*self._waiting, *self._running)
        return tuple(key for key in held if key.run_id == newer.run_id and key.fence < newer.fence)


__all__ = ["ACKNOWLEDGED_MAX", "WAITING_MAX", "Key", "Ledger", "Overflow", "Start", "Stop", "make_report", "outcome"]
