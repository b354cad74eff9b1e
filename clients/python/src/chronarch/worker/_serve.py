"""The worker: keeps one stream to the leader, takes orders, has a pool carry them out, and repeats each report until
the leader has acknowledged it. When the stream breaks it looks for the leader again, announces what it holds, and
goes on.

The protocol is that of `worker.proto`. Who does what: this class owns everything and decides in one event loop;
`_ledger` says what is held and owed, `_finder` whom to ask for the leader, both pure; `_link` is the stream; the
pools know nothing but their attempts.

Invariants:

- An attempt, named by its run and fence, is started at most once in the worker's life.
- It is started only while the link is confirmed, checked at that moment. What an abandoned link still carried is never
  seen, and what waited is announced to the next leader first, which cancels what the cluster gave up. So a worker that
  was stopped for an hour does not begin what was its own an hour ago.
- What runs goes on however long no leader can be reached, also beyond the lease: the cluster then counts the attempt as
  lost, `on_lost` decides about the run, and the fence makes the late report worthless.
"""

import asyncio
import dataclasses
import json
import logging
import os
import socket
import threading
import uuid
from typing import Any, Dict, Mapping, Optional, Sequence, Set, Union

import grpc
import grpc.aio

from .. import _convert
from .._endpoints import ENDPOINTS_DEFAULT, Tls
from .._request import Settings
from .._schema import new
from ._execute import Ended
from ._finder import Ask, Finder
from ._ledger import Key, Ledger, Overflow, Start, make_report
from ._link import PROTOCOL, PROTOCOL_MIN, SILENCE_MAX, Link, NoLink, NotLeader
from ._loading import load
from ._output import Store
from ._pools import route_output
from ._processes import make_pool
from ._reads import Reads
from ._task import App, BadPayload, Request, invocation

SLOTS_MAX = 10_000
QUEUES_MAX = 256
LABELS_MAX = 64
# Bytes of a queue, of a label's key and value, and of the worker's name.
NAME_BYTES_MAX = 256
# Seconds that a drain waits for what runs when the worker is ended, unless configured otherwise.
DRAIN_TIMEOUT = 30.0
# When leaving: seconds that stopped attempts may take to end; then they are abandoned, and killed with the pool.
STOP_MAX = 15.0
# When leaving: seconds that the leader may take to acknowledge the last reports.
FAREWELL_MAX = 5.0
# Seconds after which a link that another node carries is given up, to look whether the leader can be reached by now.
CARRIED_MAX = 300.0
# Reasons why there is no link that are logged until there is one.
TOLD_MAX = 256
_log = logging.getLogger("chronarch.worker")


@dataclasses.dataclass(frozen=True)
class WorkerEnd:
    """How a worker's life ended."""

    stopped: int
    """Attempts that the drain did not wait for: stopped, or never begun."""
    unacknowledged: int
    """Reports that no leader acknowledged in time; the cluster will count those attempts as lost."""


class _Resumed(Exception):
    """The worker takes orders again: it says hello anew."""


