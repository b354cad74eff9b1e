"""Carries out attempts of `queue` targets with a program's own functions.

    # shop/jobs.py
    from chronarch.worker import task

    @task(name="reports.nightly", bind=True, soft_time_limit=600)
    def nightly(self, day):
        self.request.progress(0.3, "rows read")
        return {"rows": 10}

    $ chronarch-worker shop.jobs --queue reports --concurrency 4

The job says what is called: `target: {queue: {payload: '{"task": "reports.nightly", "args": ["{{ params.day
}}"]}'}}`, which is what `nightly.target("{{ params.day }}")` makes. A payload without `task` is for the task that is
called like the job.

The worker keeps its leases while the tasks run, goes on with what it holds when the leader changes, and tells each end
until it is acknowledged. What a task prints or logs is the attempt's output, its result (JSON, 4 KiB at most) stands in
the run's record and reaches the jobs that run after it.
"""

from typing import TYPE_CHECKING, Any

from ._loading import CannotLoad
from ._task import (
    App,
    Cancelled,
    Fail,
    Request,
    SoftTimeLimitExceeded,
    Task,
    TimeLimitExceeded,
    current,
    default_app,
    task,
)

if TYPE_CHECKING:
    from ._serve import Worker, WorkerEnd


def __getattr__(name: str) -> Any:
    # Processes that carry out tasks import this module with the tasks; what speaks to the cluster is not for them.
    if name in ("Worker", "WorkerEnd"):
        from . import _serve

        return getattr(_serve, name)
    raise AttributeError(f"module {__name__} has no attribute {name}")


__all__ = [
    "App",
    "Cancelled",
    "CannotLoad",
    "Fail",
    "Request",
    "SoftTimeLimitExceeded",
    "Task",
    "TimeLimitExceeded",
    "Worker",
    "WorkerEnd",
    "current",
    "default_app",
    "task",
]
