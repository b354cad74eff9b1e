"""Rows of django-celery-beat that are saved or deleted, told to the cluster when their transaction commits.

Never before: what is rolled back is not told. And never in the way: a push takes PATIENCE seconds at most, raises
nothing, and after one that found nobody the next ones are left out for a while, for each would make somebody wait. What
is not told by a push is found by `celery beat -S chronarch` or `chronarch_sync --watch`, which compare everything.

A push tells what a row is when it is told, not what it was when it was saved: it reads the row after the commit, and
again after the push. So of two processes that save one row at once, the one that is told last tells the newest.
"""

import contextlib
import logging
import threading
import time
from typing import Any, Dict, Iterable, Iterator, List, Optional, Set, Tuple

from django.db import DatabaseError, transaction
from django.db.models import signals

from ..errors import ChronarchError, Unreachable
from . import _connect, _rows

log = logging.getLogger(__name__)

# Seconds for the pushes of one transaction.
PATIENCE = 2.0
# Seconds without pushes after one that found nobody.
HOLD_OFF = 15.0
# Rows that one transaction pushes; more are left to the next comparison, which is faster for many.
ROWS_MAX = 100
# How often a row is told that changes while it is told.
ROUNDS_MAX = 3
# Of what was found out and nobody has taken.
NOTES_MAX = 20
SCHEDULES = ("IntervalSchedule", "CrontabSchedule", "SolarSchedule", "ClockedSchedule")
_COLUMN = {name: name[: -len("Schedule")].lower() for name in SCHEDULES}


class _Local(threading.local):
    muted = 0
    problem: Optional[str] = None
    notes: Tuple[str, ...] = ()


_local = _Local()


class _Hold:
    """When pushes are made again."""

    until = 0.0


class _Refrained(Exception):
    """Nothing was tried."""


@contextlib.contextmanager
def muted() -> Iterator[None]:
    """Within it, this thread's changes are not pushed: for what compares everything afterwards anyway."""
    _local.muted += 1
    try:
        yield
    finally:
        _local.muted -= 1


class _Batch:
    """The rows of one transaction, by their names."""

    def __init__(self, using: str) -> None:
        self.using = using
        self.names: Dict[str, None] = {}

    def run(self) -> None:
        push(self.names, self.using)


def connect() -> None:
    """Listens to the models."""
    from django_celery_beat import models

    signals.pre_save.connect(_before_task, models.PeriodicTask, dispatch_uid="chronarch")
    signals.post_save.connect(_after_task, models.PeriodicTask, dispatch_uid="chronarch")
    signals.post_delete.connect(_after_task, models.PeriodicTask, dispatch_uid="chronarch")
    for name in SCHEDULES:
        # The rows that use a schedule that is deleted are deleted with it, and tell so themselves.
        signals.post_save.connect(_after_schedule, getattr(models, name), dispatch_uid="chronarch")


def _before_task(sender: Any, instance: Any, using: str, raw: bool = False, **_: Any) -> None:
    # A row that gets another name leaves a job behind.
    instance.chronarch_was = None
    if instance.pk is not None and not raw and not _local.muted:
        instance.chronarch_was = (
            sender._base_manager.using(using).filter(pk=instance.pk).values_list("name", flat=True).first()
        )


def _after_task(instance: Any, using: str, raw: bool = False, **_: Any) -> None:
    # Fixtures are loaded row by row, in any order; the whole is compared afterwards.
    if not raw:
        was = getattr(instance, "chronarch_was", None)
        changed([instance.name] if was in (None, instance.name) else [was, instance.name], using)


def _after_schedule(sender: Any, instance: Any, using: str, raw: bool = False, created: bool = False, **_: Any) -> None:
    if raw or created or _local.muted:
        return
    from django_celery_beat.models import PeriodicTask

    column = _COLUMN.get(sender.__name__) or next(
        _COLUMN[one.__name__] for one in sender.__mro__ if one.__name__ in _COLUMN
    )
    names = PeriodicTask.objects.using(using).filter(**{f"{column}_id": instance.pk}).values_list("name", flat=True)
    changed(list(names[: ROWS_MAX + 1]), using)


def changed(names: Iterable[str], using: str) -> None:
    """Has rows told when the transaction commits, or at once where there is none."""
    given = list(names)
    if _local.muted or not given:
        return
    connection = transaction.get_connection(using)
    waiting = (getattr(hook[1], "__self__", None) for hook in connection.run_on_commit)
    batch = next((one for one in waiting if isinstance(one, _Batch)), None)
    if batch is not None and connection.in_atomic_block:
        # Should a savepoint be rolled back of which these names are, they are told as they are: nothing is wrong by it.
        batch.names.update(dict.fromkeys(given))
        return
    batch = _Batch(connection.alias)
    batch.names.update(dict.fromkeys(given))
    transaction.on_commit(batch.run, using=using)


def push(names: Iterable[str], using: str) -> bool:
    """Tells the cluster of rows, and returns whether all were told. Raises nothing: what goes wrong is logged, and
    noted for `take_problem`."""
    wanted = list(names)
    try:
        left = _tell(wanted, using)
    except Unreachable as error:
        _Hold.until = time.monotonic() + HOLD_OFF
        return _failed(wanted, error.message)
    except ChronarchError as error:
        return _failed(wanted, error.message)
    except _Refrained as reason:
        return _failed(wanted, str(reason))
    except (ValueError, OSError, DatabaseError) as error:
        return _failed(wanted, f"{type(error).__name__}: {error}")
    except Exception as error:
        # Code of the project is called: its app is loaded, its routers are asked. No request may fail by it.
        log.exception("a push failed")
        return _failed(wanted, f"{type(error).__name__}: {error}")
    return not left or _failed(left, "there was no time left")


def _failed(names: List[str], why: str) -> bool:
    shown = ", ".join(names[:5]) + (", …" if len(names) > 5 else "")
    log.warning("the cluster was not told of %s: %s; the next comparison tells it", shown, why)
    _local.problem = why
    return False


def take_problem() -> Optional[str]:
    """Why the last push of this thread failed, once."""
    problem, _local.problem = _local.problem, None
    return problem


def take_notes() -> Tuple[str, ...]:
    """What the pushes of this thread found out about rows that were told, once."""
    notes, _local.notes = _local.notes, ()
    return notes


def _tell(names: List[str], using: str) -> List[str]:
    """Returns those that were not told."""
    if len(names) > ROWS_MAX:
        raise _Refrained(f"more than {ROWS_MAX} rows were changed at once")
    if time.monotonic() < _Hold.until:
        raise _Refrained("a moment ago no node answered")
    deadline = time.monotonic() + PATIENCE
    target = _rows.Target(_connect.hasty_client(PATIENCE), _connect.options(), using)
    try:
        return _tell_all(target, names, deadline)
    finally:
        _local.notes = (*_local.notes, *target.notes)[-NOTES_MAX:]


def _tell_all(target: _rows.Target, names: List[str], deadline: float) -> List[str]:
    left: Set[str] = set(names)
    told: Dict[str, Any] = {}
    for _ in range(ROUNDS_MAX):
        rows = target.read(left)
        again = {name for name in left if name not in told or told[name] != _rows.fingerprint(rows.get(name))}
        if not again:
            return []
        for name in [one for one in names if one in again]:
            if time.monotonic() > deadline:
                return [one for one in names if one in left]
            target.tell(name, rows.get(name), deadline)
            told[name] = _rows.fingerprint(rows.get(name))
        left = again
    return []
