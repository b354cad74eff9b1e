"""A Celery app whose schedule the test gives, as JSON in the environment: name, then seconds, or `moon` for a schedule
that only Python knows, or `lazy` for an argument that only Python does."""

import datetime
import json
import os
from pathlib import Path
from typing import Any, Dict, Tuple

from celery import Celery
from celery.beat import BeatLazyFunc
from celery.schedules import schedstate, schedule


class Moon(schedule):  # type: ignore[misc]
    """Due one second after the last time, and a moment late when one asks."""

    def is_due(self, last_run_at: datetime.datetime) -> Tuple[bool, float]:
        """As of `schedule`."""
        left = 1.0 - (datetime.datetime.now(datetime.timezone.utc) - last_run_at).total_seconds()
        due: Tuple[bool, float] = schedstate(left <= 0, max(left, 0.05))
        return due


def _entry(name: str, kind: Any) -> Dict[str, Any]:
    if kind == "moon":
        return {"task": "shop.mark", "schedule": Moon(datetime.timedelta(seconds=1)), "args": [name]}
    if kind == "lazy":
        return {"task": "shop.mark", "schedule": 1.0, "args": [name, BeatLazyFunc(os.getpid)]}
    if kind == "impossible":
        return {"task": "shop.mark", "schedule": 1.0, "args": [object()]}
    if kind == "malformed":
        return {"task": "shop.mark", "schedule": "every 5 minutes"}
    return {"task": "shop.mark", "schedule": float(kind), "args": [name]}


app = Celery("beat-shop")
app.conf.update(
    broker_url=os.environ["SHOP_BROKER"],
    broker_connection_retry_on_startup=True,
    task_ignore_result=True,
    # Without it beat cleans up results by itself, and there is one entry more.
    result_expires=None,
    beat_schedule={
        name: _entry(name, kind) for name, kind in json.loads(os.environ.get("SHOP_SCHEDULE", "{}")).items()
    },
    **json.loads(os.environ.get("SHOP_CONF", "{}")),
)


@app.task(name="shop.mark", bind=True)  # type: ignore[untyped-decorator]
def mark(self: Any, name: str, *_: Any) -> None:
    """Adds a line with what the cluster told of the run to the file `name` in the folder MARKS."""
    headers = self.request.headers or {}
    with (Path(os.environ["MARKS"]) / name).open("a") as marks:
        marks.write(f"{headers.get('chronarch-scheduled-at')} {headers.get('chronarch-run-id')} {self.request.id}\n")
