"""Loaded into the Celery worker of the demo (`-I`): writes down what it begins to run, and changes nothing."""

import functools
import json
import os
import time

from celery import signals


@functools.cache
def book(_process):
    # Lines of several processes do not mix when each is one write to the end.
    return os.open(os.environ["DEMO_COUNTED"], os.O_WRONLY | os.O_CREAT | os.O_APPEND)


@signals.task_prerun.connect
def began(task_id, task, **_):
    headers = task.request.headers or {}
    line = {
        "id": task_id,
        "job": headers.get("periodic_task_name"),
        "due": headers.get("chronarch-scheduled-at"),
        "at": time.time(),
    }
    os.write(book(os.getpid()), json.dumps(line).encode() + b"\n")
