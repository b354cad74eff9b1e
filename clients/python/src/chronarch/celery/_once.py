"""Entries that only Python can evaluate, as jobs of one occurrence each.

A class of the app's own says when an entry is due, or a `BeatLazyFunc` what is sent: both are asked when the time has
come, as `celery beat` would, and what comes of it is left with the cluster as a job with one instant, a moment ahead.
From there on it is the cluster's, whoever dies.

# Why none is sent twice
An occurrence is named by the one before it: `report-after-20261126t020000.000z`. All that a beat goes by lies in the
cluster, where the newest occurrence says when it was due, so any number of beats come to the same name, and the id of
the operation is made of the name: the first one makes the job, and the others are told so. A beat that was stopped in
the middle and goes on hours later does no harm either: an instant that has passed never fires in a job that is made,
or changed, behind it.

# Why none is lost
A job whose instant had passed by the time it arrived is left for dead: it is exhausted, and has no run. Then, and only
then, a further one is made, with more time ahead and a number behind its name.

The newest occurrence of each entry is kept, and the others for as long as a late beat could make them anew.
"""

import dataclasses
import datetime
import hashlib
import logging
import time
from typing import Any, Dict, Iterable, List, Mapping, Optional, Tuple

from .._text import format_instant, parse_instant
from ..client import Client
from ..errors import InvalidArgument, NotFound, Refused
from ..models import Job, JobState
from . import _identity, _pages
from .entries import APP, MANAGED_BY, SOURCE, CannotCarry, Entry, app_label, to_job

log = logging.getLogger("celery.beat")

MANAGER = "chronarch-beat"
ENTRY, DUE, TRY, FIRST = "celery-entry", "celery-due", "celery-try", "celery-first"
# Seconds ahead that an occurrence is given; doubled for each one that arrived too late.
LEAD = 1.0
TRIES_MAX = 6
# How long a cluster without a leader may take to send one, and how long they are kept behind that: longer than the
# cluster remembers the ids of operations.
WINDOW = datetime.timedelta(hours=1)
KEPT = 2 * WINDOW + datetime.timedelta(minutes=5)
# Seconds that may lie between reading what there is and adding to it; far less than they are kept.
STALE = WINDOW.total_seconds() / 2
# Deleted in one pass; the others wait for the next.
DELETED_MAX = 200
# Seconds until an entry is asked again that could not tell, as beat does.
UNTOLD = 60.0
# An instant that is over on every clock: a job with it never fires.
_OVER = "2000-01-01T00:00:00Z"
_BASE_CHARS = 90


@dataclasses.dataclass
class _State:
    entry: Entry
    last: Optional[datetime.datetime] = None
    """When the newest occurrence was due, or the entry was first seen."""
    newest: Optional[Job] = None
    ask_at: float = 0.0
    """By `time.monotonic()`."""
    problem: str = ""


