"""An app with a schedule of each kind that Celery has; the environment names its broker and its backend."""

import datetime
import decimal
import os
from typing import Any

from celery import Celery
from celery.beat import BeatLazyFunc
from celery.schedules import crontab, schedule, solar
from kombu import Exchange, Queue


class Moon(schedule):  # type: ignore[misc]
    """Only Python knows when it is due."""


app = Celery("shop")
app.conf.update(
    broker_url=os.environ.get("SHOP_BROKER", "memory://"),
    result_backend=os.environ.get("SHOP_BACKEND", "file:///tmp"),
    timezone="Europe/Berlin",
    task_queues=[
        Queue("celery"),
        Queue("reports", Exchange("reports", "direct"), routing_key="reports"),
        Queue("media", Exchange("media", "topic"), routing_key="media.#"),
    ],
    task_create_missing_queues=False,
    task_routes={"shop.report": {"queue": "reports"}, "shop.feed": {"queue": "media", "routing_key": "media.feed"}},
    beat_schedule={
        "nightly": {"task": "shop.nightly", "schedule": crontab(minute="30", hour="2")},
        "report every quarter": {
            "task": "shop.report",
            "schedule": crontab(minute="*/15", hour="8-17", day_of_week="monday-friday"),
            "args": [1, "two", datetime.datetime(2026, 1, 5, tzinfo=datetime.timezone.utc)],
            "kwargs": {"to": ["a@example.org"], "deep": {"x": None}},
            "options": {"expires": 600, "priority": 3},
        },
        "friday-13th": {"task": "shop.nightly", "schedule": crontab("0", "0", "fri", "13")},
        "list": {"task": "shop.nightly", "schedule": crontab({0, 20, 40}, [6, 18])},
        "hourly": {"task": "shop.nightly", "schedule": 3600, "relative": True},
        "beat": {"task": "shop.nightly", "schedule": datetime.timedelta(seconds=30.5)},
        "lamps": {
            "task": "shop.limited",
            "schedule": solar("dusk_civil", 52.52, 13.405),
            "options": {"ignore_result": True},
        },
        "feed": {"task": "shop.feed", "schedule": 300, "options": {"headers": {"tenant": "acme"}}},
        "moon": {"task": "shop.nightly", "schedule": Moon(datetime.timedelta(days=29))},
        "lazy": {"task": "shop.nightly", "schedule": 60, "args": [BeatLazyFunc(datetime.datetime.now)]},
        "object": {"task": "shop.nightly", "schedule": 60, "kwargs": {"it": object()}},
        "braces": {"task": "shop.nightly", "schedule": 60, "args": ["{{ params.day }}"]},
        "linked": {"task": "shop.nightly", "schedule": 60, "options": {"link": {"task": "shop.other"}}},
        "lost": {"task": "shop.nightly", "schedule": 60, "options": {"queue": "nowhere"}},
        "over": {"task": "shop.nightly", "schedule": 60, "options": {"expires": 0}},
        "without": {"task": "shop.nightly"},
        "unknown": {"task": "shop.gone", "schedule": 60},
    },
)


def nothing(*_: Any, **__: Any) -> None:
    """A task of other apps."""


@app.on_after_configure.connect  # type: ignore[untyped-decorator]
def added(sender: Any, **_: Any) -> None:
    """Adds an entry when the app starts."""
    sender.add_periodic_task(
        crontab(minute=0), sender.signature("shop.nightly", (decimal.Decimal("1.10"),)), name="added"
    )


@app.task(name="shop.nightly", shared=False)  # type: ignore[untyped-decorator]
def nightly(*_: Any, **__: Any) -> None:
    """Does nothing."""


@app.task(name="shop.report", shared=False)  # type: ignore[untyped-decorator]
def report(*_: Any, **__: Any) -> None:
    """Is routed to a queue."""


@app.task(name="shop.feed", shared=False)  # type: ignore[untyped-decorator]
def feed(*_: Any, **__: Any) -> None:
    """Is routed to a topic exchange."""


@app.task(name="shop.limited", shared=False, time_limit=30, soft_time_limit=20)  # type: ignore[untyped-decorator]
def limited() -> None:
    """Has options of its own."""
