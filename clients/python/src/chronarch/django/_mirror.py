"""`last_run_at` and `total_run_count` of django-celery-beat's rows, kept as its own scheduler would keep them.

So that pages and reports that show them stay right, and so that a project can go back to the old scheduler at any time
without a task running at once.

`last_run_at` is the instant that the newest run of the schedule stood for, and at the same time the mark up to which
runs are counted. A row is changed only while it still has the mark that was read: of several processes that do this at
once one counts, and a row that was saved meanwhile with old figures is counted again from the older mark. Rows are
changed by `update`, which sends no signals and leaves `date_changed` as it is. Runs that somebody asked for do not
count, as in django-celery-beat; those that were caught up with for the schedule do.
"""

import datetime
import logging
import time
from dataclasses import dataclass
from typing import Any, Dict, List, Mapping, Optional, Tuple

from ..celery import _late, _pages, adopt
from ..client import Client
from ..models import Cause, Run, RunState
from . import _look

log = logging.getLogger(__name__)

# Runs that are asked for at once.
PAGE = 1_000
# Pages of runs that are read at most to count them; the rest of a longer absence is not in the counts.
RUN_PAGES_MAX = 100
# Of runs that may count; of those by request the ones that were caught up with.
_CAUSES = (Cause.SCHEDULE, Cause.CATCH_UP, Cause.MANUAL)
_EPOCH = datetime.datetime(1970, 1, 1, tzinfo=datetime.timezone.utc)
_MILLISECOND = datetime.timedelta(milliseconds=1)


@dataclass(frozen=True)
class _Row:
    pk: Any
    mark: Optional[datetime.datetime]
    since: datetime.datetime
    one_off: bool


def write_back(client: Client, namespace: str, *, deadline: float, using: Optional[str] = None) -> int:
    """Brings the rows up to date, and returns how many were changed.

    Args:
        client: of the cluster.
        namespace: of the jobs.
        deadline: by `time.monotonic()`; what is not done by then is done by the next call.
        using: the database; None: where the router reads.

    Raises:
        ChronarchError: the cluster did not tell.
        django.db.Error: the rows cannot be read or changed.
    """
    rows = _rows(using)
    behind = _behind(client, namespace, rows, deadline)
    if not behind:
        return 0
    seen = _count(client, namespace, behind, deadline)
    return sum(_update(row, *seen[job], using) for job, row in behind.items() if job in seen)


def _rows(using: Optional[str]) -> Dict[str, _Row]:
    """By the names of their jobs."""
    from django_celery_beat.models import PeriodicTask

    names = _look.job_names(using)
    found = {}
    columns = ("pk", "name", "last_run_at", "date_changed", "one_off", "clocked__clocked_time")
    # A row that is disabled has been cleared, or says when it last ran; both stay.
    rows = PeriodicTask.objects.using(using).filter(enabled=True).values_list(*columns)
    for pk, name, mark, changed, one_off, clocked in rows:
        if name in names:
            # One that has a single instant, and was saved again since it ran for it, has run all the same.
            since = mark or (changed if clocked is None else min(changed, clocked - _MILLISECOND))
            found[names[name]] = _Row(pk, mark, _aware(since), one_off)
    return found


def _aware(at: Optional[datetime.datetime]) -> datetime.datetime:
    from django.utils import timezone

    if at is None:
        return _EPOCH
    return timezone.make_aware(at) if timezone.is_naive(at) else at


def _behind(client: Client, namespace: str, rows: Mapping[str, _Row], deadline: float) -> Dict[str, _Row]:
    """Those whose job has run since."""
    found = {}
    for job in _pages.jobs(client, namespace, _look.labels(), timeout=_left(deadline)):
        row = None if job.spec is None else rows.get(job.spec.name)
        if job.spec is None or row is None:
            continue
        # A run that has not ended is not told with its job; it is looked for.
        if job.live_runs or (job.last_run is not None and _newest(job.last_run) > row.since):
            found[job.spec.name] = row
    return found


def _count(
    client: Client, namespace: str, behind: Mapping[str, _Row], deadline: float
) -> Dict[str, Tuple[int, datetime.datetime]]:
    """How many runs each has had since its mark, and the instant of the newest."""
    seen: Dict[str, Tuple[int, datetime.datetime]] = {}
    oldest = min(row.since for row in behind.values())
    token, labels = "", _look.labels()
    for _ in range(RUN_PAGES_MAX):
        page = client.list_runs(
            namespace=namespace,
            labels=labels,
            causes=list(_CAUSES),
            from_=oldest,
            page_size=PAGE,
            page_token=token,
            timeout=_left(deadline),
        )
        for run in page.runs:
            row = behind.get(run.job)
            if row is None or run.scheduled_at is None or run.scheduled_at <= row.since:
                continue
            # One that waits for a worker counts: beat has sent it, by then.
            if run.state is RunState.SKIPPED or not _late.is_of_schedule(run):
                continue
            count, newest = seen.get(run.job, (0, run.scheduled_at))
            seen[run.job] = (count + 1, max(newest, run.scheduled_at))
        token = page.next_page_token
        if not token:
            return seen
    log.warning("total_run_count lacks runs: there were more than %d since the last time", RUN_PAGES_MAX * PAGE)
    return seen


def _newest(run: Run) -> datetime.datetime:
    """The newest run may be one that does not count; then the count finds nothing new."""
    return run.scheduled_at or _EPOCH


def _update(row: _Row, count: int, newest: datetime.datetime, using: Optional[str]) -> int:
    from django.conf import settings
    from django.db.models import F
    from django.utils import timezone
    from django_celery_beat.models import PeriodicTask

    at = newest if settings.USE_TZ else timezone.make_naive(newest)
    values: Dict[str, Any] = {"last_run_at": at, "total_run_count": F("total_run_count") + count}
    if row.one_off:
        values = adopt.DONE
    changed: int = (
        PeriodicTask.objects.using(using).filter(pk=row.pk, enabled=True, last_run_at=row.mark).update(**values)
    )
    return changed


def _left(deadline: float) -> float:
    return max(deadline - time.monotonic(), 0.1)


__all__: List[str] = ["write_back"]