class Worker:
    """Carries out attempts of `queue` targets.

    Args:
        app: the tasks, or where they are: `package.module:app`, as processes need it. queues: the queues that it
        serves. concurrency: attempts at a time, 1 to 10,000. pool: `processes`, `threads` or `asyncio`. endpoints,
        tls, token, insecure: as of `chronarch.Client`. labels: what `requires` of a job is compared with. hostname:
        what its name begins with; None: that of the machine. drain_timeout: seconds that what runs has to end when
        the worker is stopped; then it is stopped and reported as lost. max_tasks_per_child: attempts after which a
        process is replaced; None: it is kept.

    Raises:
        ValueError: an option makes no sense; the message begins with its name.
        CannotLoad: the tasks cannot be found.
    """

    def __init__(
        self,
        app: Union[App, str],
        queues: Sequence[str] = ("default",),
        *,
        concurrency: int = 4,
        pool: str = "threads",
        endpoints: Union[str, Sequence[str], None] = None,
        labels: Optional[Mapping[str, str]] = None,
        hostname: Optional[str] = None,
        tls: Optional[Tls] = None,
        token: Optional[str] = None,
        insecure: bool = False,
        drain_timeout: float = DRAIN_TIMEOUT,
        max_tasks_per_child: Optional[int] = None,
    ) -> None:
        token = token if token is not None else os.environ.get("CHRONARCH_TOKEN") or None
        self._settings = Settings(endpoints, tls, token, 10.0, "", insecure)
        self._queues, self._labels = list(dict.fromkeys(queues)), dict(labels or {})
        place = hostname or socket.gethostname() or "worker"
        _check(self._queues, self._labels, place, concurrency, drain_timeout)
        # Another one for each life, as the protocol asks.
        self.name = f"{place}/{uuid.uuid4().hex[:8]}"
        spec = app if isinstance(app, str) else None
        self._app = load(app) if isinstance(app, str) else app
        self._pool = make_pool(pool, self._app, concurrency, spec, max_tasks_per_child)
        self._routes_output = pool in ("threads", "asyncio")
        self._ledger = Ledger(concurrency)
        self._slots, self._drain_timeout = concurrency, drain_timeout
        self._store = Store()
        self._reads = Reads(self._store, self._settings)
        self._attempts: Set[asyncio.Task[None]] = set()
        self._link: Optional[Link] = None
        # The Drain that the cluster asked for with, while it holds.
        self._asked: Optional[Any] = None
        self._is_ending = False
        self._is_leaving = False
        self._is_over = False
        self._stopped = 0
        self._loop: Optional[asyncio.AbstractEventLoop] = None
        self._stop_lock = threading.Lock()
        self._stop_asked = False

    # Outside.

    def run(self) -> WorkerEnd:
        """Serves until `stop` is called and what runs has ended."""
        return asyncio.run(self.serve())

    def stop(self) -> None:
        """Has the worker take nothing new, finish what it holds, and end. From any thread, also before `run`."""
        with self._stop_lock:
            self._stop_asked = True
            loop = self._loop
        if loop is not None and not loop.is_closed():
            loop.call_soon_threadsafe(self._begin_to_end)

    async def serve(self) -> WorkerEnd:
        """As `run`, in the caller's event loop."""
        loop = asyncio.get_running_loop()
        # Here, for in Python 3.9 an event belongs to the loop that it is made in.
        self._wake = asyncio.Event()
        self._store.bind(loop)
        if self._routes_output:
            route_output()
        with self._stop_lock:
            self._loop = loop
            if self._stop_asked:
                self._begin_to_end()
        await self._pool.open()
        _log.info("serving %s as %s", ", ".join(self._queues), self.name)
        try:
            await self._follow_leaders()
        finally:
            await self._reads.close()
            await self._pool.close()
            for attempt in list(self._attempts):
                attempt.cancel()
            if self._attempts:
                await asyncio.wait(list(self._attempts))
        return WorkerEnd(self._stopped, self._ledger.unacknowledged)

    # The way out.

    def _begin_to_end(self) -> None:
        if not self._is_ending:
            _log.info("finishing what runs")
            self._is_ending = True
            asyncio.get_running_loop().call_later(self._drain_timeout, self._leave)
            self._woken()

    def _leave(self) -> None:
        if not self._is_over:
            self._is_leaving = True
            self._stopped = self._ledger.leave()
            asyncio.get_running_loop().call_later(STOP_MAX, self._abandon)
            self._woken()

    def _abandon(self) -> None:
        if not self._is_over:
            self._ledger.abandon_running()
            asyncio.get_running_loop().call_later(FAREWELL_MAX, self._give_up)
            self._woken()

    def _give_up(self) -> None:
        self._is_over = True
        self._woken()

    def _woken(self) -> None:
        self._wake.set()

    def _is_finished(self) -> bool:
        """Whether it may end: nothing is held, and no order can be under way."""
        if not self._is_over and self._is_ending and self._ledger.is_empty():
            self._is_over = self._link is None or self._link.drain_was_heard
        return self._is_over

    # From leader to leader.

    async def _follow_leaders(self) -> None:
        loop = asyncio.get_running_loop()
        finder = Finder(self._settings.endpoints, loop.time())
        # Each reason is told once until there is a link again.
        told: Set[str] = set()
        while not self._is_finished():
            step = finder.next(loop.time())
            if not isinstance(step, Ask):
                await self._pause(step.until - loop.time())
                continue
            try:
                link = await Link.open(self._settings, step.address, self._hello(step), self._drain())
            except NotLeader as named:
                finder.not_leader(step, named.leader, loop.time())
                continue
            except NoLink as error:
                if error.is_silent:
                    finder.silent(step.address, loop.time())
                if f"{step.address}: {error}" not in told and len(told) < TOLD_MAX:
                    told.add(f"{step.address}: {error}")
                    _log.warning("%s: %s", step.address, error)
                continue
            told.clear()
            await self._serve_link(link, finder)

    async def _pause(self, seconds: float) -> None:
        # Woken by an end that has come; by attempts that ended in between as well, which does no harm.
        try:
            await asyncio.wait_for(self._wake.wait(), max(seconds, 0.0))
            self._wake.clear()
        except asyncio.TimeoutError:
            pass

    def _hello(self, ask: Ask) -> Any:
        held = [new("Held", run_id=key.run_id, fence=key.fence) for key in self._ledger.held()]
        return new(
            "Hello",
            worker=self.name,
            queues=self._queues,
            labels=self._labels,
            kinds=["queue"],
            slots=self._slots,
            held=held,
            version=_version(),
            keeps_output=True,
            protocol=PROTOCOL,
            protocol_min=PROTOCOL_MIN,
            leader_only=not ask.carried,
        )

    def _drain(self) -> Optional[Any]:
        """What is told of the drain, while there is one."""
        if self._asked is not None:
            return self._asked
        return new("Drain") if self._is_ending else None

    async def _serve_link(self, link: Link, finder: Finder) -> None:
        loop = asyncio.get_running_loop()
        _log.info("connected to %s%s", link.address, " (carried)" if link.carried_by else "")
        self._link = link
        self._ledger.stream_opened()
        tasks = {loop.create_task(self._read(link)), loop.create_task(self._write(link))}
        limit = CARRIED_MAX if link.carried_by else None
        done, pending = await asyncio.wait(tasks, timeout=limit, return_when=asyncio.FIRST_COMPLETED)
        self._link = None
        for task in pending:
            task.cancel()
        await asyncio.wait(tasks)
        await link.close()
        errors = [task.exception() for task in done]
        # Both may end at once; who leads is worth more than how the stream broke.
        why = next((error for error in errors if isinstance(error, NotLeader)), errors[0] if errors else None)
        if isinstance(why, NotLeader):
            finder.lost(link.address, link.opened_at, why.leader, loop.time())
        elif isinstance(why, (NoLink, Overflow)):
            _log.warning("%s: %s", link.address, why)
            finder.lost(link.address, link.opened_at, "", loop.time())
        elif why is None or isinstance(why, _Resumed):
            finder.look_again(loop.time())
        else:
            raise why

    # What is heard.

    async def _read(self, link: Link) -> None:
        while True:
            message = await link.read()
            kind = message.WhichOneof("kind")
            body: Any = getattr(message, kind) if kind else None
            if kind == "order":
                self._take(body)
            elif kind == "cancel":
                self._ledger.cancel(Key(body.run_id, body.fence))
            elif kind == "acknowledged":
                self._ledger.acknowledge(Key(body.run_id, body.fence))
            elif kind == "read_output":
                self._reads.answer(link.address, body)
            elif kind == "drain":
                _log.info("asked to drain: %s", body.reason or "no reason given")
                self._asked = body
            elif kind == "resume" and self._asked is not None and not self._is_ending:
                _log.info("asked to take orders again")
                self._asked = None
                raise _Resumed
            elif kind == "welcome":
                raise NoLink("a second welcome came")
            self._begin_ready()
            self._woken()

    def _take(self, order: Any) -> None:
        key = Key(order.run_id, order.fence)
        try:
            request = self._request(order)
        except BadPayload as error:
            self._ledger.accept(key, None, str(error))
        else:
            self._ledger.accept(key, request)

    def _request(self, order: Any) -> Request:
        """What the attempt is told.

        Raises:
            BadPayload: it cannot be carried out.
        """
        if not order.target.HasField("queue"):
            raise BadPayload("this worker carries out targets of the kind `queue` alone")
        task, args, kwargs = invocation(self._app, order.target.queue.payload, order.job)
        limits = [limit for limit in (_convert.span(order.timeout).total_seconds(), task.options.time_limit) if limit]
        return Request(
            run_id=order.run_id,
            fence=order.fence,
            attempt=order.attempt,
            namespace=order.namespace,
            job=order.job,
            task=task.name,
            args=args,
            kwargs=kwargs,
            scheduled_at=_convert.instant(order.scheduled_at) if order.HasField("scheduled_at") else None,
            timeout=min(limits) if limits else None,
            soft_timeout=task.options.soft_time_limit,
            params=dict(order.params),
            inputs={job: _json(text) for job, text in order.inputs.items()},
            chain_id=order.chain_id,
            traceparent=order.traceparent,
            hostname=self.name,
        )

    # What is done.

    def _begin_ready(self) -> None:
        """Begins what is held and has not begun, as far as slots and the lease allow."""
        while self._link is not None and self._link.is_confirmed and not self._is_leaving:
            start = self._ledger.start_next()
            if start is None:
                return
            task = asyncio.get_running_loop().create_task(self._carry_out(start))
            self._attempts.add(task)
            task.add_done_callback(self._attempts.discard)

    async def _carry_out(self, start: Start) -> None:
        log = self._store.open((start.key.run_id, start.key.fence))
        ended = Ended("lost", "the worker ended")
        try:
            ended = await self._pool.carry_out(start, log)
            if ended.outcome == "succeeded" and ended.error:
                _log.warning("task %s, run %s: %s", start.request.task, start.key.run_id, ended.error)
        finally:
            log.close()
            output, is_cut = log.tail()
            fields: Dict[str, Any] = {"output": output, "output_truncated": is_cut, "result": ended.result}
            if ended.exit_code is not None:
                fields["exit_code"] = ended.exit_code
            self._ledger.ended(start.key, make_report(start.key, ended.outcome, ended.error, **fields))
            self._begin_ready()
            self._woken()

    async def _write(self, link: Link) -> None:
        """Sends what there is to say, heartbeats first; nothing waits in a queue."""
        try:
            await self._write_until_over(link)
        except (grpc.RpcError, asyncio.InvalidStateError, grpc.aio.UsageError):
            # The node has ended the stream, and what it said last, who leads, is still to be read.
            await asyncio.sleep(SILENCE_MAX)
            raise NoLink("the stream broke") from None

    async def _write_until_over(self, link: Link) -> None:
        loop = asyncio.get_running_loop()
        while not self._is_finished():
            self._wake.clear()
            drain = self._drain()
            if link.beat_in() <= 0:
                await link.beat()
            elif drain is not None and not link.was_told_of_drain:
                await link.tell_drain(drain)
            else:
                report = self._ledger.next_report(loop.time())
                if report is not None:
                    await link.report(report)
                else:
                    await self._pause(link.beat_in())


