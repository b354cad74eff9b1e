"""A beat beside the due times of the cluster, for some time, while nothing is sent by this.

What is seen are messages (see `_watch`), and of django-celery-beat and RedBeat `last_run_at` as well. When only workers
tell of messages, an instant is that at which a worker got it, so that a busy one makes beat look late. Entries with the
same task and the same arguments cannot be told apart and are looked at together.

A crontab, an event of the sun and an instant are due when the cluster says so. An interval has another phase in beat,
which counts from its own last run: of it only the distances are compared.
"""

import datetime
from dataclasses import dataclass, field
from typing import Any, Dict, List, Mapping, Optional, Sequence, Tuple

from ..client import Client
from ..models import Job
from . import sync
from ._identity import APP, app_label
from ._jobs import MANAGED_BY, MANAGER, named
from ._watch import Seen, events_on, watch
from .entries import Entry

UTC = datetime.timezone.utc
# Characters of arguments that Celery tells.
_REPR_CHARS = 1024
# How long after the end of the window messages are waited for at least: workers gather events before they tell them.
_GRACE = datetime.timedelta(seconds=3)
# Due times that are asked for at once, and that are looked at of one entry.
_DUE_AT_ONCE = 1_000
DUE_MAX = 100_000


@dataclass
class Count:
    """What became of the instants of an entry."""

    on_time: int = 0
    late: int = 0
    missed: int = 0
    doubled: int = 0
    extra: int = 0
    """Sent when nothing was due."""

    @property
    def differs(self) -> bool:
        """Whether anything is not as it should be."""
        return bool(self.late or self.missed or self.doubled or self.extra)


@dataclass
class Line:
    """One entry, or several that cannot be told apart."""

    names: List[str]
    due: int
    beat: Count
    cluster: Optional[Count] = None
    """None: its job is held, or not there."""
    differences: List[str] = field(default_factory=list)


@dataclass
class Report:
    """What was seen."""

    begin: datetime.datetime
    end: datetime.datetime
    workers: int
    """Celery workers that tell of messages."""
    told_by_publisher: bool
    """Whether a publisher told of any: `task_send_sent_event`."""
    lines: List[Line]
    not_compared: Dict[str, str]
    gaps: List[datetime.datetime] = field(default_factory=list)
    """When the connection to the broker broke: what is missing then may only not have been seen."""

    @property
    def blind(self) -> bool:
        """Whether nobody tells of messages."""
        return self.workers == 0 and not self.told_by_publisher

    @property
    def differs(self) -> bool:
        """Whether anything is not as it should be."""
        return any(line.differences for line in self.lines)


def compare(
    app: Any,
    client: Client,
    sources: Optional[Sequence[str]],
    *,
    namespace: str,
    prefix: str,
    span: datetime.timedelta,
    tolerance: datetime.timedelta,
) -> Report:
    """Watches for `span` and a little more, and compares. Sends nothing and changes no job.

    Args:
        app: the Celery app.
        client: of the cluster.
        sources: of the schedule; None: those that are found.
        namespace: where the jobs are.
        prefix: what their names begin with.
        span: how long.
        tolerance: by how much a message may be behind.

    Raises:
        ChronarchError: the cluster cannot be asked.
    """
    entries = sync.collect(app, sources)
    labels = {MANAGED_BY: MANAGER, APP: app_label(app)}
    jobs = {job.spec.name: job for job in client.iter_jobs(namespace=namespace, labels=labels) if job.spec}
    groups, not_compared = _groups(entries, jobs, prefix)
    gaps: List[datetime.datetime] = []
    begin = datetime.datetime.now(UTC)
    with events_on(app) as workers:
        seen = watch(app, (span + max(tolerance, _GRACE)).total_seconds(), gaps=gaps)
    end = begin + span
    last_runs = {entry.name: entry.last_run_at for entry in sync.collect(app, sources) if entry.last_run_at}
    lines = []
    for key, members in sorted(groups.items(), key=lambda group: group[1][0][0].name):
        times = [one.at for one in seen if not one.by_cluster and _key_of(one) == key]
        _add_last_runs(times, members, last_runs, begin, end, tolerance)
        lines.append(_line(client, namespace, members, sorted(times), (begin, end, tolerance)))
    return Report(begin, end, workers, any(one.sent for one in seen), lines, not_compared, gaps)


