"""Ends of tasks of which nobody told the cluster, found in the app's result backend.

A run waits for its task, and Celery's workers tell how that ends by messages of ours and by events. Neither tells of a
task that was revoked or had expired while nobody listened, and a broker that lost its memory has lost the messages. The
result backend still knows: Redis, a database, django-db, whatever the app has, for it is asked through Celery itself.

An end that is known already is told to no effect, so that any number of these may run, beside all else. A run that
cannot be judged is named, and stops none of the others.
"""

import datetime
import json
import socket
import uuid
from dataclasses import dataclass, field
from typing import Any, Dict, Iterable, Iterator, List, Optional, Tuple

from .. import models
from ..client import Client
from ..errors import ChronarchError, InvalidArgument, NotFound, PermissionDenied, Refused, Unexpected

UTC = datetime.timezone.utc
# Tasks that are told of in one call, and looked up at once: what the cluster takes.
BATCH = 500
# What the cluster keeps of a result, in bytes.
RESULT_BYTES = 4_096
# A task that was left later than that is told of by other means, most likely.
OLDER_THAN = datetime.timedelta(seconds=60)
# Backends that say nothing to who has not sent the task: that of `rpc://`, whose results are messages to the sender,
# and none at all.
BLIND = ("RPCBackend", "DisabledBackend")
# What the cluster says of one run or job, and not of all that it is asked.
_OF_ONE = (InvalidArgument, NotFound, PermissionDenied, Refused, Unexpected)


class NoBackend(Exception):
    """The app has no result backend that can be asked."""


@dataclass(frozen=True)
class Awaited:
    """A task that a run waits for."""

    run: models.Run
    task_id: str
    connection: str
    delivery: int


@dataclass
class Found:
    """What was found."""

    awaited: int = 0
    """Tasks that were looked up."""
    ended: List[Tuple[str, str, str]] = field(default_factory=list)
    """Ends that were told: the run, the task, and its state at Celery's."""
    unknown: int = 0
    """Tasks of which the backend has nothing: they wait, or run, or their results are not kept."""
    unjudged: List[Tuple[str, str, str]] = field(default_factory=list)
    """Tasks of which cannot be told whether they have ended: the run, the task, and why."""

    def failed(self, task: Awaited, error: Exception) -> None:
        """Notes that it cannot be told of one."""
        words = error.message if isinstance(error, ChronarchError) else f"{type(error).__name__}: {error}"
        self.unjudged.append((task.run.run_id, task.task_id, words))


def check(app: Any) -> None:
    """Whether the app's backend can be asked.

    Raises:
        NoBackend: it cannot, and why.
    """
    name = type(app.backend).__name__
    if name == "RPCBackend":
        raise NoBackend(
            "the result backend is rpc://: results go to who has sent the task, and cannot be looked up; how tasks "
            "end is told without a backend"
        )
    if name in BLIND:
        raise NoBackend("the app has no result backend (result_backend); how tasks end is told without one")


def awaited(client: Client, *, older_than: datetime.timedelta = OLDER_THAN) -> Iterator[Awaited]:
    """Tasks that runs wait for, of all namespaces, that were left that long ago.

    Raises:
        ChronarchError: the cluster does not tell.
    """
    before = datetime.datetime.now(UTC) - older_than
    for run in client.iter_runs(states=[models.RunState.RUNNING], stale=True):
        attempt = run.attempts[-1] if run.attempts else None
        if attempt is None or attempt.task is None or not attempt.task_id or attempt.handed_over_at is None:
            continue
        if attempt.outcome == models.Outcome.RUNNING and attempt.handed_over_at <= before:
            # Each earlier attempt that left a task has left another one.
            delivery = sum(1 for one in run.attempts[:-1] if one.task_id)
            yield Awaited(run, attempt.task_id, attempt.task.connection, delivery)


def look(app: Any, tasks: Iterable[Awaited], found: Found) -> Iterator[Tuple[Awaited, Dict[str, Any]]]:
    """What the backend has of these; those that it has nothing of, or that cannot be read, are noted in `found`.

    Raises:
        Exception: whatever the backend raises that does not answer.
    """
    backend = app.backend
    batch: List[Awaited] = []
    for task in tasks:
        batch.append(task)
        if len(batch) == BATCH:
            yield from _look_at(backend, batch, found)
            batch = []
    yield from _look_at(backend, batch, found)


def _texts(backend: Any, batch: List[Awaited]) -> Optional[List[Any]]:
    """What Redis and its like have, in one round trip; None: it has to be asked for each."""
    if not (batch and hasattr(backend, "mget") and hasattr(backend, "get_key_for_task")):
        return None
    try:
        return list(backend.mget([backend.get_key_for_task(one.task_id) for one in batch]))
    except NotImplementedError:
        return None


