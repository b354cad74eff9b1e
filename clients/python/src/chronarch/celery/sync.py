"""The schedule of an app against the jobs of the cluster: what would change, and the change.

Only jobs that this made are touched: those with the labels `managed-by: chronarch-celery` and `celery-app` of the app.
Where another app of the same name has made some of them, none is: see `_identity`.

While a beat still sends, jobs that run as well would send everything twice. So the first jobs of an app are held:
paused with a reason of their own, until `adopt` resumes them. A job is created without a schedule, paused, and given
its schedule then, so that none of them can fire before it is held. Jobs that somebody else paused are left as they are.
"""

import dataclasses
from dataclasses import dataclass, field
from typing import Any, Dict, Iterable, Iterator, List, Mapping, Optional, Sequence, Set, Tuple

from .. import models
from .._text import parse_span
from ..client import Client
from ..errors import InvalidArgument
from . import _identity, _job_settings, _late, _pages
from . import entries as source_entries
from ._identity import APP, ORIGIN, app_label, legal_name
from ._jobs import BROKER_DEFAULT, MANAGED_BY, MANAGER, SOURCE, convert, named
from ._schedules import CannotCarry
from .entries import BEAT_SCHEDULE, DJANGO, REDBEAT, SOURCES, Entry

# Why a job is paused, where this paused it.
HELD = "chronarch-celery: held until adopt"
DISABLED = "chronarch-celery: disabled at its source"
REASON = "chronarch-celery sync"
# The way out of a task that is unknown.
KNOWN_BY = "correct the name, import its module in the app"
# Jobs that one request applies; their definitions may be large.
_JOBS_AT_ONCE = 200


@dataclass(frozen=True)
class Problem:
    """An entry that is not carried."""

    source: str
    name: str
    reason: str
    """And the way out."""
    only_python: bool = False


@dataclass(frozen=True)
class Step:
    """What becomes of one job."""

    sign: str
    """`+` it is made, `~` changed, `-` deleted, `=` left as it is."""
    name: str
    source: str
    entry: Optional[Entry] = None
    job: Optional[Dict[str, Any]] = None
    fields: Tuple[models.FieldChange, ...] = ()
    """What would change of its definition, both sides with every default written out."""
    pause: Optional[str] = None
    """Why it is to be paused: `HELD` or `DISABLED`."""
    was_paused: bool = False
    """Whether it is paused now, for another reason than `pause`."""
    resume: bool = False
    stays_held: bool = False
    """Whether it is held until `adopt`, and is so now."""
    paused_by: Optional[str] = None
    """Why somebody else has paused it; it stays so."""


@dataclass(frozen=True)
class Plan:
    """What a sync would do."""

    namespace: str
    steps: Tuple[Step, ...]
    problems: Tuple[Problem, ...] = ()
    idle: Tuple[Problem, ...] = ()
    """Entries that are not carried, and need not be, for they are disabled at their source."""
    orphans: Tuple[str, ...] = ()
    """Jobs whose entries are gone, and which stay without `prune`."""
    notes: Mapping[str, Tuple[str, ...]] = field(default_factory=dict)
    """By job, what is not quite as beat has it."""

    @property
    def changes(self) -> Tuple[Step, ...]:
        """The steps that do something."""
        return tuple(step for step in self.steps if step.sign != "=")

    @property
    def held_jobs(self) -> Tuple[str, ...]:
        """The jobs that are held until `adopt` once it is carried out."""
        return tuple(step.name for step in self.steps if step.stays_held or step.pause == HELD)

    @property
    def held(self) -> int:
        """How many they are."""
        return len(self.held_jobs)

    def count(self, sign: str) -> int:
        """How many steps have it."""
        return sum(step.sign == sign for step in self.steps)


def found_sources(app: Any) -> List[str]:
    """Where the app's schedule may be: `beat_schedule` always, the others where the app is set up for them."""
    found = [BEAT_SCHEDULE]
    if _has_django_tables():
        found.append(DJANGO)
    scheduler = str(app.conf.beat_scheduler or "").lower()
    if "redbeat" in scheduler or app.conf.get("redbeat_redis_url"):
        found.append(REDBEAT)
    return found


def _has_django_tables() -> bool:
    try:
        from django.conf import settings
    except ImportError:
        return False
    return bool(settings.configured) and "django_celery_beat" in settings.INSTALLED_APPS


