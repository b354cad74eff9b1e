"""Attempts in processes of their own: one at a time in each, started before they are needed and kept for the next.

What Python holds up in one of them holds up no heartbeat; what does not end is killed, with all that it started, for
each is the first of a process group. Their standard output and error are the attempt's.

The processes are started anew, never forked: connections and threads of the worker would not survive that.
"""

import asyncio
import contextlib
import logging
import os
import signal
import subprocess
import sys
from multiprocessing import Pipe
from typing import Any, Dict, List, Optional, Set, Type

from ._execute import Ended
from ._output import STDERR, STDOUT, Log
from ._pools import Body, Pool
from ._task import App, Cancelled, Request, SoftTimeLimitExceeded, Task

# Bytes that are taken of a process's output at a time, and after its attempt's end at most.
READ_BYTES = 64 << 10
DRAIN_BYTES = 4 << 20
# Seconds from the start of a process until it has imported the tasks.
READY_MAX = 60.0
# Processes that are started for one attempt, when they die before they are ready.
STARTS_MAX = 3
# Seconds that idle processes have to end by themselves.
CLOSE_MAX = 5.0
_log = logging.getLogger("chronarch.worker")


class _DiedEarly(RuntimeError):
    """A process died before it was ready."""


class _Child:
    """One process."""

    def __init__(self, spec: str) -> None:
        loop = asyncio.get_running_loop()
        self._loop = loop
        self.ready: asyncio.Future[None] = loop.create_future()
        self.gone: asyncio.Future[int] = loop.create_future()
        self.body: Optional[_ProcessBody] = None
        self.carried_out = 0
        self._orders, theirs = Pipe()
        life, self._life = os.pipe()
        command = [sys.executable, "-u", "-m", "chronarch.worker._child", str(theirs.fileno()), str(life)]
        try:
            self.process = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                pass_fds=(theirs.fileno(), life),
                start_new_session=True,
                env=_environment(),
            )
        except BaseException:
            self._orders.close()
            os.close(self._life)
            raise
        finally:
            theirs.close()
            os.close(life)
        self._streams: Dict[int, str] = {}
        for pipe, stream in ((self.process.stdout, STDOUT), (self.process.stderr, STDERR)):
            assert pipe is not None
            os.set_blocking(pipe.fileno(), False)
            self._streams[pipe.fileno()] = stream
            loop.add_reader(pipe.fileno(), self._read, pipe.fileno())
        loop.add_reader(self._orders.fileno(), self._hear)
        self._is_dying = False
        # What a task forked may keep the connection open beyond the death of the process.
        self._pidfd = os.pidfd_open(self.process.pid) if hasattr(os, "pidfd_open") else -1
        if self._pidfd >= 0:
            loop.add_reader(self._pidfd, self._dies)
        # A process that died already is found dead by whoever waits for it.
        with contextlib.suppress(OSError):
            self._orders.send({"path": sys.path, "app": spec})

    def send(self, request: Request) -> None:
        """Hands an attempt over."""
        self.carried_out += 1
        self._orders.send(request)

    def _hear(self) -> None:
        try:
            kind, value = self._orders.recv()
        except (EOFError, OSError):
            self._dies()
            return
        if kind == "ready" and not self.ready.done():
            self.ready.set_result(None)
        elif kind == "unusable" and not self.ready.done():
            self.ready.set_exception(RuntimeError(f"the tasks cannot be imported: {value}"))
        elif kind == "ended" and self.body is not None:
            self._drain()
            body, self.body = self.body, None
            body.settle(value)

    def _read(self, fd: int) -> int:
        try:
            data = os.read(fd, READ_BYTES)
        except BlockingIOError:
            return 0
        if not data:
            self._loop.remove_reader(fd)
            self._streams.pop(fd, None)
        elif self.body is not None:
            self.body.log.write(self._streams[fd], data)
        else:
            # Between attempts: of the module's import, or of threads that a task left behind.
            _log.info("output of a process between attempts: %s", data[:1_000].decode("utf-8", "replace").rstrip())
        return len(data)

    def _drain(self) -> None:
        """Takes what was written before the end of the attempt."""
        for fd in list(self._streams):
            taken, more = 0, 1
            while more and taken < DRAIN_BYTES and fd in self._streams:
                more = self._read(fd)
                taken += more

    def _dies(self) -> None:
        if self._is_dying:
            return
        self._is_dying = True
        if not self._orders.closed:
            self._loop.remove_reader(self._orders.fileno())
        if self._pidfd >= 0:
            self._loop.remove_reader(self._pidfd)
            os.close(self._pidfd)
        self._keep(asyncio.ensure_future(self._bury()))

    def _keep(self, task: "asyncio.Future[None]") -> None:
        # The loop alone would not keep it from being collected.
        self._burial = task

    async def _bury(self) -> None:
        code = await self._loop.run_in_executor(None, self.process.wait)
        # What it started dies with it, as what is killed does.
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)
        self._drain()
        for fd in self._streams:
            self._loop.remove_reader(fd)
        self._streams = {}
        for pipe in (self.process.stdout, self.process.stderr):
            if pipe is not None:
                pipe.close()
        self._orders.close()
        if self._life >= 0:
            os.close(self._life)
            self._life = -1
        if not self.ready.done():
            self.ready.set_exception(_DiedEarly(f"the process ended before it was ready: {_how(code)}"))
            # Nobody may be waiting for it.
            self.ready.exception()
        if self.body is not None:
            body, self.body = self.body, None
            body.settle(body.verdict or body.of_death(code))
        self.gone.set_result(code)

    def signal(self, number: int) -> None:
        """Sends a signal to the process alone."""
        if self.process.poll() is None:
            self.process.send_signal(number)

    def kill(self) -> None:
        """Ends the process and all that it started."""
        if not self.gone.done():
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self.process.pid, signal.SIGKILL)

    def let_go(self) -> None:
        """Has the process end once it has nothing to do."""
        if not self._is_dying:
            # The end of the connection is its sign; where it does not heed it, it is killed.
            self._loop.remove_reader(self._orders.fileno())
            self._orders.close()
            self._loop.call_later(CLOSE_MAX, self.kill)
            if self._pidfd < 0:
                self._dies()


