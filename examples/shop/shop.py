"""The Celery app of a small shop: what it does at fixed times is in `beat_schedule`."""

import os

from celery import Celery
from celery.schedules import crontab
from celery.utils.log import get_task_logger

log = get_task_logger(__name__)
app = Celery("shop", broker=os.environ.get("SHOP_BROKER", "redis://127.0.0.1:6379/0"))
app.conf.update(
    timezone="UTC",
    task_ignore_result=True,
    broker_connection_retry_on_startup=True,
    beat_schedule={
        "settle-orders": {"task": "orders.settle", "schedule": crontab(), "args": ["eu"]},
        "mail-digest": {
            "task": "mail.digest",
            "schedule": crontab(hour="7", minute="30"),
            "kwargs": {"to": "owner@shop.example"},
        },
        "refresh-stock": {"task": "stock.refresh", "schedule": crontab(minute="*/5"), "args": ["main"]},
    },
)

ORDERS = {"eu": [1999, 4550, 1275], "us": [8900]}
STOCK = {"main": {"lamp": 12, "chair": 0, "desk": 3}}


@app.task(name="orders.settle")
def settle(region):
    """Settles what a region has ordered; the sum in cents."""
    total = sum(ORDERS.get(region, []))
    log.info("settled %d orders of %s: %.2f", len(ORDERS.get(region, [])), region, total / 100)
    return total


@app.task(name="mail.digest")
def digest(to):
    """Writes the digest of the day."""
    orders = sum(len(orders) for orders in ORDERS.values())
    log.info("to %s: %d orders", to, orders)
    return orders


@app.task(name="stock.refresh")
def refresh(warehouse):
    """Finds what a warehouse has run out of."""
    gone = sorted(item for item, count in STOCK.get(warehouse, {}).items() if count == 0)
    log.info("%s has run out of %s", warehouse, ", ".join(gone) or "nothing")
    return gone