def collect(app: Any, sources: Optional[Sequence[str]] = None) -> List[Entry]:
    """The entries of the sources; None: of those that are found. An entry of a table and one of `beat_schedule` with
    the same name are one, for django-celery-beat and RedBeat copy the latter when beat starts; the table counts.

    Raises:
        ValueError: there is no such source.
        Exception: what a source raises that cannot be read.
    """
    # First, for it imports the app's modules, and with them Django's settings.
    static = source_entries.from_app(app)
    wanted = found_sources(app) if sources is None else list(sources)
    unknown = [name for name in wanted if name not in SOURCES]
    if unknown:
        raise ValueError(f"expected {', '.join(SOURCES)}, found {unknown[0]}")
    kept: Dict[str, Entry] = {}
    for name, read in ((REDBEAT, source_entries.from_redbeat), (DJANGO, source_entries.from_django)):
        if name in wanted:
            kept.update({entry.name: entry for entry in read(app)})
    if BEAT_SCHEDULE in wanted:
        kept.update({entry.name: entry for entry in static if entry.name not in kept})
    return list(kept.values())


def unregistered(task: str) -> str:
    """What is wrong with an entry whose task the app does not know."""
    return f"task: the app has not registered {task}, so that its workers would drop it"


def plan(
    client: Client,
    app: Any,
    entries: Sequence[Entry],
    *,
    sources: Optional[Sequence[str]] = None,
    broker: str = BROKER_DEFAULT,
    namespace: str = "",
    prefix: str = "",
    labels: Optional[Mapping[str, str]] = None,
    prune: bool = False,
    hold: Optional[bool] = None,
    allow_unknown: bool = False,
    carry: bool = False,
    allow_pickle: bool = False,
    names: Optional[Sequence[str]] = None,
) -> Plan:
    """Compares, and changes nothing.

    Args:
        client: of the cluster.
        app: the Celery app.
        entries: all that its sources have: see `collect`.
        sources: where the entries are from, so that jobs of other sources are not taken for left over; None: those that
            are found.
        broker: the connection of the cluster's workers.
        namespace: of the jobs; empty: `default`.
        prefix: what their names begin with.
        labels: of each job, beside those that say who made it.
        prune: whether jobs go whose entries are gone.
        hold: whether new jobs are paused until `adopt`; None: as those that are there, and where there are none, they
            are.
        allow_unknown: whether tasks are sent that the app has not registered.
        allow_pickle: whether a message that the app has built may be a pickle.
        carry: whether intervals count from what is known of their last run, and not go on as they are.
        names: those of all entries, where `entries` are not all; `chronarch_jobs` may name each of them.

    Raises:
        ForeignJobs: jobs of the app's name are there that another app has made.
        ChronarchError: the cluster cannot be asked, or refuses.
    """
    namespace = namespace or "default"
    sources = found_sources(app) if sources is None else sources
    present = jobs_of(client, app, namespace)
    how = {
        "broker": broker,
        "namespace": namespace,
        "prefix": prefix,
        "labels": labels,
        "allow_pickle": allow_pickle,
    }
    draft = _Draft(app, present, allow_unknown, carry)
    if set(sources) >= set(found_sources(app)):
        # Otherwise an entry may be in a source that was not read.
        draft.look_for_strangers([entry.name for entry in entries] if names is None else names)
    for entry, name in named(entries, prefix):
        draft.add(entry, name, how)
    hold = not _is_adopted(list(present.values())) if hold is None else hold
    steps = draft.steps(client, hold)
    gone = draft.gone(sources)
    if prune:
        steps += [Step("-", name, _source(present[name])) for name in gone]
    orphans = () if prune else tuple(gone)
    return Plan(namespace, tuple(steps), tuple(draft.problems), tuple(draft.idle), orphans, draft.notes)


def jobs_of(client: Client, app: Any, namespace: str) -> Dict[str, models.Job]:
    """The jobs that were made for the app, by their names.

    Raises:
        ForeignJobs: another app of its name has made some.
        ChronarchError: the cluster cannot be asked.
    """
    found = list(_pages.jobs(client, namespace, {MANAGED_BY: MANAGER, APP: app_label(app)}))
    _identity.check(app, found, namespace)
    return {job.spec.name: job for job in found if job.spec is not None}