def _look_at(backend: Any, batch: List[Awaited], found: Found) -> Iterator[Tuple[Awaited, Dict[str, Any]]]:
    texts = _texts(backend, batch)
    for number, one in enumerate(batch):
        try:
            if texts is not None:
                meta = backend.decode_result(texts[number]) if texts[number] else {}
            else:
                # Asked anew: what was found before is not believed.
                meta = backend.get_task_meta(one.task_id, cache=False)
            status = (meta or {}).get("status", "PENDING")
        except Exception as error:
            if texts is None:
                # Is it this one, or all? A backend that is away says so here as well.
                backend.get_task_meta(str(uuid.uuid4()), cache=False)
            found.failed(one, error)
            continue
        if status == "PENDING":
            found.unknown += 1
        else:
            yield one, meta


def reconcile(client: Client, app: Any, *, older_than: datetime.timedelta = OLDER_THAN) -> Found:
    """Looks up what runs wait for, and tells the cluster how it ended.

    Args:
        client: of the cluster.
        app: with the result backend that its workers have.
        older_than: tasks that were left later than that are not looked up.

    Raises:
        NoBackend: the app has none that can be asked.
        ChronarchError: the cluster cannot be asked, or refuses.
        Exception: whatever the backend raises that does not answer.
    """
    check(app)
    found = Found()
    tasks = list(awaited(client, older_than=older_than))
    found.awaited = len(tasks)
    ended: Dict[str, List[Tuple[Awaited, models.TaskEnded, str]]] = {}
    captures: Dict[Tuple[str, str], bool] = {}
    for task, meta in look(app, tasks, found):
        try:
            end = _end(client, app, task, meta, captures)
        except ChronarchError as error:
            if not isinstance(error, _OF_ONE):
                raise
            found.failed(task, error)
        except Exception as error:
            # What the task has left is no result of Celery's.
            found.failed(task, error)
        else:
            if end is not None:
                ended.setdefault(task.connection, []).append((task, end, str(meta["status"])))
    for connection, ends in ended.items():
        for start in range(0, len(ends), BATCH):
            _tell(client, connection, ends[start : start + BATCH], found)
    return found


def _tell(client: Client, connection: str, ends: List[Tuple[Awaited, models.TaskEnded, str]], found: Found) -> None:
    worker = f"reconcile@{socket.gethostname()}"[:255]
    try:
        client.report_tasks(connection=connection, worker=worker, ended=[end for _, end, _ in ends], only_tells=True)
    except ChronarchError as error:
        if not isinstance(error, _OF_ONE):
            raise
        if len(ends) == 1:
            found.failed(ends[0][0], error)
            return
        # It is one of them that is refused; which, each by itself tells.
        for one in ends:
            _tell(client, connection, [one], found)
    else:
        found.ended += [(task.run.run_id, task.task_id, status) for task, _, status in ends]


def _end(
    client: Client, app: Any, task: Awaited, meta: Dict[str, Any], captures: Dict[Tuple[str, str], bool]
) -> Optional[models.TaskEnded]:
    status = meta.get("status")
    end = models.TaskEnded(run_id=task.run.run_id, delivery=task.delivery, task_id=task.task_id)
    by = meta.get("worker")
    end.by = str(by)[:60] if by else ""
    if status == "SUCCESS":
        end.outcome = models.Outcome.SUCCEEDED
        end.result = _result(meta) if _is_captured(client, task, captures) else ""
        return end
    end.outcome = models.Outcome.FAILED
    if status == "FAILURE":
        end.error = _cut(_exception(app, meta.get("result")))
        return end
    if status == "REVOKED":
        end.error = "the task was revoked, or had expired"
        return end
    # It waits, runs, or is in a state of the app's own.
    return None


def _exception(app: Any, result: Any) -> str:
    if isinstance(result, dict) and "exc_type" in result:
        message = result.get("exc_message")
        words = ", ".join(map(repr, message)) if isinstance(message, (list, tuple)) else repr(message)
        return f"{result['exc_type']}({words})"
    return repr(result)


def _cut(text: str) -> str:
    return text.encode()[:512].decode(errors="ignore")


def _is_captured(client: Client, task: Awaited, known: Dict[Tuple[str, str], bool]) -> bool:
    """Whether the task's job asks for what it returned; one that was deleted since does not."""
    key = (task.run.namespace, task.run.job)
    if key not in known:
        try:
            spec = client.get_job(task.run.job, namespace=task.run.namespace).spec
        except NotFound:
            spec = None
        celery = None if spec is None or spec.target is None else spec.target.celery
        known[key] = celery is not None and celery.capture_result
    return known[key]


def _result(meta: Dict[str, Any]) -> str:
    """What the task returned, as JSON."""
    value = meta.get("result")
    if value is None:
        return ""
    try:
        text = json.dumps(value, separators=(",", ":"))
    except (TypeError, ValueError):
        return ""
    return text if len(text.encode()) <= RESULT_BYTES else ""
