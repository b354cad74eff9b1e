"""Client and workers for Chronarch, a replicated job scheduler.

    from chronarch import Client

    with Client(["10.0.0.1:7401", "10.0.0.2:7401"]) as client:
        client.apply_jobs([{"name": "nightly", "schedule": {"cron": "30 2 * * *"},
                            "target": {"http": {"url": "https://example.org/nightly"}}}])
        run = client.trigger_job("nightly")
        print(client.wait_for_run(run.run_id).state)

`chronarch.aio.Client` is the same for asyncio, `chronarch.models` has what is answered, `chronarch.worker` runs a
program's own functions as attempts, and `chronarch.guard` lets one that is delivered twice run once.
"""

import importlib
from typing import TYPE_CHECKING, Any

from .errors import (
    AlreadyExists,
    ChronarchError,
    InvalidArgument,
    LimitReached,
    NotFound,
    PermissionDenied,
    Problem,
    Refused,
    Tried,
    Unauthenticated,
    Unexpected,
    UnknownResult,
    Unreachable,
)

if TYPE_CHECKING:
    from . import models
    from ._endpoints import Tls
    from ._streams import is_ended
    from .client import Client

_LATER = {"Client": "client", "Tls": "_endpoints", "is_ended": "_streams"}


def __getattr__(name: str) -> Any:
    # Imported when first used: the processes that carry out tasks speak to nobody, and gRPC takes 30 MB.
    if name == "models":
        return importlib.import_module(".models", __name__)
    if name in _LATER:
        return getattr(importlib.import_module(f".{_LATER[name]}", __name__), name)
    raise AttributeError(f"module {__name__} has no attribute {name}")


__all__ = [
    "AlreadyExists",
    "ChronarchError",
    "Client",
    "InvalidArgument",
    "LimitReached",
    "NotFound",
    "PermissionDenied",
    "Problem",
    "Refused",
    "Tls",
    "Tried",
    "Unauthenticated",
    "Unexpected",
    "UnknownResult",
    "Unreachable",
    "is_ended",
    "models",
]