class _Draft:
    """A plan while it is made."""

    def __init__(self, app: Any, present: Mapping[str, models.Job], allow_unknown: bool, carry: bool) -> None:
        self._app = app
        self._present = present
        self._allow_unknown = allow_unknown
        self._carry = carry
        self._wanted: Dict[str, Tuple[Entry, Dict[str, Any]]] = {}
        # Jobs whose entries cannot be carried any more: what is there stays, for the entry is not gone.
        self._kept: Set[str] = set()
        self._stopped: List[Step] = []
        self.problems: List[Problem] = []
        self.idle: List[Problem] = []
        self.notes: Dict[str, Tuple[str, ...]] = {}

    def add(self, entry: Entry, name: str, how: Mapping[str, Any]) -> None:
        """Takes an entry, whose job is called so."""
        if entry.schedule is None:
            self._refuse(entry, name, entry.problem or "it has no schedule")
            return
        try:
            if not self._allow_unknown and entry.problem is None and entry.task not in self._app.tasks:
                raise CannotCarry(unregistered(entry.task), f"{KNOWN_BY}, or pass --allow-unknown")
            made = convert(entry, self._app, name=name, **how)
        except CannotCarry as refusal:
            self._refuse(entry, name, str(refusal), refusal.only_python)
        except Exception as error:
            # Of code of the app's own.
            self._refuse(entry, name, f"{type(error).__name__}: {error}")
        else:
            if name in self._present:
                _keep_origin(made.job, self._present[name], self._app)
                if not self._carry:
                    _keep_phase(made.job, self._present[name])
            self._wanted[name] = (entry, made.job)
            self.notes[name] = tuple(made.notes)

    def look_for_strangers(self, names: Sequence[str]) -> None:
        """Names what `chronarch_jobs` says of entries that there are not."""
        for name, reason in _job_settings.strangers(self._app, names).items():
            self.problems.append(Problem(_job_settings.JOBS, name, reason))

    def _refuse(self, entry: Entry, name: str, reason: str, only_python: bool = False) -> None:
        found = Problem(entry.source, entry.name, reason, only_python)
        self._kept.add(name)
        if entry.enabled:
            self.problems.append(found)
            return
        # Nobody sends it; what its job was made of before may not be sent either.
        self.idle.append(found)
        present = self._present.get(name)
        if present is None or present.spec is None or (present.pause and present.pause.reason != HELD):
            return
        step = Step("~", name, entry.source, entry, present.spec.to_dict(), pause=DISABLED)
        self._stopped.append(dataclasses.replace(step, was_paused=present.pause is not None))

    def steps(self, client: Client, hold: bool) -> List[Step]:
        """What becomes of the jobs of the entries that were taken."""
        changes, refused = _compared(client, {name: job for name, (_, job) in self._wanted.items()})
        for name, reason in refused.items():
            self._refuse(self._wanted[name][0], name, reason)
        steps = []
        for name, change in changes.items():
            entry, job = self._wanted[name]
            if name not in self._present and change.change != "created":
                ways = "give the app a namespace of its own (chronarch_namespace), pass --prefix, or rename one"
                reason = f"name: a job {name} is there that was not made for this app; {ways}"
                self._refuse(entry, name, reason)
            else:
                steps.append(_step(name, entry, job, change, self._present.get(name), hold))
                # What runs once and is over runs all the same.
                told = () if _late.is_once(entry) else tuple(change.warnings)
                self.notes[name] = (*self.notes.get(name, ()), *told)
        return steps + self._stopped

    def gone(self, sources: Sequence[str]) -> List[str]:
        """The jobs whose entries are no more, of these sources."""
        left = set(self._present) - set(self._wanted) - self._kept
        return sorted(name for name in left if _source(self._present[name]) in sources)


def _source(job: models.Job) -> str:
    return "" if job.spec is None else job.spec.labels.get(SOURCE, "")


def is_held(jobs: Iterable[models.Job]) -> bool:
    """Whether an app as a whole waits for `adopt`: some of its jobs are held, and none is let go. What is disabled at
    its source or paused by somebody says nothing of it; nor do some that stay held beside others that run."""
    reasons = [None if job.pause is None else job.pause.reason for job in jobs if not _is_bare(job)]
    return HELD in reasons and None not in reasons


def _is_adopted(jobs: Sequence[models.Job]) -> bool:
    """Whether any of them runs, or would if nobody had paused it."""
    paused = [None if job.pause is None else job.pause.reason for job in jobs if not _is_bare(job)]
    return any(reason not in (HELD, DISABLED) for reason in paused) and not is_held(jobs)


def _is_bare(job: models.Job) -> bool:
    """Whether it is one that a sync did not come to pausing, and left without its schedule."""
    return job.pause is None and job.spec is not None and not job.spec.schedule


def _keep_phase(job: Dict[str, Any], present: models.Job) -> None:
    """An interval that stays as long as it is goes on as it is: its last run at the source is not the cluster's."""
    schedule = job["schedule"][0]
    there = present.spec.schedule[0] if present.spec is not None and len(present.spec.schedule) == 1 else None
    if there is None or "every" not in schedule or there.every != parse_span(schedule["every"]):
        return
    schedule.pop("offset", None)
    if there.offset:
        schedule["offset"] = there.offset


def _keep_origin(job: Dict[str, Any], present: models.Job, app: Any) -> None:
    """One that says where the app is from says so still, by whichever process it was made."""
    origin = _identity.origin_for(app, present)
    if origin is not None:
        job["labels"][ORIGIN] = origin