class Once:
    """What such entries are waiting for."""

    def __init__(self, app: Any, *, broker: str, namespace: str) -> None:
        self._app, self._broker, self._namespace = app, broker, namespace
        self._states: Dict[str, _State] = {}
        self._read_at = 0.0

    def is_stale(self) -> bool:
        """Whether what was read of the cluster may lack what has been removed there since; `refresh` is due first."""
        # By the clock on the wall, for the other one stands still while a machine sleeps.
        return not 0 <= time.time() - self._read_at < STALE

    def refresh(self, client: Client, wanted: Mapping[str, Entry]) -> None:
        """Takes over entries, by the names of their jobs, and what the cluster knows of them; removes what is old.

        Raises:
            ForeignJobs: another app of this one's name has some there.
            ChronarchError: the cluster cannot be asked.
        """
        found: Dict[str, List[Job]] = {}
        read_at = time.time()
        labels = {MANAGED_BY: MANAGER, APP: app_label(self._app)}
        jobs = list(_pages.jobs(client, self._namespace, labels))
        _identity.check(self._app, jobs, self._namespace)
        for job in jobs:
            if job.spec is not None and ENTRY in job.spec.labels:
                found.setdefault(job.spec.labels[ENTRY], []).append(job)
        states = {}
        for name, entry in wanted.items():
            if not entry.enabled:
                continue
            state = self._states.get(name) or _State(entry)
            # A schedule may keep notes of its own, as long as it stays the same.
            state.entry = state.entry if state.entry == entry else entry
            self._note(state, max(found.get(name, []), key=_order, default=None))
            states[name] = state
        self._states, self._read_at = states, read_at
        self._prune(client, found, wanted)

    def _note(self, state: _State, newest: Optional[Job]) -> None:
        state.newest = newest
        if newest is not None:
            last = _due(newest)
            if last != state.last:
                state.ask_at = 0.0
            state.last = last

    def _prune(self, client: Client, found: Mapping[str, List[Job]], wanted: Iterable[str]) -> None:
        old = _now() - KEPT
        gone = []
        for name, jobs in found.items():
            newest = max(jobs, key=_order)
            for job in jobs:
                is_kept = job is newest and name in wanted
                # Of an entry that is gone the occurrences that are still to come are not sent any more.
                is_due = name not in wanted and job.state is JobState.ACTIVE
                is_old = job.created_at is not None and job.created_at < old
                if not is_kept and (is_old or is_due) and job.spec is not None:
                    gone.append(job.spec.name)
        for name in gone[:DELETED_MAX]:
            try:
                client.delete_job(name, namespace=self._namespace, reason="an occurrence that is over")
            except NotFound:
                # Another beat was first.
                continue

    def advance(self, client: Client) -> float:
        """Leaves what is due with the cluster, and returns the seconds until this has to be called again.

        Raises:
            ChronarchError: the cluster cannot be asked; nothing is lost by it.
        """
        waits = [UNTOLD]
        for name, state in self._states.items():
            if state.ask_at <= time.monotonic():
                try:
                    wait = self._advance(client, name, state)
                except (CannotCarry, InvalidArgument, Refused) as refusal:
                    # One of them must not hold up the others.
                    wait = self._refused(state, str(refusal))
                state.ask_at = time.monotonic() + wait
            waits.append(max(state.ask_at - time.monotonic(), 0.0))
        return min(waits)

    def _advance(self, client: Client, name: str, state: _State) -> float:
        if state.last is None:
            self._begin(client, name, state)
        if state.newest is not None and _is_dead(state.newest):
            return self._again(client, name, state)
        now = _now()
        entry = state.entry
        if entry.start_time is not None and now < entry.start_time:
            return min((entry.start_time - now).total_seconds(), UNTOLD)
        if entry.expires is not None and now >= entry.expires:
            return UNTOLD
        assert state.last is not None
        try:
            is_due, wait = entry.schedule.is_due(state.last.astimezone(self._app.timezone))
        except Exception:
            log.exception("when %s is due cannot be told; it is asked again in %.0f s", entry.name, UNTOLD)
            return UNTOLD
        if not is_due:
            return max(float(wait), 0.05) if isinstance(wait, (int, float)) else UNTOLD
        return self._send(client, name, state, f"{_base(name)}-after-{_stamp(state.last)}", now)

    def _begin(self, client: Client, name: str, state: _State) -> None:
        """Notes in the cluster since when an entry is there: its first occurrence counts from then, whichever beat is
        started anew meanwhile."""
        since = state.entry.last_run_at or _now()
        job = self._job(name, state.entry, f"{_base(name)}-after-first", since, {FIRST: "true"})
        job["schedule"] = [{"at": [_OVER]}]
        self._note(state, self._apply(client, job))
        state.last = state.last or since

    def _send(self, client: Client, name: str, state: _State, occurrence: str, due: datetime.datetime) -> float:
        found = self._find(client, occurrence)
        if found is None:
            try:
                job = self._job(name, state.entry, occurrence, due, {})
            except CannotCarry:
                raise
            except Exception as error:
                # Of a function of the app's own.
                return self._refused(state, f"{type(error).__name__}: {error}")
            job = _armed(job, LEAD)
            if self.is_stale():
                # Asked behind the choice of the instant: who is stopped from here on comes too late, and harms nobody.
                return 0.0
            found = self._apply(client, job)
            log.info("beat: %s is due, and left with the cluster as %s", state.entry.name, occurrence)
        state.problem = ""
        self._note(state, found)
        if found is None:
            # Somebody has deleted it since; the next one counts from it nevertheless.
            state.last = due
        return 0.0 if found is None or not _is_dead(found) else 0.05

    def _refused(self, state: _State, problem: str) -> float:
        if problem != state.problem:
            log.error("%s is due and cannot be sent: %s", state.entry.name, problem)
        state.problem = problem
        return UNTOLD

    def _again(self, client: Client, name: str, state: _State) -> float:
        """Makes another job for an occurrence whose instant had passed before it was there."""
        assert state.newest is not None
        assert state.newest.spec is not None
        spec = state.newest.spec
        number = int(spec.labels.get(TRY, "1"))
        if number >= TRIES_MAX:
            problem = f"{number} jobs came too late; is the clock of this machine behind that of the cluster?"
            return self._refused(state, problem)
        stem = spec.name[: -len(f"-{number}")] if number > 1 else spec.name
        job: Dict[str, Any] = spec.to_dict()
        job["name"] = f"{stem}-{number + 1}"
        job["labels"] = {**spec.labels, TRY: str(number + 1)}
        found = self._find(client, job["name"])
        self._note(state, self._apply(client, _armed(job, LEAD * 2**number)) if found is None else found)
        return 0.05

    def _job(
        self, name: str, entry: Entry, occurrence: str, due: datetime.datetime, labels: Mapping[str, str]
    ) -> Dict[str, Any]:
        from celery.beat import BeatLazyFunc
        from celery.schedules import schedule

        def evaluated(value: Any) -> Any:
            # What is only noted is not called.
            return (None if FIRST in labels else value()) if isinstance(value, BeatLazyFunc) else value

        plain = dataclasses.replace(
            entry,
            args=[evaluated(value) for value in entry.args or ()],
            kwargs={key: evaluated(value) for key, value in (entry.kwargs or {}).items()},
            # The schedule is replaced below; any that can be carried does.
            schedule=schedule(3600.0, app=self._app),
            problem=None,
            start_time=None,
            one_off=False,
        )
        job = to_job(
            plain,
            self._app,
            broker=self._broker,
            namespace=self._namespace,
            name=occurrence,
            once=True,
        )
        job["labels"] = {
            MANAGED_BY: MANAGER,
            SOURCE: entry.source,
            APP: app_label(self._app),
            ENTRY: name,
            DUE: format_instant(due),
            **labels,
        }
        origin = _identity.origin_for(self._app, None)
        if origin is not None:
            job["labels"][_identity.ORIGIN] = origin
        job["catch_up"] = {"runs": "latest", "window": WINDOW}
        job["overlap"] = {"policy": "allow"}
        return job

    def _find(self, client: Client, name: str) -> Optional[Job]:
        try:
            return client.get_job(name, namespace=self._namespace)
        except NotFound:
            return None

    def _apply(self, client: Client, job: Dict[str, Any]) -> Optional[Job]:
        digest = hashlib.sha256(f"{self._namespace}/{job['name']}".encode()).hexdigest()
        client.apply_jobs(
            [job], operation_id=f"{MANAGER}-{digest[:40]}", reason="an entry that only Python can evaluate"
        )
        # Where another beat was first, its job stands.
        return self._find(client, job["name"])