def _environment() -> Dict[str, str]:
    """What tasks find in their environment: this process's, without what cli.py set for it alone."""
    environment = dict(os.environ)
    if environment.get("GRPC_ENABLE_FORK_SUPPORT") == "no":
        del environment["GRPC_ENABLE_FORK_SUPPORT"]
    return environment


def _how(code: int) -> str:
    if code >= 0:
        return f"exit code {code}"
    try:
        return signal.Signals(-code).name
    except ValueError:
        return f"signal {-code}"


class _ProcessBody(Body):
    def __init__(self, child: _Child, task: Task, log: Log) -> None:
        super().__init__()
        self._child, self._task, self.log = child, task, log
        self.verdict: Optional[Ended] = None

    def interrupt(self, why: Type[BaseException]) -> None:
        if why is SoftTimeLimitExceeded:
            self._child.signal(signal.SIGUSR1)
        elif why is Cancelled:
            self._child.signal(signal.SIGUSR2)

    def kill(self, ended: Ended) -> None:
        # It has ended when the process is gone, not before: a newer attempt of the run may be waiting for that.
        if self.verdict is None and not self.done.done():
            self.verdict = ended
            self._child.kill()

    def of_death(self, code: int) -> Ended:
        """The end of an attempt whose process died under it."""
        text = f"the process of the task died: {_how(code)}"
        if self._task.options.reject_on_worker_lost:
            return Ended("lost", text)
        return Ended("failed", text, exit_code=code if code >= 0 else None)


class ProcessPool(Pool):
    """Processes, as many as slots.

    Args:
        spec: where each finds the tasks, as `_loading.load` reads it.
        max_tasks_per_child: attempts after which a process makes way for another one; None: it is kept.
    """

    def __init__(self, app: App, slots: int, spec: str, max_tasks_per_child: Optional[int] = None) -> None:
        super().__init__(app, slots)
        self._spec, self._max_tasks = spec, max_tasks_per_child
        self._idle: List[_Child] = []
        self._all: Set[_Child] = set()

    async def open(self) -> None:
        """Starts the processes. One that cannot import the tasks fails the attempts that it would carry out."""
        for _ in range(self.slots):
            self._idle.append(self._spawn())

    def _spawn(self) -> _Child:
        child = _Child(self._spec)
        self._all.add(child)
        child.gone.add_done_callback(lambda _: self._forget(child))
        return child

    def _forget(self, child: _Child) -> None:
        self._all.discard(child)
        if child in self._idle:
            self._idle.remove(child)

    async def begin(self, task: Task, request: Request, log: Log) -> Body:
        """See `Pool.begin`."""
        child = await self._ready_child()
        body = _ProcessBody(child, task, log)
        child.body = body
        body.done.add_done_callback(lambda _: self._freed(child))
        # It may have died this moment; what is heard of that ends the attempt.
        with contextlib.suppress(OSError):
            child.send(request)
        return body

    async def _ready_child(self) -> _Child:
        """A process that has nothing to do. One that dies before it is ready is replaced, so many times.

        Raises:
            RuntimeError: the tasks cannot be imported, or no process gets that far.
            asyncio.TimeoutError: the import takes too long.
        """
        for left in reversed(range(STARTS_MAX)):
            child = self._idle.pop() if self._idle else self._spawn()
            try:
                await asyncio.wait_for(asyncio.shield(child.ready), READY_MAX)
                return child
            except _DiedEarly:
                if not left:
                    raise
            except BaseException:
                child.kill()
                raise
        raise AssertionError("the last one returns or raises")

    def _freed(self, child: _Child) -> None:
        if child.gone.done() or child not in self._all:
            return
        if self._max_tasks is not None and child.carried_out >= self._max_tasks:
            self._all.discard(child)
            child.let_go()
        else:
            self._idle.append(child)

    async def close(self) -> None:
        """See `Pool.close`."""
        children = list(self._all)
        for child in children:
            if child.body is None:
                child.let_go()
            else:
                child.kill()
        if children:
            await asyncio.wait([child.gone for child in children], timeout=CLOSE_MAX + 2)


def make_pool(kind: str, app: App, slots: int, spec: Optional[str], max_tasks_per_child: Optional[int]) -> Pool:
    """The pool of a name, Celery's or ours.

    Raises:
        ValueError: there is no such pool, or it needs what it was not given.
    """
    from ._pools import LoopPool, ThreadPool

    if kind in ("processes", "prefork"):
        if spec is None:
            raise ValueError("pool: processes need the tasks by the name of their module, `module:app`")
        if max_tasks_per_child is not None and max_tasks_per_child < 1:
            raise ValueError(f"max_tasks_per_child: expected at least 1, found {max_tasks_per_child}")
        return ProcessPool(app, slots, spec, max_tasks_per_child)
    if max_tasks_per_child is not None:
        raise ValueError("max_tasks_per_child: only processes end; the pool is " + kind)
    pools: Dict[str, Any] = {"threads": ThreadPool, "asyncio": LoopPool}
    if kind not in pools:
        raise ValueError(f"pool: expected processes, threads or asyncio, found {kind!r}")
    made: Pool = pools[kind](app, slots)
    return made
