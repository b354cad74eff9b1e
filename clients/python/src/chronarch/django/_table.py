"""`beat_schedule` in django-celery-beat's tables, as its own scheduler writes it there when it starts.

So that a project sees the same rows as before, edits them in the same place, and finds them when it goes back.
"""

import datetime
import logging
import math
from typing import Any, Dict, Set

from . import _push

log = logging.getLogger(__name__)


def store(app: Any, *, is_new_only: bool = False) -> None:
    """Writes the entries of the app that the tables can hold. Those that they cannot hold, for only Python can evaluate
    them, are taken from `beat_schedule` itself.

    Args:
        app: the app.
        is_new_only: leave rows that are there as they are; beat writes them anew each time that it starts.

    Raises:
        django.db.Error: the tables cannot be written.
    """
    from django.db import DatabaseError
    from django_celery_beat.schedulers import ModelEntry

    with _push.muted():
        there = stored() if is_new_only else set()
        for name, entry in entries(app).items():
            if name in there:
                continue
            try:
                ModelEntry.from_entry(name, app=app, **_as_columns(entry))
            except DatabaseError:
                raise
            except Exception as error:
                log.info("%s stays in beat_schedule, for the tables cannot hold it: %s", name, error)


def entries(app: Any) -> Dict[str, Dict[str, Any]]:
    """`beat_schedule`, and what beat adds to it by itself."""
    from celery.beat import Scheduler

    found: Dict[str, Dict[str, Any]] = {str(name): dict(entry) for name, entry in app.conf.beat_schedule.items()}
    added = Scheduler(app, lazy=True)
    added.install_default_entries(found)
    for name, entry in added.data.items():
        found[name] = {"task": entry.task, "schedule": entry.schedule, "options": entry.options}
    return found


def _as_columns(entry: Dict[str, Any]) -> Dict[str, Any]:
    """An entry whose messages expire after some seconds has a column for it, under another name; django-celery-beat
    drops the option without a word."""
    options = dict(entry.get("options") or {})
    expires = options.get("expires")
    if isinstance(expires, datetime.timedelta):
        expires = expires.total_seconds()
    if isinstance(expires, (int, float)) and "expire_seconds" not in options:
        options["expire_seconds"] = math.ceil(expires)
    return {**entry, "options": options}


def stored() -> Set[str]:
    """The names of all rows."""
    from django_celery_beat.models import PeriodicTask

    return set(PeriodicTask.objects.values_list("name", flat=True))
