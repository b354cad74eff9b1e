"""What the cluster knows of periodic tasks, for pages that people wait for: few calls, and little time for them."""

import datetime
import time
from typing import Dict, Iterable, List, Optional, Tuple

from .._options import Options
from ..celery.entries import APP, DJANGO, MANAGED_BY, MANAGER, SOURCE, Entry, app_label, named
from ..errors import ChronarchError, NotFound
from ..models import Job, Run, RunState
from . import _checks, _connect

# Seconds that a page waits for the cluster, all calls together.
PATIENCE = 2.0
# Jobs that are asked for at once, the most that the cluster tells; a project with more needs another call.
JOBS_AT_ONCE = 1_000
# Runs that the page of one task shows.
RUNS_SHOWN = 20


class Silent(Exception):
    """The cluster did not tell; the text says why."""


def labels() -> Dict[str, str]:
    """Those that the jobs of this project's rows have."""
    return {MANAGED_BY: MANAGER, SOURCE: DJANGO, APP: app_label(_checks.celery_app(_options()))}


def job_names(using: Optional[str] = None) -> Dict[str, str]:
    """The job of each periodic task, by names. All rows are looked at, for two may ask for one name."""
    from django_celery_beat.models import PeriodicTask

    names = PeriodicTask.objects.using(using).order_by("pk").values_list("name", flat=True)
    return {entry.name: job for entry, job in named([Entry("", name, "", None, DJANGO) for name in names])}


def jobs_of(names: Iterable[str]) -> Tuple[Dict[str, Job], bool]:
    """Those of the periodic tasks that have a job, by their names, and whether all were looked for: in a project of
    many thousands the time may be over before.

    Raises:
        Silent: the cluster did not tell.
    """
    known = job_names()
    wanted = {known[name]: name for name in names if name in known}
    found: Dict[str, Job] = {}
    token, deadline = "", time.monotonic() + PATIENCE
    namespace = _options().namespace
    while wanted.keys() - found.keys():
        left = deadline - time.monotonic()
        if left <= 0:
            return {wanted[job]: one for job, one in found.items()}, False
        try:
            page = _connect.client().list_jobs(
                namespace=namespace, labels=labels(), page_size=JOBS_AT_ONCE, page_token=token, timeout=left
            )
        except ChronarchError as error:
            raise Silent(error.message) from error
        found.update({job.spec.name: job for job in page.jobs if job.spec is not None and job.spec.name in wanted})
        token = page.next_page_token
        if not token:
            break
    return {wanted[job]: one for job, one in found.items()}, True


def history_of(name: str) -> Tuple[Optional[Job], List[Run]]:
    """The job of a periodic task, if it has one, and its newest runs.

    Raises:
        Silent: the cluster did not tell.
    """
    job = job_names().get(name)
    if job is None:
        return None, []
    namespace, client, deadline = _options().namespace, _connect.client(), time.monotonic() + PATIENCE
    try:
        try:
            found = client.get_job(job, namespace=namespace, timeout=PATIENCE)
        except NotFound:
            return None, []
        left = max(deadline - time.monotonic(), 0.1)
        return found, client.list_runs(namespace=namespace, job=job, page_size=RUNS_SHOWN, timeout=left).runs
    except ChronarchError as error:
        raise Silent(error.message) from error


def run_now(name: str, operation_id: str, actor: str) -> str:
    """Makes a run of a periodic task's job, and returns its id.

    Raises:
        ChronarchError: the cluster refuses, or cannot be reached, or there is no such job.
    """
    job = job_names().get(name)
    if job is None:
        raise NotFound(f"no periodic task {name!r}")
    run = _connect.client().trigger_job(
        job, namespace=_options().namespace, operation_id=operation_id, actor=actor, reason="admin", timeout=PATIENCE
    )
    return run.run_id


def _options() -> Options:
    return _connect.options()


def next_at(job: Job) -> Optional[datetime.datetime]:
    """When it is due next."""
    return None if job.pause is not None else job.next_due_at or job.next_at


def outcome(run: Run) -> str:
    """How a run went, in a word or two."""
    if run.state is RunState.SUCCEEDED:
        # Where nothing waits for the task, only the sending can go well.
        return "succeeded" if run.attempts and run.attempts[-1].task_id else "sent"
    return f"{run.state}: {run.reason}" if run.reason else str(run.state)


def lateness(run: Run) -> Optional[datetime.timedelta]:
    """From the instant at which it was due until its message was with the broker, in the last attempt."""
    told = [attempt.handed_over_at or attempt.finished_at for attempt in run.attempts]
    ends = [at for at in told if at is not None]
    due = run.due_at or run.scheduled_at
    if not ends or due is None or run.state is RunState.SKIPPED:
        return None
    return max(max(ends) - due, datetime.timedelta())


def spoken(span: datetime.timedelta) -> str:
    """A span as people read it: `12 ms`, `3.4 s`, `5 min`."""
    seconds = span.total_seconds()
    if seconds < 1:
        return f"{seconds * 1000:.0f} ms"
    if seconds < 60:
        return f"{seconds:.1f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5_400 else f"{seconds / 3_600:.1f} h"