def _check(queues: Sequence[str], labels: Mapping[str, str], place: str, slots: int, drain_timeout: float) -> None:
    if not 1 <= slots <= SLOTS_MAX:
        raise ValueError(f"concurrency: {slots} is not between 1 and {SLOTS_MAX}")
    if not 1 <= len(queues) <= QUEUES_MAX:
        raise ValueError(f"queues: {len(queues)} given, expected 1 to {QUEUES_MAX}")
    if len(labels) > LABELS_MAX:
        raise ValueError(f"labels: {len(labels)} are more than {LABELS_MAX}")
    if not drain_timeout >= 0:
        raise ValueError(f"drain_timeout: expected seconds, found {drain_timeout}")
    texts = {"hostname": [place], "queues": list(queues), "labels": list(labels)}
    for field, values in texts.items():
        for value in values:
            if not 1 <= len(value.encode()) <= NAME_BYTES_MAX:
                raise ValueError(f"{field}: {value[:40]!r} is not between 1 and {NAME_BYTES_MAX} bytes long")


def _json(text: str) -> Any:
    try:
        return json.loads(text)
    except ValueError:
        return text


def _version() -> str:
    from importlib.metadata import PackageNotFoundError, version

    try:
        return f"python-{version('chronarch')}"
    except PackageNotFoundError:
        return "python"


__all__ = ["DRAIN_TIMEOUT", "ENDPOINTS_DEFAULT", "Worker", "WorkerEnd"]
