"""Where to look for the leader next, and when; the rules of the `chronarch worker` program.

Pure: it is told what came of each try. A *round* asks every endpoint once, in a changing order; a node that does not
lead may name the leader, which is then asked at once, but nobody is asked twice in a round. When the leader was named
and could not be reached, those who named it are asked to carry the stream there: the straight way is taken where there
is one, and one node that can be reached is enough. Between rounds there is a pause of a tenth of the time that has been
spent without a leader, within bounds: a takeover of 300 ms is noticed within 30 ms of its end, and a cluster that is
down for an hour is asked twice a second.

An address that did not answer in time is *shunned* for a second, also when another node names it: during a takeover the
followers still name the dead leader, and each wait for it would cost the time to connect.
"""

import random
from collections import deque
from dataclasses import dataclass
from typing import Deque, Dict, List, Optional, Sequence, Set, Union

PAUSE_MIN, PAUSE_MAX = 0.02, 0.5
SHUN = 1.0
# A stream that lived shorter counts as a failed try: whoever accepts and drops us again and again is asked with pauses.
STEADY = 1.0


@dataclass(frozen=True)
class Ask:
    """Ask this address: to be served if it leads, or else to carry the stream."""

    address: str
    carried: bool


@dataclass(frozen=True)
class Wait:
    """Ask nobody before this time."""

    until: float


class Finder:
    """See the module. Times are seconds of a monotonic clock."""

    def __init__(self, endpoints: Sequence[str], now: float, seed: Optional[int] = None) -> None:
        self._endpoints = list(endpoints)
        # The spread of reconnections, no secret.
        self._random = random.Random(seed)
        self._first = self._random.randrange(len(self._endpoints))
        self._without_leader_since = now
        self._pause_until: Optional[float] = None
        self._round: Deque[str] = deque()
        self._asked: Set[str] = set()
        self._carriers: Deque[str] = deque()
        self._shunned: Dict[str, float] = {}
        self._begin_round(now, None)

    def next(self, now: float) -> Union[Ask, Wait]:
        """What to do now."""
        if self._pause_until is not None:
            if now < self._pause_until:
                return Wait(self._pause_until)
            self._pause_until = None
            self._begin_round(now, None)
        if self._round:
            address = self._round.popleft()
            self._asked.add(address)
            return Ask(address, False)
        if self._carriers:
            return Ask(self._carriers.popleft(), True)
        return Wait(self._pause(now))

    def not_leader(self, ask: Ask, leader: str, now: float) -> None:
        """The address answered that it does not lead; `leader` is whom it named, if anyone."""
        if leader:
            if not ask.carried:
                self._carriers.append(ask.address)
            self._named(leader, now)

    def silent(self, address: str, now: float) -> None:
        """The address did not answer in time."""
        self._shunned[address] = now + SHUN

    def look_again(self, now: float) -> None:
        """A stream was given up, though whoever is at its other end leads."""
        self._without_leader_since, self._pause_until = now, None
        self._begin_round(now, None)

    def lost(self, address: str, opened_at: float, leader: str, now: float) -> None:
        """The stream to `address` that was opened at `opened_at` is over; `leader` is whom it named at the end."""
        if now - opened_at < STEADY:
            self._pause(now)
            return
        self._without_leader_since, self._pause_until = now, None
        self._begin_round(now, address)
        if leader:
            self._named(leader, now)

    def _named(self, leader: str, now: float) -> None:
        if leader not in self._asked and not self._is_shunned(leader, now):
            if leader in self._round:
                self._round.remove(leader)
            self._round.appendleft(leader)

    def _is_shunned(self, address: str, now: float) -> bool:
        return now < self._shunned.get(address, 0.0)

    def _pause(self, now: float) -> float:
        span = min(max((now - self._without_leader_since) / 10, PAUSE_MIN), PAUSE_MAX)
        least = max(span / 2, PAUSE_MIN)
        self._pause_until = now + least + (span - least) * self._random.random()
        return self._pause_until

    def _begin_round(self, now: float, last: Optional[str]) -> None:
        self._shunned = {address: until for address, until in self._shunned.items() if now < until}
        self._asked, self._carriers = set(), deque()
        in_turn: List[str] = self._endpoints[self._first :] + self._endpoints[: self._first]
        self._round = deque([one for one in in_turn if not self._is_shunned(one, now)] or in_turn)
        if last is not None and last in self._round:
            self._round.remove(last)
            self._round.append(last)
        self._first = (self._first + 1) % len(self._endpoints)
