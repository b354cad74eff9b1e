"""Ends of tasks of which nobody told the cluster, found in the app's result backend.

A run waits for its task, and Celery's workers tell how that ends by messages of ours and by events. Neither tells of a
task that was revoked or had expired while nobody listened, and a broker that lost its memory has lost the messages. The
result backend still knows: Redis, a database, django-db, whatever the app has, for it is asked through Celery itself.

An end that is known already is told to no effect, so that any number of these may run, beside all else.
"""

import datetime
import json
import socket
from dataclasses import dataclass, field
from typing import Any, Dict, Iterable, Iterator, List, Optional, Tuple

from .. import models
from ..client import Client

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


def look(app: Any, tasks: Iterable[Awaited]) -> Iterator[Tuple[Awaited, Dict[str, Any]]]:
    """What the backend has of these; those that it has nothing of are left out.

    Raises:
        Exception: whatever the backend raises that does not answer.
    """
    backend = app.backend
    batch: List[Awaited] = []
    for task in tasks:
        batch.append(task)
        if len(batch) == BATCH:
            yield from _look_at(backend, batch)
            batch = []
    yield from _look_at(backend, batch)


def _look_at(backend: Any, batch: List[Awaited]) -> Iterator[Tuple[Awaited, Dict[str, Any]]]:
    if batch and hasattr(backend, "mget") and hasattr(backend, "get_key_for_task"):
        # Redis and its like: one round trip.
        texts = backend.mget([backend.get_key_for_task(one.task_id) for one in batch])
        for one, text in zip(batch, texts):
            if text:
                yield one, backend.decode_result(text)
        return
    for one in batch:
        # Asked anew: what was found before is not believed.
        meta = backend.get_task_meta(one.task_id, cache=False)
        if meta and meta.get("status", "PENDING") != "PENDING":
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
    told: Dict[str, List[models.TaskEnded]] = {}
    seen = 0
    for task, meta in look(app, tasks):
        seen += 1
        end = _end(client, app, task, meta)
        if end is not None:
            told.setdefault(task.connection, []).append(end)
            found.ended.append((task.run.run_id, task.task_id, str(meta["status"])))
    found.unknown = found.awaited - seen
    worker = f"reconcile@{socket.gethostname()}"[:255]
    for connection, ends in told.items():
        for start in range(0, len(ends), BATCH):
            client.report_tasks(
                connection=connection, worker=worker, ended=ends[start : start + BATCH], only_tells=True
            )
    return found


def _end(client: Client, app: Any, task: Awaited, meta: Dict[str, Any]) -> Optional[models.TaskEnded]:
    status = meta.get("status")
    end = models.TaskEnded(run_id=task.run.run_id, delivery=task.delivery, task_id=task.task_id)
    by = meta.get("worker")
    end.by = str(by)[:60] if by else ""
    if status == "SUCCESS":
        end.outcome = models.Outcome.SUCCEEDED
        end.result = _result(client, task, meta)
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


def _result(client: Client, task: Awaited, meta: Dict[str, Any]) -> str:
    """What the task returned, where its job asks for it."""
    job = client.get_job(task.run.job, namespace=task.run.namespace)
    target = job.spec.target if job.spec is not None else None
    if target is None or target.celery is None or not target.celery.capture_result:
        return ""
    value = meta.get("result")
    if value is None:
        return ""
    try:
        text = json.dumps(value, separators=(",", ":"))
    except (TypeError, ValueError):
        return ""
    return text if len(text.encode()) <= RESULT_BYTES else ""
