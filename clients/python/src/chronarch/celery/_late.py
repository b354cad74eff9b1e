"""What runs a single time, and whose instant passed before its job could run it: while the job was held, or before it
was there.

A beat sends such an entry when it comes to it, however late. The cluster does not: what is due while a job is paused is
passed over, and a job with no instant to come is exhausted. So whoever lets jobs go runs it by request, in the name of
the schedule: `ACTOR` tells these runs from those that a person asked for, and rows are told of them as of any other.
"""

import datetime
import hashlib
from typing import TYPE_CHECKING, Optional

from ..client import Client
from ..models import Cause, Job, Run
from ._jobs import MANAGER, once_from
from ._schedules import clocked_at

if TYPE_CHECKING:
    from .entries import Entry

# Who asks for what the schedule would have sent.
ACTOR = f"{MANAGER} catch-up"
# As fine as the cluster's instants are.
_MILLISECOND = datetime.timedelta(milliseconds=1)


def operation_at(kind: str, namespace: str, name: str, at: datetime.datetime) -> str:
    """The id of what is done once for an instant of a job, by however many."""
    digest = hashlib.sha256(f"{namespace}/{name}".encode()).hexdigest()[:32]
    return f"{kind}-{digest}-{int(at.timestamp() * 1_000)}"


def is_of_schedule(run: Run) -> bool:
    """Whether it is one that the schedule made, or that was caught up with for it; not one that somebody asked for."""
    return run.cause in (Cause.SCHEDULE, Cause.CATCH_UP) or (run.cause is Cause.MANUAL and run.actor == ACTOR)


def is_once(entry: "Entry") -> bool:
    """Whether it runs a single time."""
    return entry.one_off or clocked_at(entry.schedule) is not None


def since_of(entry: "Entry") -> Optional[datetime.datetime]:
    """The instant behind which the only run of an entry that runs once lies; None: it runs more than once, or nothing
    says it."""
    at = clocked_at(entry.schedule)
    since = at if at is not None else once_from(entry) if entry.one_off else None
    return None if since is None else since - _MILLISECOND


def run(client: Client, namespace: str, job: Job, entry: "Entry", reason: str) -> Optional[datetime.datetime]:
    """Runs what runs once, is due at an instant that is over, and has not run; returns that instant, or None.

    Args:
        client: of the cluster.
        namespace: of the job.
        job: as it is since it was let go.
        entry: what it was made of.
        reason: for the record.

    Raises:
        ChronarchError: the cluster cannot be asked, or refuses.
    """
    if job.spec is None or job.pause is not None or job.next_at is not None or not entry.enabled:
        return None
    at = _missed(client, namespace, job.spec.name, entry)
    if at is not None:
        # However often this is done, and by how many.
        operation = operation_at("late", namespace, job.spec.name, at)
        client.trigger_job(job.spec.name, namespace=namespace, operation_id=operation, actor=ACTOR, reason=reason)
    return at


def _missed(client: Client, namespace: str, name: str, entry: "Entry") -> Optional[datetime.datetime]:
    """Its only instant, where that is over and nothing ran for it."""
    now = datetime.datetime.now(datetime.timezone.utc)
    at, since = clocked_at(entry.schedule), since_of(entry)
    if at is not None and entry.last_run_at is not None:
        return None
    if since is None or (entry.expires is not None and entry.expires <= now):
        return None
    if at is None:
        found = client.next_occurrences(name, namespace=namespace, after=since, count=1).occurrences
        at = found[0].at if found else None
    if at is None or at > now:
        return None
    runs = client.iter_runs(namespace=namespace, job=name, from_=since)
    return None if any(is_of_schedule(one) for one in runs) else at
