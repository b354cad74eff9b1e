"""A Celery app as any: what it ran, it writes to a list, for the test to read."""
import json
import os
import signal
import time

import redis
from celery import Celery
from celery.exceptions import Ignore
from kombu import Exchange, Queue

app = Celery("shop", broker=os.environ["SHOP_BROKER"])
app.conf.update(
    accept_content=["json"],
    timezone="UTC",
    broker_connection_retry_on_startup=True,
    worker_hijack_root_logger=False,
    task_queues=[
        Queue("celery"),
        Queue("feeds", Exchange("media", type="topic"), routing_key="media.feed.#"),
    ],
)
if "SHOP_PREFIX" in os.environ:
    app.conf.broker_transport_options = {"global_keyprefix": os.environ["SHOP_PREFIX"]}
if app.conf.broker_url.startswith("amqp"):
    app.conf.task_queues += [
        Queue("solid", queue_arguments={"x-queue-type": "quorum"}),
        Queue("urgent", max_priority=10),
    ]
ran = redis.Redis.from_url(os.environ["SHOP_RAN"])


@app.task(name="shop.note", bind=True, ignore_result=True)
def note(self, *args, **kwargs):
    headers = self.request.headers or {}
    ran.rpush(
        "ran",
        json.dumps(
            {
                "id": self.request.id,
                "args": [str(arg) for arg in args],
                "types": [type(arg).__name__ for arg in args],
                "kwargs": kwargs,
                "run": headers.get("chronarch-run-id"),
                "job": headers.get("periodic_task_name"),
                "beat": headers.get("celery_beat_task"),
                "expires": self.request.expires,
                "timelimit": self.request.timelimit,
            },
            default=str,
        ),
    )


@app.task(name="shop.fail", ignore_result=True)
def fail(text):
    raise ValueError(text)


@app.task(name="shop.flaky", bind=True, ignore_result=True)
def flaky(self, times):
    """Fails for its first attempts; Celery's own retries are part of one task."""
    if self.request.retries < times:
        raise self.retry(countdown=0, exc=RuntimeError("not yet"))
    ran.rpush("ran", json.dumps({"id": self.request.id, "retries": self.request.retries}))


@app.task(name="shop.sleep", ignore_result=True)
def sleep(seconds):
    ran.rpush("begun", seconds)
    time.sleep(seconds)


@app.task(name="shop.die", ignore_result=True)
def die():
    os.kill(os.getpid(), signal.SIGKILL)


@app.task(name="shop.answer", ignore_result=True)
def answer(rows):
    return {"rows": rows}


@app.task(name="shop.ignore", ignore_result=True)
def ignore(seconds):
    """Ends without a word."""
    time.sleep(seconds)
    raise Ignore()
