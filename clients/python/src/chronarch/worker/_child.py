"""A process of the `processes` pool: carries out one attempt after another in its main thread.

Started by `_processes` with two file descriptors: a connection for orders and their ends, and one that only closes,
when the worker dies: then this process and whatever it started ends at once, for nobody would hear of its end.
"""

import contextlib
import os
import signal
import sys
import threading
from multiprocessing.connection import Connection
from types import FrameType
from typing import Any, Optional

from ._execute import Ended, execute, failed
from ._loading import load
from ._task import Cancelled, SoftTimeLimitExceeded


class _State:
    """What the signals look at."""

    is_active = False
    is_cancelled = False


def _on_cancel(number: int, frame: Optional[FrameType]) -> None:
    if _State.is_active and not _State.is_cancelled:
        _State.is_cancelled = True
        raise Cancelled


def _on_soft_limit(number: int, frame: Optional[FrameType]) -> None:
    if _State.is_active and not _State.is_cancelled:
        raise SoftTimeLimitExceeded


def _on_other(number: int, frame: Optional[FrameType]) -> None:
    pass


def _end_with(life: int) -> None:
    """Waits for the worker's death."""
    while os.read(life, 1):
        pass
    os.killpg(os.getpgrp(), signal.SIGKILL)


def main() -> None:
    """Serves until the worker closes the connection."""
    orders, life = Connection(int(sys.argv[1])), int(sys.argv[2])
    threading.Thread(target=_end_with, args=(life,), daemon=True).start()
    # The worker alone decides when an attempt ends, also where a service manager sends its signals to all processes.
    # Heeded by doing nothing, for what is ignored would be ignored by the programs that tasks start as well.
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, _on_other)
    signal.signal(signal.SIGUSR2, _on_cancel)
    signal.signal(signal.SIGUSR1, _on_soft_limit)
    setup = orders.recv()
    sys.path[:] = setup["path"]
    try:
        app = load(setup["app"])
    except BaseException as error:  # whatever the module raises on import
        orders.send(("unusable", f"{type(error).__name__}: {error}"))
        raise
    orders.send(("ready", None))
    while True:
        try:
            request = orders.recv()
        except EOFError:
            return
        orders.send(("ended", _carry_out(app, request)))


def _carry_out(app: Any, request: Any) -> Ended:
    task = app.tasks[request.task]
    _State.is_cancelled = False
    try:
        _State.is_active = True
        try:
            ended = execute(task, request, lambda: _State.is_cancelled)
        finally:
            _State.is_active = False
    except BaseException as error:  # an interruption that came when the task had returned already
        ended = failed(task, error)
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(OSError, ValueError):
            stream.flush()
    return ended


if __name__ == "__main__":
    main()
