"""A worker against leaders that the test plays itself: what it says and when, and what it does not begin."""

import asyncio
import datetime
import queue
import threading
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Dict, Iterator, List, Optional

import grpc
import pytest
from cluster import PATIENCE, eventually

from chronarch._schema import method, new, number
from chronarch.worker import App, Worker, current
from chronarch.worker._link import Link

app = App()
begun: List[Any] = []
go_on = threading.Event()


@app.task(name="note")
def note(value: Any) -> Any:
    begun.append(value)
    return value


@app.task(name="hold")
def hold(value: Any) -> Any:
    begun.append(value)
    assert go_on.wait(PATIENCE)
    request = current()
    assert request is not None
    return [request.attempt, value]


@app.task(name="dated")
def dated(value: Any) -> Any:
    return {"at": datetime.datetime(2026, 3, 1), "value": value}


class Stream:
    """One Serve stream, from the leader's side."""

    def __init__(self, incoming: Iterator[Any], context: grpc.ServicerContext) -> None:
        self._heard: queue.Queue[Any] = queue.Queue()
        self._said: queue.Queue[Any] = queue.Queue()
        self._context = context
        # Heartbeats that were heard and not answered.
        self.owed = 0
        threading.Thread(target=self._listen, args=(incoming,), daemon=True).start()

    def _listen(self, incoming: Iterator[Any]) -> None:
        try:
            for message in incoming:
                self._heard.put(message)
        except grpc.RpcError:
            pass
        self._heard.put(None)

    def messages(self) -> Iterator[Any]:
        while self._context.is_active():
            try:
                message = self._said.get(timeout=0.1)
            except queue.Empty:
                continue
            if message is None:
                return
            yield message

    def hear(self, kind: str, patience: float = PATIENCE) -> Any:
        """The next message of this kind; heartbeats before it are counted, anything else before it is a mistake."""
        while True:
            message = self._heard.get(timeout=patience)
            found = message.WhichOneof("kind") if message is not None else None
            if found == "heartbeat":
                self.owed += 1
            if found == kind:
                return getattr(message, found)
            assert found == "heartbeat", f"expected {kind}, heard {message}"

    def say(self, **kind: Any) -> None:
        self._said.put(new("LeaderMessage", **kind))

    def welcome(self, lease: float = 3.0) -> Any:
        """Hears the hello and answers it."""
        hello = self.hear("hello")
        welcome = new("Welcome", term=1, protocol=1)
        welcome.lease.seconds, welcome.lease.nanos = int(lease), int(lease % 1 * 1e9)
        self.say(welcome=welcome)
        return hello

    def answer(self) -> None:
        """Hears a heartbeat and answers all that are not answered."""
        self.hear("heartbeat")
        self.catch_up()

    def catch_up(self) -> None:
        """Answers the heartbeats that were heard."""
        for _ in range(self.owed):
            self.say(heartbeat=new("Heartbeat"))
        self.owed = 0

    def is_over(self) -> bool:
        """Answers heartbeats as they come; whether the worker has ended the stream."""
        while True:
            try:
                message = self._heard.get(timeout=0.05)
            except queue.Empty:
                return False
            if message is None:
                return True
            assert message.WhichOneof("kind") == "heartbeat", message
            self.say(heartbeat=new("Heartbeat"))

    def is_closed(self) -> bool:
        """Whether the stream is over at this side."""
        return not self._context.is_active()

    def order(self, run_id: str, fence: int, task: str = "note", attempt: int = 1) -> None:
        payload = f'{{"task": "{task}", "args": ["{run_id}-{fence}"]}}'
        target = new("Target", queue=new("QueueTarget", payload=payload))
        order = new("Order", run_id=run_id, fence=fence, attempt=attempt, namespace="default", job="j", target=target)
        order.timeout.seconds = 60
        self.say(order=order)

    def end(self, leader: Optional[str] = None) -> None:
        if leader is not None:
            self.say(not_leader=new("NotLeader", leader=leader))
        self._said.put(None)


class Leader(grpc.GenericRpcHandler):
    """A node that the test plays."""

    def __init__(self) -> None:
        self._streams: queue.Queue[Stream] = queue.Queue()
        self._pool = ThreadPoolExecutor(8)
        self._server = grpc.server(self._pool, handlers=[self])
        self.address = f"127.0.0.1:{self._server.add_insecure_port('127.0.0.1:0')}"
        self._open: List[Stream] = []
        self.serving = True
        self._server.start()

    def service(self, details: grpc.HandlerCallDetails) -> Optional[grpc.RpcMethodHandler]:  # type: ignore[type-arg]
        serve = method("WorkerService", "Serve")
        if details.method != serve.path:
            return None
        return grpc.stream_stream_rpc_method_handler(
            self._serve,
            request_deserializer=serve.request.FromString,
            response_serializer=lambda m: m.SerializeToString(),
        )

    def _serve(self, incoming: Iterator[Any], context: grpc.ServicerContext) -> Iterator[Any]:
        stream = Stream(incoming, context)
        self._open.append(stream)
        self._streams.put(stream)
        return stream.messages()

    def stream(self, patience: float = PATIENCE) -> Stream:
        """The next stream that a worker opens."""
        return self._streams.get(timeout=patience)

    def stop(self) -> None:
        for stream in self._open:
            stream.end()
        self._server.stop(None).wait()
        self._pool.shutdown()


