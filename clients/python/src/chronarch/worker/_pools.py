"""Where attempts are carried out: in threads, in an event loop, or (`_processes`) in processes.

A pool runs an attempt until it has ended, and can interrupt it: an exception is raised in the task, at the next
moment at which Python can. What blocks in a library is interrupted when it comes back, so in threads and in an event
loop an attempt may outlive its time limit: it goes on to be held, and the cluster, which keeps the time of the
attempt too, gives it up by itself. Processes are killed.
"""

import abc
import asyncio
import contextlib
import contextvars
import ctypes
import inspect
import logging
import queue
import sys
import threading
from typing import Any, Callable, Iterator, List, Optional, Type

from ._execute import Ended, execute, execute_async, failed
from ._ledger import Start, Stop
from ._output import Log
from ._task import App, Cancelled, Request, SoftTimeLimitExceeded, Task, TimeLimitExceeded

_log = logging.getLogger("chronarch.worker")


class Body(abc.ABC):
    """One attempt that is being carried out."""

    def __init__(self) -> None:
        self.done: asyncio.Future[Ended] = asyncio.get_running_loop().create_future()
        self._loop = asyncio.get_running_loop()

    def settle(self, ended: Ended) -> None:
        """The attempt has ended; from the loop's thread."""
        if not self.done.done():
            self.done.set_result(ended)

    def settle_from_thread(self, ended: Ended) -> None:
        """The attempt has ended; from any thread."""
        self._loop.call_soon_threadsafe(self.settle, ended)

    @abc.abstractmethod
    def interrupt(self, why: Type[BaseException]) -> None:
        """Raises `why` in the task, as soon as Python can."""

    def kill(self, ended: Ended) -> None:
        """Ends it at once with this end, where that can be done: threads cannot be killed."""
        return


class Pool(abc.ABC):
    """A place where attempts are carried out."""

    # Seconds that an attempt has to end after it was interrupted; then it is killed, where that can be done.
    GRACE = 10.0

    def __init__(self, app: App, slots: int) -> None:
        self.app = app
        self.slots = slots

    async def open(self) -> None:
        """Gets ready for the first attempt."""
        return

    async def close(self) -> None:
        """Lets go of what it has. What still runs in threads is left behind."""
        return

    @abc.abstractmethod
    async def begin(self, task: Task, request: Request, log: Log) -> Body:
        """Begins an attempt."""

    async def carry_out(self, start: Start, log: Log) -> Ended:
        """An attempt from its beginning to its end, under its limits."""
        request = start.request
        task = self.app.tasks[request.task]
        try:
            body = await self.begin(task, request, log)
        except Exception as error:
            _log.warning("an attempt could not be begun", exc_info=True)
            return Ended("failed", f"the worker could not begin it: {error}")
        timers = _Timers(body, request, self.GRACE)
        start.stop = timers.stop
        if start.told is not None:
            timers.stop(start.told)
        try:
            return await body.done
        finally:
            timers.close()


class _Timers:
    """Interrupts an attempt when a limit is over or it is told to stop, and kills it when that does not help."""

    def __init__(self, body: Body, request: Request, grace: float) -> None:
        self._body = body
        self._loop = asyncio.get_running_loop()
        self._grace = grace
        self._handles: List[asyncio.TimerHandle] = []
        if request.soft_timeout is not None:
            self._later(request.soft_timeout, lambda: body.interrupt(SoftTimeLimitExceeded))
        if request.timeout is not None:
            self._later(request.timeout, self._time_is_over)

    def _later(self, seconds: float, act: Callable[[], None]) -> None:
        self._handles.append(self._loop.call_later(seconds, act))

    def _time_is_over(self) -> None:
        self._body.interrupt(TimeLimitExceeded)
        self._body.kill(Ended("timeout", "the time of the attempt was over"))

    def stop(self, why: Stop) -> None:
        """The attempt is to end."""
        self._body.interrupt(Cancelled)
        self._later(
            self._grace, lambda: self._body.kill(Ended("cancelled", f"it did not end, and was killed: {why.value}"))
        )

    def close(self) -> None:
        """The attempt has ended."""
        for handle in self._handles:
            handle.cancel()


# Threads.


class _ThreadBody(Body):
    def __init__(self, task: Task, request: Request, log: Log) -> None:
        super().__init__()
        self._task, self._request, self._log = task, request, log
        self._lock = threading.Lock()
        self._thread: Optional[int] = None
        self._why: Optional[Type[BaseException]] = None

    def run(self) -> None:
        """In the thread: the attempt."""
        ended: Optional[Ended] = None
        while True:
            # What interrupts the task may come a moment too late, and then hits what is done here: once for each
            # reason, of which there are two.
            try:
                if ended is None:
                    ended = self._attempt()
                self._shut()
                break
            except BaseException as error:
                ended = ended or failed(self._task, error)
        self.settle_from_thread(ended)

    def _attempt(self) -> Ended:
        with self._lock:
            self._thread = threading.get_ident()
        with captured(self._log):
            if self._why is not None:
                return failed(self._task, self._why())
            return execute(self._task, self._request, lambda: self._why is not None)

    def _shut(self) -> None:
        with self._lock:
            # From here on nothing is raised in this thread; what was about to be is taken back.
            ctypes.pythonapi.PyThreadState_SetAsyncExc(ctypes.c_ulong(threading.get_ident()), None)
            self._thread = None

    def interrupt(self, why: Type[BaseException]) -> None:
        with self._lock:
            # A cancelled attempt stays so, and a hard limit outdoes a soft one.
            if self._why is None or self._why is SoftTimeLimitExceeded:
                if self._thread is not None:
                    # The only way to interrupt code in another thread; it takes effect between two bytecodes. Before
                    # `is_cancelled` says so: a task that heeds that and returns would be told as succeeded.
                    ctypes.pythonapi.PyThreadState_SetAsyncExc(ctypes.c_ulong(self._thread), ctypes.py_object(why))
                self._why = why