Key = Tuple[str, str, str]
Member = Tuple[Entry, Job]


def _groups(
    entries: Sequence[Entry], jobs: Mapping[str, Job], prefix: str
) -> Tuple[Dict[Key, List[Member]], Dict[str, str]]:
    groups: Dict[Key, List[Member]] = {}
    not_compared: Dict[str, str] = {}
    for entry, name in named(entries, prefix):
        if entry.problem is not None:
            not_compared[entry.name] = entry.problem
        elif name not in jobs:
            not_compared[entry.name] = "it has no job: `chronarch-celery sync` makes one that is held"
        elif entry.enabled:
            groups.setdefault(_key(entry.task, entry.args, entry.kwargs), []).append((entry, jobs[name]))
    return groups, not_compared


def _key(task: str, args: Sequence[Any], kwargs: Mapping[str, Any]) -> Key:
    from celery.utils.saferepr import saferepr

    return task, _inner(saferepr(tuple(args), _REPR_CHARS)), saferepr(dict(kwargs), _REPR_CHARS)


def _key_of(one: Seen) -> Key:
    return one.task, _inner(one.args), one.kwargs or "{}"


def _inner(text: str) -> str:
    """Arguments without what a tuple and a list differ in."""
    return text.strip()[1:-1].rstrip(",")


def _add_last_runs(
    times: List[datetime.datetime],
    members: Sequence[Member],
    last_runs: Mapping[str, datetime.datetime],
    begin: datetime.datetime,
    end: datetime.datetime,
    tolerance: datetime.timedelta,
) -> None:
    for entry, _ in members:
        at = last_runs.get(entry.name)
        # A source that has noted a run whose message nobody told of.
        if at is not None and begin <= at <= end and not any(abs(one - at) <= tolerance for one in times):
            times.append(at)


Window = Tuple[datetime.datetime, datetime.datetime, datetime.timedelta]


def _line(
    client: Client, namespace: str, members: Sequence[Member], times: List[datetime.datetime], window: Window
) -> Line:
    begin, end, tolerance = window
    names = [entry.name for entry, _ in members]
    # Also what is due a little before and after: its messages are seen, and belong to nothing else.
    around = (begin - tolerance, end + tolerance)
    due = sorted(at for _, job in members for at in _due(client, namespace, _name(job), *around))
    differences: List[str] = []
    period = getattr(members[0][0].schedule, "run_every", None)
    if len(members) == 1 and period is not None and not members[0][0].schedule.relative:
        beat = distances([at for at in times if begin <= at < end], period, window, differences)
    else:
        beat = instants(due, times, window, differences)
    active = [job for _, job in members if job.pause is None]
    cluster = None
    if active:
        wanted = sorted(at for job in active for at in _due(client, namespace, _name(job), begin, end))
        cluster = _of_cluster(client, namespace, active, wanted, window, differences)
    return Line(names, sum(begin <= at < end for at in due), beat, cluster, differences)


def _name(job: Job) -> str:
    assert job.spec is not None
    return job.spec.name


def _due(
    client: Client, namespace: str, name: str, begin: datetime.datetime, end: datetime.datetime
) -> List[datetime.datetime]:
    found: List[datetime.datetime] = []
    after = begin
    while len(found) < DUE_MAX:
        page = client.next_occurrences(name, namespace=namespace, after=after, count=_DUE_AT_ONCE).occurrences
        due = [one.at for one in page if one.at is not None and one.at < end]
        found += due
        if len(due) < _DUE_AT_ONCE:
            break
        after = due[-1]
    return found


def _clock(at: datetime.datetime) -> str:
    return f"{at.astimezone(UTC):%Y-%m-%d %H:%M:%S} UTC"