@pytest.fixture
def leaders(monkeypatch: pytest.MonkeyPatch) -> Iterator[List[Leader]]:
    # A machine that is busy with other tests must not make a silent leader of one that the test plays.
    for limit in ("WELCOME_MAX", "CONNECT_MAX", "SILENCE_MAX"):
        monkeypatch.setattr(f"chronarch.worker._link.{limit}", PATIENCE)
    begun.clear()
    go_on.clear()
    made = [Leader(), Leader()]
    yield made
    go_on.set()
    for running in everyone:
        running.worker.stop()
    everyone.clear()
    for leader in made:
        leader.stop()


everyone: "List[Running]" = []


class Running:
    """A worker in a thread."""

    def __init__(self, endpoints: List[str], **options: Any) -> None:
        self.worker = Worker(app, ["q"], endpoints=endpoints, hostname="here", **options)
        self.ends: List[Any] = []
        self.thread = threading.Thread(target=lambda: self.ends.append(self.worker.run()), daemon=True)
        self.thread.start()
        everyone.append(self)

    def end(self) -> Any:
        """How it ended, once it has."""
        self.thread.join(PATIENCE)
        assert not self.thread.is_alive()
        return self.ends[0]


def is_report(report: Any, run_id: str, fence: int, outcome: str) -> bool:
    return (report.run_id, report.fence, report.outcome) == (run_id, fence, number("Outcome", f"OUTCOME_{outcome}"))


def acknowledge(stream: Stream, report: Any) -> None:
    stream.say(acknowledged=new("Acknowledged", run_id=report.run_id, fence=report.fence))


def ended(running: Running, stream: Stream) -> Any:
    """Has the worker end."""
    running.worker.stop()
    stream.hear("drain")
    stream.catch_up()
    eventually("the worker to end the stream", stream.is_over)
    return running.end()


def test_nothing_begins_before_a_heartbeat_is_answered(leaders: List[Leader]) -> None:
    running = Running([leaders[0].address], labels={"zone": "eu"}, concurrency=2)
    stream = leaders[0].stream()
    hello = stream.welcome()
    assert hello.worker.startswith("here/")
    assert (list(hello.queues), dict(hello.labels), list(hello.kinds), hello.slots) == (
        ["q"],
        {"zone": "eu"},
        ["queue"],
        2,
    )
    assert (hello.protocol, hello.leader_only, hello.keeps_output) == (1, True, True)
    stream.order("r", 1)
    stream.hear("heartbeat")
    stream.hear("heartbeat")
    assert begun == []
    stream.catch_up()
    report = stream.hear("report")
    assert is_report(report, "r", 1, "SUCCEEDED")
    acknowledge(stream, report)
    assert ended(running, stream).unacknowledged == 0


def test_a_result_that_is_no_json_is_logged_with_its_task_and_type(
    leaders: List[Leader], caplog: pytest.LogCaptureFixture
) -> None:
    Running([leaders[0].address])
    stream = leaders[0].stream()
    stream.welcome()
    stream.answer()
    stream.order("r", 1, "dated")
    report = stream.hear("report")
    assert is_report(report, "r", 1, "SUCCEEDED")
    told = "the result was not kept, for dict is no JSON: Object of type datetime is not JSON serializable"
    assert report.error == told
    (record,) = [one for one in caplog.records if one.levelname == "WARNING"]
    assert record.getMessage() == f"task dated, run r: {told}"


def test_nothing_begins_once_the_lease_is_over(leaders: List[Leader]) -> None:
    Running([leaders[0].address], concurrency=2)
    stream = leaders[0].stream()
    stream.welcome(lease=0.6)
    stream.answer()
    # From here on nothing is answered: heartbeats come, a third of the lease apart, until it is over.
    for _ in range(4):
        stream.hear("heartbeat")
    stream.order("r", 1)
    stream.hear("heartbeat")
    assert begun == []
    # This one answers a heartbeat of more than a lease ago.
    stream.say(heartbeat=new("Heartbeat"))
    stream.owed -= 1
    stream.hear("heartbeat")
    assert begun == []
    stream.catch_up()
    assert is_report(stream.hear("report"), "r", 1, "SUCCEEDED")


