"""Carries out one attempt in the thread that calls, and says how it ended."""

import asyncio
import contextlib
import inspect
import json
import logging
import traceback
from dataclasses import dataclass
from typing import Any, Callable, Optional

from ._task import (
    Cancelled,
    Fail,
    Request,
    SoftTimeLimitExceeded,
    Task,
    TimeLimitExceeded,
    _cancelled,
    _current,
)

# Bytes of a result, as the protocol limits them.
RESULT_BYTES = 4_096
# Characters of an error that are handed on; a report has 512 bytes.
ERROR_CHARS = 512
# Seconds after which a coroutine in a thread notices an interruption.
WAKE_EVERY = 0.2
_log = logging.getLogger("chronarch.worker")


@dataclass
class Ended:
    """How an attempt ended."""

    outcome: str
    """`succeeded`, `failed`, `timeout`, `cancelled` or `lost`."""
    error: str = ""
    result: str = ""
    exit_code: Optional[int] = None


def execute(task: Task, request: Request, is_cancelled: Callable[[], bool]) -> Ended:
    """Calls the task in this thread; a coroutine is run in a loop of its own."""

    def call() -> Any:
        answer = task(*request.args, **request.kwargs)
        return asyncio.run(_awaited(answer)) if inspect.isawaitable(answer) else answer

    tokens = _current.set(request), _cancelled.set(is_cancelled)
    try:
        return ended(task, call())
    except BaseException as error:  # whatever the task raises is the end of the attempt
        return failed(task, error)
    finally:
        _current.reset(tokens[0])
        _cancelled.reset(tokens[1])


async def execute_async(task: Task, request: Request, is_cancelled: Callable[[], bool]) -> Ended:
    """Awaits the task in this loop. Being cancelled is let through: whoever cancelled knows why."""
    tokens = _current.set(request), _cancelled.set(is_cancelled)
    try:
        return ended(task, await task(*request.args, **request.kwargs))
    except asyncio.CancelledError:
        raise
    except BaseException as error:  # as above
        return failed(task, error)
    finally:
        _current.reset(tokens[0])
        _cancelled.reset(tokens[1])


async def _awaited(answer: Any) -> Any:
    running = asyncio.ensure_future(answer)
    # A loop that waits for a socket runs no bytecode, and what interrupts this thread would wait with it.
    while not running.done():
        await asyncio.wait({running}, timeout=WAKE_EVERY)
    return running.result()


def ended(task: Task, value: Any) -> Ended:
    """The end of an attempt whose task returned this."""
    if value is None or task.options.ignore_result:
        return Ended("succeeded")
    try:
        text = json.dumps(value, allow_nan=False)
    except (TypeError, ValueError, RecursionError) as error:
        return Ended("succeeded", f"the result was not kept, for {_kind(value)} is no JSON: {error}")
    size = len(text.encode())
    if size > RESULT_BYTES:
        return Ended("succeeded", f"the result was not kept: {size} bytes are more than {RESULT_BYTES}")
    return Ended("succeeded", result=text)


def _kind(value: Any) -> str:
    kind = type(value)
    return kind.__qualname__ if kind.__module__ == "builtins" else f"{kind.__module__}.{kind.__qualname__}"


def failed(task: Task, error: BaseException) -> Ended:
    """The end of an attempt whose task raised this."""
    if isinstance(error, Cancelled):
        return Ended("cancelled", "the task was stopped")
    if isinstance(error, TimeLimitExceeded):
        return Ended("timeout", "the time of the attempt was over")
    if isinstance(error, SoftTimeLimitExceeded):
        return Ended("timeout", f"the soft time limit of {task.options.soft_time_limit:g} s was over")
    if isinstance(error, Fail):
        return Ended("failed", _text(error), exit_code=_exit_code(error.exit_code))
    if isinstance(error, SystemExit) and isinstance(error.code, int):
        return Ended("failed", f"the task ended with SystemExit({error.code})", exit_code=_exit_code(error.code))
    if not isinstance(error, task.options.throws or ()):
        # To the attempt's output, where whoever looks for the reason finds it; unless the task has closed it.
        with contextlib.suppress(Exception):
            print("".join(traceback.format_exception(type(error), error, error.__traceback__)), end="", flush=True)
    name, text = type(error).__name__, _text(error)
    return Ended("failed", f"{name}: {text}" if text else name)


def _text(error: BaseException) -> str:
    """What an exception says, if it can say it, as far as a report has room."""
    try:
        return str(error)[:ERROR_CHARS]
    except Exception:
        return ""


def _exit_code(code: Optional[int]) -> Optional[int]:
    """The code, where it is one that a report can hold."""
    return code if code is not None and -(2**31) <= code < 2**31 else None
