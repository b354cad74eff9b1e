"""What every store of claims has in common."""

import enum
from typing import Protocol

# Seconds for which a store remembers a run, unless configured otherwise: 7 days. A message that comes later than that
# runs again, so it is to be longer than a broker keeps one, and than a run is retried.
KEEP_DEFAULT = 7 * 86_400.0


class Verdict(enum.Enum):
    """What a store says about an attempt that would begin."""

    CLAIMED = "claimed"
    """It may begin."""
    DONE = "done"
    """The run is done."""
    DELIVERED_TWICE = "delivered_twice"
    """This very attempt has begun before."""
    SUPERSEDED = "superseded"
    """A newer attempt of the run has begun."""


class Store(Protocol):
    """Remembers of each run its newest fence and whether it is done. Both methods are atomic among all who share it."""

    def begin(self, run_id: str, fence: int) -> Verdict:
        """Claims the run for an attempt, if it may begin."""

    def end(self, run_id: str, fence: int, done: bool) -> None:
        """The attempt has ended; if it is still the newest, the run is done, or not."""


class Duplicate(Exception):
    """The attempt is not to run."""

    def __init__(self, run_id: str, fence: int, verdict: Verdict) -> None:
        why = {
            Verdict.DONE: "the run is done",
            Verdict.DELIVERED_TWICE: "this attempt has begun before",
            Verdict.SUPERSEDED: "a newer attempt of the run has begun",
        }
        super().__init__(f"run {run_id}, fence {fence}: {why[verdict]}")
        self.run_id, self.fence, self.verdict = run_id, fence, verdict


def check(run_id: str, fence: int) -> None:
    """Refuses what names no attempt.

    Raises:
        ValueError: which part, and why.
    """
    if not 1 <= len(run_id) <= 191:
        raise ValueError(f"run_id: expected 1 to 191 characters, found {len(run_id)}")
    if not 0 < fence < 2**53:
        raise ValueError(f"fence: expected a number above 0, found {fence}")