def test_what_is_held_is_announced_to_the_next_leader_and_reported_there(leaders: List[Leader]) -> None:
    first, second = leaders
    running = Running([first.address], concurrency=3)
    stream = first.stream()
    stream.welcome()
    stream.answer()
    for fence, task in ((1, "hold"), (2, "note")):
        stream.order(f"r{fence}", fence, task)
    assert is_report(stream.hear("report"), "r2", 2, "SUCCEEDED")
    # Not acknowledged: the leader steps down, and names its successor, which is no endpoint of the worker.
    eventually("the long one to begin", lambda: "r1-1" in begun)
    stream.end()
    first.stream().end(leader=second.address)
    again = second.stream()
    hello = again.welcome()
    assert {(held.run_id, held.fence) for held in hello.held} == {("r1", 1), ("r2", 2)}
    report = again.hear("report")
    assert is_report(report, "r2", 2, "SUCCEEDED")
    acknowledge(again, report)
    # The new leader orders what the worker has: nothing is done twice.
    again.order("r1", 1, "hold")
    again.order("r2", 2)
    again.answer()
    go_on.set()
    report = again.hear("report")
    assert is_report(report, "r1", 1, "SUCCEEDED")
    acknowledge(again, report)
    assert sorted(begun) == ["r1-1", "r2-2"]
    assert ended(running, again).unacknowledged == 0


def test_a_node_that_names_the_leader_before_it_has_heard_the_hello_is_believed(
    leaders: List[Leader], monkeypatch: pytest.MonkeyPatch
) -> None:
    first, second = leaders
    write = Link._write

    def end_early() -> None:
        stream = first.stream()
        stream.end(leader=second.address)
        eventually("the node to end the stream", stream.is_closed)

    async def late(link: Link, **kind: Any) -> None:
        # As on a machine that is busy.
        if link.address == first.address and "hello" in kind:
            await asyncio.get_running_loop().run_in_executor(None, end_early)
        await write(link, **kind)

    monkeypatch.setattr(Link, "_write", late)
    running = Running([first.address])
    stream = second.stream()
    stream.welcome()
    assert ended(running, stream).unacknowledged == 0
    with pytest.raises(queue.Empty):
        first.stream(0.001)


def test_a_worker_that_ends_carries_out_what_was_under_way(leaders: List[Leader]) -> None:
    running = Running([leaders[0].address])
    stream = leaders[0].stream()
    stream.welcome()
    stream.answer()
    running.worker.stop()
    stream.hear("drain")
    # Sent before the leader knew of the drain: no heartbeat behind it is answered yet.
    stream.order("r", 1)
    report = stream.hear("report")
    assert is_report(report, "r", 1, "SUCCEEDED")
    acknowledge(stream, report)
    assert running.thread.is_alive(), "orders may still be under way"
    stream.catch_up()
    eventually("the worker to end the stream", stream.is_over)
    assert running.end().unacknowledged == 0


def test_a_drain_that_was_asked_for_is_said_back_here_and_to_the_next_leader(leaders: List[Leader]) -> None:
    running = Running([leader.address for leader in leaders])
    streams: Dict[int, Stream] = {}

    def next_stream() -> Stream:
        """Whichever node the worker asks next."""

        def look() -> Optional[Stream]:
            for at, leader in enumerate(leaders):
                try:
                    streams[at] = leader.stream(0.05)
                    return streams[at]
                except queue.Empty:
                    continue
            return None

        found: Stream = eventually("a stream", look)
        return found

    stream = next_stream()
    stream.welcome()
    stream.say(drain=new("Drain", actor="ops", reason="maintenance"))
    assert stream.hear("drain").reason == "maintenance"
    stream.end()
    again = next_stream()
    again.welcome()
    assert again.hear("drain").actor == "ops"
    again.say(resume=new("Resume"))
    last = next_stream()
    last.welcome()
    last.answer()
    assert ended(running, last).stopped == 0


def test_a_node_that_names_a_leader_that_cannot_be_reached_carries_the_stream(leaders: List[Leader]) -> None:
    running = Running([leaders[0].address])
    straight = leaders[0].stream()
    assert straight.hear("hello").leader_only
    straight.end(leader="127.0.0.1:1")
    carried = leaders[0].stream()
    assert not carried.welcome().leader_only
    carried.answer()
    carried.order("r", 1)
    report = carried.hear("report")
    acknowledge(carried, report)
    assert ended(running, carried).unacknowledged == 0


def test_a_report_that_no_leader_acknowledges_is_told_at_the_end(
    leaders: List[Leader], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("chronarch.worker._serve.STOP_MAX", 0.1)
    monkeypatch.setattr("chronarch.worker._serve.FAREWELL_MAX", 0.1)
    running = Running([leaders[0].address], drain_timeout=0.1)
    stream = leaders[0].stream()
    stream.welcome()
    stream.answer()
    stream.order("r", 1)
    stream.hear("report")
    running.worker.stop()
    assert running.end().unacknowledged == 1