def _armed(job: Dict[str, Any], lead: float) -> Dict[str, Any]:
    at = _now() + datetime.timedelta(seconds=lead)
    return {**job, "schedule": [{"at": [at]}]}


def _now() -> datetime.datetime:
    # As fine as names and labels are, so that all beats have the same.
    now = datetime.datetime.now(datetime.timezone.utc)
    return now.replace(microsecond=now.microsecond // 1000 * 1000)


def _is_dead(job: Job) -> bool:
    """Whether its instant had passed when it arrived, so that it never fires."""
    is_first = job.spec is not None and FIRST in job.spec.labels
    return not is_first and job.state is JobState.EXHAUSTED and job.last_run is None and not job.live_runs


def _due(job: Job) -> Optional[datetime.datetime]:
    if job.spec is None or DUE not in job.spec.labels:
        return None
    try:
        return parse_instant(job.spec.labels[DUE])
    except ValueError:
        return None


def _order(job: Job) -> Tuple[datetime.datetime, int]:
    labels: Mapping[str, str] = {} if job.spec is None else job.spec.labels
    number = labels.get(TRY, "1")
    floor = datetime.datetime.min.replace(tzinfo=datetime.timezone.utc)
    return _due(job) or floor, int(number) if number.isdigit() else 0


def _base(name: str) -> str:
    if len(name) <= _BASE_CHARS:
        return name
    return f"{name[: _BASE_CHARS - 9]}-{hashlib.sha256(name.encode()).hexdigest()[:8]}"


def _stamp(at: datetime.datetime) -> str:
    utc = at.astimezone(datetime.timezone.utc)
    return f"{utc:%Y%m%dt%H%M%S}.{utc.microsecond // 1000:03}z"


__all__ = ["MANAGER", "Once"]