def instants(
    due: Sequence[datetime.datetime], times: Sequence[datetime.datetime], window: Window, differences: List[str]
) -> Count:
    """Messages beside instants, both in their order: each message stands for the last instant before it. Instants
    outside of the window take their messages, and do not count."""
    begin, end, tolerance = window
    count = Count()
    # A clock may be a little ahead; and entries that are due at nearly the same time cannot be told apart.
    near = datetime.timedelta(seconds=1)
    groups: List[List[datetime.datetime]] = []
    for one in due:
        if groups and one - groups[-1][0] < near:
            groups[-1].append(one)
        else:
            groups.append([one])
    of: Dict[int, List[datetime.datetime]] = {}
    for at in times:
        before = [place for place, group in enumerate(groups) if group[0] <= at + near]
        if before:
            of.setdefault(before[-1], []).append(at)
        elif begin <= at < end:
            count.extra += 1
            differences.append(f"beat: sent at {_clock(at)}, when nothing was due")
    for place, group in enumerate(groups):
        # As many messages as there are.
        one, same = group[0], len(group)
        sent = of.get(place, [])
        if not begin <= one < end:
            continue
        lacking = same - len(sent)
        if lacking > 0:
            count.missed += lacking
            differences.append(f"beat: missed {_clock(one)}" + (f", {lacking} times" if lacking > 1 else ""))
        elif lacking < 0:
            count.doubled += -lacking
            differences.append(f"beat: sent {len(sent)} times for {_clock(one)}")
        late = [at for at in sent[:same] if at - one > tolerance]
        count.late += len(late)
        count.on_time += min(len(sent), same) - len(late)
        differences += [f"beat: {(at - one).total_seconds():.1f} s late for {_clock(one)}" for at in late]
    return count


def distances(
    times: Sequence[datetime.datetime], period: datetime.timedelta, window: Window, differences: List[str]
) -> Count:
    """Messages of an interval: how far they are from each other, and from the ends of the window."""
    begin, end, tolerance = window
    count = Count()
    last, first = begin, True
    for at in times:
        gap = at - last
        if not first and gap < period / 2:
            count.doubled += 1
            differences.append(f"beat: sent at {_clock(at)}, {gap.total_seconds():.1f} s after the one before")
            continue
        _note_gap(gap, period, tolerance, (last, at), (count, differences))
        last, first = at, False
    if end - last > period + tolerance:
        _note_gap(end - last, period, tolerance, (last, end), (count, differences), ends=False)
    return count


def _note_gap(
    gap: datetime.timedelta,
    period: datetime.timedelta,
    tolerance: datetime.timedelta,
    between: Tuple[datetime.datetime, datetime.datetime],
    into: Tuple[Count, List[str]],
    ends: bool = True,
) -> None:
    count, differences = into
    if gap <= period + tolerance:
        count.on_time += 1
        return
    lacking = gap // period - (1 if ends else 0)
    seconds = gap.total_seconds()
    if lacking < 1:
        count.late += 1
        differences.append(f"beat: {seconds - period.total_seconds():.1f} s late at {_clock(between[1])}")
        return
    count.missed += lacking
    count.on_time += int(ends)
    differences.append(f"beat: nothing for {seconds:.1f} s after {_clock(between[0])}, {lacking} missed")


def _of_cluster(
    client: Client,
    namespace: str,
    jobs: Sequence[Job],
    due: Sequence[datetime.datetime],
    window: Window,
    differences: List[str],
) -> Count:
    begin, end, tolerance = window
    count = Count()
    fired: List[datetime.datetime] = []
    for job in jobs:
        for run in client.iter_runs(namespace=namespace, job=_name(job), from_=begin, to=end):
            # One record may stand for many instants that were skipped.
            if run.scheduled_at is None or run.fired_at is None or run.state == "skipped":
                continue
            fired.append(run.scheduled_at)
            late = run.fired_at - run.scheduled_at
            if late > tolerance:
                count.late += 1
                differences.append(f"cluster: {late.total_seconds():.1f} s late for {_clock(run.scheduled_at)}")
            else:
                count.on_time += 1
    left = list(fired)
    for at in due:
        if at in left:
            left.remove(at)
        else:
            count.missed += 1
            differences.append(f"cluster: missed {_clock(at)}")
    return count