def _compared(
    client: Client, wanted: Mapping[str, Dict[str, Any]]
) -> Tuple[Dict[str, models.AppliedJob], Dict[str, str]]:
    """What applying would change, and which jobs the cluster refuses, with the reason."""
    changes: Dict[str, models.AppliedJob] = {}
    refused: Dict[str, str] = {}
    for names in _chunks(list(wanted)):
        left = list(names)
        while left:
            try:
                answer = client.apply_jobs([wanted[name] for name in left], dry_run=True)
            except InvalidArgument as error:
                found = _by_job(error, left)
                if not found:
                    raise
                refused.update(found)
                left = [name for name in left if name not in found]
            else:
                changes.update(zip(left, answer.results))
                break
    return changes, refused


def _chunks(names: List[str]) -> Iterator[List[str]]:
    for at in range(0, len(names), _JOBS_AT_ONCE):
        yield names[at : at + _JOBS_AT_ONCE]


def _by_job(error: InvalidArgument, names: Sequence[str]) -> Dict[str, str]:
    """The problems of a refusal by the jobs that have them: paths begin with `jobs[2].`, or with none for one job."""
    found: Dict[str, List[str]] = {}
    for problem in error.problems:
        begin, _, rest = problem.path.partition("].")
        number = begin[len("jobs[") :]
        if not (begin.startswith("jobs[") and number.isdigit() and int(number) < len(names)):
            continue
        hint = f"; {problem.hint}" if problem.hint else ""
        found.setdefault(names[int(number)], []).append(f"{rest}: {problem.reason}{hint}")
    return {name: " / ".join(reasons) for name, reasons in found.items()}


def _step(
    name: str,
    entry: Entry,
    job: Dict[str, Any],
    change: models.AppliedJob,
    present: Optional[models.Job],
    hold: bool,
) -> Step:
    step = Step("=", name, entry.source, entry, job, tuple(change.changes))
    if present is None or _is_bare(present):
        return dataclasses.replace(step, sign="+", pause=DISABLED if not entry.enabled else HELD if hold else None)
    paused = None if present.pause is None else present.pause.reason
    if paused not in (None, HELD, DISABLED):
        step = dataclasses.replace(step, paused_by=paused or "no reason told")
    elif not entry.enabled and paused != DISABLED:
        step = dataclasses.replace(step, sign="~", pause=DISABLED, was_paused=paused is not None)
    elif entry.enabled and paused == DISABLED:
        pause = HELD if hold else None
        step = dataclasses.replace(step, sign="~", pause=pause, was_paused=True, resume=pause is None)
    elif paused == HELD:
        step = dataclasses.replace(step, stays_held=True)
    return dataclasses.replace(step, sign="~") if change.change == "updated" else step


def apply(client: Client, planned: Plan) -> None:
    """Carries a plan out. What it did stays done where it fails, and another sync does the rest.

    Raises:
        ChronarchError: the cluster cannot be asked, or refuses.
    """
    namespace = planned.namespace
    changes = {step.name: step for step in planned.changes if step.job is not None}
    # Without a schedule nothing can fire until it is paused, or paused for another reason.
    bare = [step.name for step in changes.values() if step.pause and (step.sign == "+" or step.was_paused)]
    for names in _chunks(bare):
        client.apply_jobs([{**_job(changes[name]), "schedule": []} for name in names], reason=REASON)
    for step in changes.values():
        if step.pause and step.was_paused:
            client.resume_job(step.name, namespace=namespace, reason=REASON)
        if step.pause:
            client.pause_job(step.name, namespace=namespace, reason=step.pause)
    over = _put(client, changes)
    for step in changes.values():
        if step.resume:
            client.resume_job(step.name, namespace=namespace, reason=REASON)
    for step in planned.changes:
        if step.sign == "-":
            client.delete_job(step.name, namespace=namespace, reason=REASON)
    for name in over:
        _run_late(client, namespace, changes[name])


def _put(client: Client, changes: Mapping[str, Step]) -> List[str]:
    """Applies the jobs of these steps; which of them have no instant that is still to come."""
    over: List[str] = []
    for names in _chunks(list(changes)):
        answer = client.apply_jobs([_job(changes[name]) for name in names], reason=REASON)
        over += [name for name, applied in zip(names, answer.results) if applied.next_at is None]
    return over


def _run_late(client: Client, namespace: str, step: Step) -> None:
    """Runs what is due at an instant that is over and has not run, as a beat does when it comes to it. What is held
    runs when it is adopted."""
    if step.entry is not None and _late.is_once(step.entry) and not (step.pause or step.stays_held or step.paused_by):
        _late.run(client, namespace, client.get_job(step.name, namespace=namespace), step.entry, REASON)


def _job(step: Step) -> Dict[str, Any]:
    assert step.job is not None
    return step.job


__all__ = [
    "DISABLED",
    "HELD",
    "Plan",
    "Problem",
    "Step",
    "apply",
    "collect",
    "found_sources",
    "legal_name",
    "plan",
]