class ThreadPool(Pool):
    """Threads of this process, as many as slots, kept for the next attempts."""

    def __init__(self, app: App, slots: int) -> None:
        super().__init__(app, slots)
        self._work: queue.SimpleQueue[Optional[_ThreadBody]] = queue.SimpleQueue()
        self._threads = 0
        self._busy = 0

    async def begin(self, task: Task, request: Request, log: Log) -> Body:
        """See `Pool.begin`."""
        body = _ThreadBody(task, request, log)
        self._busy += 1
        body.done.add_done_callback(self._freed)
        if self._busy > self._threads:
            self._threads += 1
            # A daemon: a task that does not end must not keep the process.
            threading.Thread(target=self._serve, name=f"chronarch-{self._threads}", daemon=True).start()
        self._work.put(body)
        return body

    def _freed(self, _: Any) -> None:
        self._busy -= 1

    def _serve(self) -> None:
        while True:
            body = self._work.get()
            if body is None:
                return
            body.run()

    async def close(self) -> None:
        """See `Pool.close`."""
        for _ in range(self._threads):
            self._work.put(None)


# An event loop.


class _CoroutineBody(Body):
    def __init__(self, task: Task, request: Request, log: Log, loop: asyncio.AbstractEventLoop) -> None:
        super().__init__()
        self._task, self._request, self._log, self._theirs = task, request, log, loop
        self._why: Optional[Type[BaseException]] = None
        self._running: Optional[asyncio.Task[Ended]] = None
        loop.call_soon_threadsafe(self._begin)

    # In the thread of the tasks' loop.

    def _begin(self) -> None:
        self._running = self._theirs.create_task(self._run())
        self._running.add_done_callback(self._over)
        if self._why is not None:
            self._running.cancel()

    async def _run(self) -> Ended:
        with captured(self._log):
            return await execute_async(self._task, self._request, lambda: self._why is not None)

    def _over(self, task: "asyncio.Task[Ended]") -> None:
        if task.cancelled():
            # Without a reason of ours it was the task's own doing.
            why = self._why() if self._why is not None else asyncio.CancelledError("the task cancelled itself")
            self.settle_from_thread(failed(self._task, why))
            return
        error = task.exception()
        self.settle_from_thread(failed(self._task, error) if error is not None else task.result())

    def _cancel(self) -> None:
        if self._running is not None:
            self._running.cancel()

    # In the worker's.

    def interrupt(self, why: Type[BaseException]) -> None:
        if self._why is None or self._why is SoftTimeLimitExceeded:
            self._why = why
            self._theirs.call_soon_threadsafe(self._cancel)


class LoopPool(Pool):
    """An event loop in a thread of its own, so that a task that blocks it holds up no heartbeat. Functions that are no
    coroutines get a thread each."""

    def __init__(self, app: App, slots: int) -> None:
        super().__init__(app, slots)
        self._threads = ThreadPool(app, slots)
        self._loop: Optional[asyncio.AbstractEventLoop] = None

    async def open(self) -> None:
        """See `Pool.open`."""
        self._loop = asyncio.new_event_loop()
        threading.Thread(target=self._run, args=(self._loop,), name="chronarch-loop", daemon=True).start()

    @staticmethod
    def _run(loop: asyncio.AbstractEventLoop) -> None:
        loop.run_forever()
        loop.close()

    async def begin(self, task: Task, request: Request, log: Log) -> Body:
        """See `Pool.begin`."""
        if self._loop is None or not inspect.iscoroutinefunction(task.run):
            return await self._threads.begin(task, request, log)
        return _CoroutineBody(task, request, log, self._loop)

    async def close(self) -> None:
        """See `Pool.close`."""
        await self._threads.close()
        if self._loop is not None:
            self._loop.call_soon_threadsafe(self._loop.stop)


# What tasks in this process write.

_log_of_attempt: "contextvars.ContextVar[Optional[Log]]" = contextvars.ContextVar("chronarch_log", default=None)


@contextlib.contextmanager
def captured(log: Log) -> Iterator[None]:
    """What is written within goes to this log, where `route_output` was called."""
    token = _log_of_attempt.set(log)
    try:
        yield
    finally:
        _log_of_attempt.reset(token)


class _Routed:
    """Stands for `sys.stdout` or `sys.stderr`: what an attempt writes goes to its log."""

    def __init__(self, stream: str, before: Any) -> None:
        self._stream, self._before = stream, before

    def write(self, text: str) -> int:
        log = _log_of_attempt.get()
        if log is None:
            return int(self._before.write(text))
        log.write(self._stream, text.encode("utf-8", "replace"))
        return len(text)

    def writelines(self, lines: Any) -> None:
        for line in lines:
            self.write(line)

    def flush(self) -> None:
        if _log_of_attempt.get() is None:
            self._before.flush()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._before, name)


class _LogHandler(logging.Handler):
    """Log records of an attempt, into its output."""

    def emit(self, record: logging.LogRecord) -> None:
        log = _log_of_attempt.get()
        if log is not None:
            log.write("stderr", (self.format(record) + "\n").encode("utf-8", "replace"))


def route_output() -> None:
    """Has what attempts in this process write go to their logs. Once for the process."""
    if not isinstance(sys.stdout, _Routed):
        sys.stdout, sys.stderr = _Routed("stdout", sys.stdout), _Routed("stderr", sys.stderr)
        routed = _LogHandler()
        routed.setFormatter(logging.Formatter("%(levelname)s %(name)s: %(message)s"))
        logging.getLogger().addHandler(routed)
