"""What a client does when nodes are away, silent, refuse, or lose an answer: against servers that do so on purpose."""

import asyncio
import contextlib
import socket
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Callable, Dict, Iterator, List, Optional, Tuple

import grpc
import pytest
import trustme
from cluster import free_ports

import chronarch
import chronarch.aio
from chronarch import Client, InvalidArgument, Refused, Tls, UnknownResult, Unreachable
from chronarch._schema import Kind, message_class, method, new
from chronarch._tries import NOT_LEADER, TRY_MIN, Tries, read_problems

LONG = 20.0
Answer = Callable[[Any, grpc.ServicerContext], Any]


class Node(grpc.GenericRpcHandler):
    """A server that answers every call of the API with `answer`, and remembers what it was asked."""

    def __init__(self, answer: Answer) -> None:
        self.answer = answer
        self.asked: List[Any] = []
        self.metadata: List[Dict[str, Any]] = []

    def service(self, details: grpc.HandlerCallDetails) -> Optional[grpc.RpcMethodHandler]:  # type: ignore[type-arg]
        service, name = details.method.rsplit(".", 1)[-1].split("/")
        call = method(service, name)

        def unary(request: Any, context: grpc.ServicerContext) -> Any:
            self.asked.append(request)
            self.metadata.append(dict(context.invocation_metadata()))
            return self.answer(request, context)

        handler = (
            grpc.unary_stream_rpc_method_handler
            if name in ("WatchRun", "ReadOutput", "ExportLog")
            else (grpc.unary_unary_rpc_method_handler)
        )
        return handler(
            unary, request_deserializer=call.request.FromString, response_serializer=lambda one: one.SerializeToString()
        )


@contextlib.contextmanager
def served(
    answer: Answer, credentials: Optional[grpc.ServerCredentials] = None, port: int = 0
) -> Iterator[Tuple[str, Node]]:
    """The address of a node, and the node."""
    node = Node(answer)
    pool = ThreadPoolExecutor(8)
    server = grpc.server(pool, handlers=[node])
    if credentials is None:
        port = server.add_insecure_port(f"127.0.0.1:{port}")
    else:
        port = server.add_secure_port(f"127.0.0.1:{port}", credentials)
    server.start()
    try:
        yield f"127.0.0.1:{port}", node
    finally:
        server.stop(None).wait()
        pool.shutdown()


_taken: List[socket.socket] = []


def nobody() -> str:
    """An address where nobody listens, and nobody else can meanwhile."""
    one = socket.socket()
    _taken.append(one)
    one.bind(("127.0.0.1", 0))
    return f"127.0.0.1:{one.getsockname()[1]}"


def breaker(request: Any, context: grpc.ServicerContext) -> Any:
    return new("Breaker", name=request.name)


def no_leader(request: Any, context: grpc.ServicerContext) -> Any:
    context.set_trailing_metadata(((NOT_LEADER, "1"),))
    context.abort(grpc.StatusCode.UNAVAILABLE, "no leader")


def refuse(code: grpc.StatusCode, details: str, *metadata: Tuple[str, str]) -> Answer:
    def answer(request: Any, context: grpc.ServicerContext) -> Any:
        context.set_trailing_metadata(metadata)
        context.abort(code, details)

    return answer


class Lossy:
    """Does the work, then breaks off without an answer, so many times."""

    def __init__(self, times: int) -> None:
        self.left = times

    def __call__(self, request: Any, context: grpc.ServicerContext) -> Any:
        self.left -= 1
        if self.left >= 0:
            context.abort(grpc.StatusCode.UNAVAILABLE, "stepping down")
        return new("Breaker", name=getattr(request, "name", ""))


# In a process of its own: what reads the sockets of another client or server reads those of this one too.
ASKS = """
import sys
from chronarch import Client, Unreachable
with Client(sys.argv[1], timeout=5) as client:
    for name in sys.stdin:
        try:
            print("answered", client.get_breaker(name.strip()).name, flush=True)
        except Unreachable:
            print("nobody", flush=True)
"""


def test_a_client_finds_a_node_that_comes_back() -> None:
    port = free_ports(1)[0]
    command = [sys.executable, "-c", ASKS, f"127.0.0.1:{port}"]
    pipe = subprocess.PIPE
    with subprocess.Popen(command, stdin=pipe, stdout=pipe, text=True, bufsize=1) as process:

        def ask(name: str) -> str:
            assert process.stdin is not None
            assert process.stdout is not None
            process.stdin.write(f"{name}\n")
            return process.stdout.readline().strip()

        try:
            assert ask("a") == "nobody"
            with served(breaker, port=port):
                assert ask("b") == "answered b"
            assert ask("c") == "nobody"
            with served(breaker, port=port):
                assert ask("d") == "answered d"
        finally:
            process.kill()


@pytest.fixture(params=["sync", "asyncio"])
def call(request: pytest.FixtureRequest) -> Callable[..., Any]:
    """Makes one call with a client of either kind."""

    def sync(
        endpoints: List[str], name: str, *args: Any, options: Optional[Dict[str, Any]] = None, **fields: Any
    ) -> Any:
        with Client(endpoints, **(options or {})) as client:
            answer = getattr(client, name)(*args, **fields)
            return list(answer) if hasattr(answer, "__next__") else answer

    def asynchronous(
        endpoints: List[str], name: str, *args: Any, options: Optional[Dict[str, Any]] = None, **fields: Any
    ) -> Any:
        async def run() -> Any:
            async with chronarch.aio.Client(endpoints, **(options or {})) as client:
                answer = getattr(client, name)(*args, **fields)
                return [one async for one in answer] if hasattr(answer, "__anext__") else await answer

        return asyncio.run(run())

    return sync if request.param == "sync" else asynchronous


def test_a_read_passes_over_nodes_that_cannot_answer(call: Any) -> None:
    with served(no_leader) as (lost, _), served(breaker) as (good, _):
        answer = call([nobody(), lost, good], "get_breaker", "feed", options={"timeout": LONG})
    assert answer.name == "feed"


def test_a_silent_node_is_left_for_the_next(call: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("chronarch._tries.TRY_MAX", 0.3)
    over = threading.Event()

    def silent(request: Any, context: grpc.ServicerContext) -> Any:
        context.add_callback(over.set)
        over.wait(LONG)
        return new("Breaker")

    with served(silent) as (quiet, _), served(breaker) as (good, _):
        answer = call([quiet, good], "get_breaker", "feed", options={"timeout": LONG})
    assert answer.name == "feed"


def test_a_write_is_repeated_with_the_same_operation_id(call: Any) -> None:
    lossy = Lossy(1)
    with served(lossy) as (first, at_first), served(lossy) as (second, at_second):
        call([first, second], "trip_breaker", "feed", options={"timeout": LONG})
    ids = [request.operation_id for request in (*at_first.asked, *at_second.asked)]
    assert len(ids) == 2
    assert ids[0] == ids[1] != ""


def test_an_operation_id_of_the_caller_is_kept(call: Any) -> None:
    with served(breaker) as (good, node):
        call([good], "trip_breaker", "feed", operation_id="mine")
    assert [request.operation_id for request in node.asked] == ["mine"]


def test_a_write_that_may_be_done_is_told_from_one_that_is_not(call: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    # What has no answer in time may be done, also where a busy machine was slow to refuse the connection.
    monkeypatch.setattr("chronarch._tries.TRY_MAX", LONG)
    with served(Lossy(1_000)) as (lossy, _):
        with pytest.raises(UnknownResult) as unknown:
            call([nobody(), lossy], "trip_breaker", "feed", timeout=1.0, operation_id="mine")
        with pytest.raises(Unreachable):
            call([lossy], "get_breaker", "feed", timeout=1.0)
    assert unknown.value.operation_id == "mine"
    assert "operation_id='mine'" in str(unknown.value)
    assert len(unknown.value.tried) == 2
    with pytest.raises(Unreachable):
        call([nobody()], "trip_breaker", "feed", timeout=LONG)
    with served(no_leader) as (lost, _), pytest.raises(Unreachable):
        call([lost], "trip_breaker", "feed", timeout=1.0)


def test_a_write_without_an_operation_id_is_sent_at_most_once(call: Any) -> None:
    never = served(breaker)
    with served(Lossy(1)) as (lossy, at_lossy), never as (good, at_good), pytest.raises(UnknownResult) as unknown:
        call([lossy, good], "remove_node", 3, timeout=LONG)
    assert unknown.value.operation_id is None
    assert (len(at_lossy.asked), len(at_good.asked)) == (1, 0)


def test_a_write_without_an_operation_id_looks_for_the_leader(call: Any) -> None:
    def removed(request: Any, context: grpc.ServicerContext) -> Any:
        return new("RemoveNodeResponse")

    with served(no_leader) as (lost, _), served(removed) as (good, node):
        assert call([nobody(), lost, good], "remove_node", 3, timeout=LONG) is None
    assert [request.node_id for request in node.asked] == [3]


@pytest.mark.parametrize("timeout", [0.06, 0.3, 1.0, 7.0])
def test_no_try_begins_that_cannot_be_answered(timeout: float) -> None:
    tries, now, limits = Tries(Kind.KEYED, "id", 2, timeout, 0.0), 0.0, []

    def ask_until_it_is_over() -> None:
        nonlocal now
        while True:
            limits.append(tries.limit(now))
            now += 0.001
            now += tries.failed(f"node {len(limits) % 2}", "no leader", False, now)
            # That the nodes refused the connection is another rule's end.
            tries._refused_rounds = 0

    with pytest.raises(Unreachable):
        ask_until_it_is_over()
    assert min(limits) >= TRY_MIN
    assert now <= timeout


def test_a_refusal_is_not_taken_elsewhere(call: Any) -> None:
    locked = refuse(grpc.StatusCode.FAILED_PRECONDITION, "the breaker is locked", ("chronarch-hint", "reset it"))
    never, told = served(breaker), pytest.raises(Refused, match="the breaker is locked")
    with served(locked) as (refusing, _), never as (good, node), told as refused:
        call([refusing, good], "trip_breaker", "feed")
    assert refused.value.hint == "reset it"
    assert node.asked == []


@pytest.mark.parametrize(
    ("code", "expected"),
    [
        ("NOT_FOUND", chronarch.NotFound),
        ("INVALID_ARGUMENT", chronarch.InvalidArgument),
        ("FAILED_PRECONDITION", chronarch.Refused),
        ("ALREADY_EXISTS", chronarch.AlreadyExists),
        ("RESOURCE_EXHAUSTED", chronarch.LimitReached),
        ("UNAUTHENTICATED", chronarch.Unauthenticated),
        ("PERMISSION_DENIED", chronarch.PermissionDenied),
        ("DATA_LOSS", chronarch.Unexpected),
        ("INTERNAL", chronarch.Unexpected),
    ],
)
def test_every_code_has_its_exception(call: Any, code: str, expected: Any) -> None:
    with served(refuse(grpc.StatusCode[code], "x")) as (refusing, _), pytest.raises(expected) as raised:
        call([refusing], "get_breaker", "feed", timeout=LONG)
    assert type(raised.value) is expected


def test_a_refusal_names_each_field() -> None:
    problems, omitted = read_problems(
        "jobs[0].name: is empty\njobs[1].target.http.url: is no URL: relative\nhint: begin with https\nand 7 more"
    )
    assert [(one.path, one.hint) for one in problems] == [
        ("jobs[0].name", None),
        ("jobs[1].target.http.url", "begin with https"),
    ]
    assert omitted == 7
    assert read_problems("a rate of 5: too much")[0][0].path == ""


def test_what_has_not_its_form_is_told_at_once_and_not_sent(call: Any) -> None:
    jobs = [{"name": 5, "shedule": {}, "timeout": 90, "catch_up": {"runs": "most"}, "labels": {"a": 1}}]
    with served(breaker) as (good, node), pytest.raises(InvalidArgument) as raised:
        call([good], "apply_jobs", jobs)
    assert [problem.path for problem in raised.value.problems] == [
        "jobs[0].name",
        "jobs[0].shedule",
        "jobs[0].timeout",
        "jobs[0].catch_up.runs",
        "jobs[0].labels.a",
    ]
    assert raised.value.problems[1].hint == "did you mean `schedule`?"
    assert node.asked == []


def test_pages_are_joined(call: Any) -> None:
    def pages(request: Any, context: grpc.ServicerContext) -> Any:
        first = int(request.page_token or 0)
        names = [new("Breaker", name=f"b{at}") for at in range(first, min(first + 7, 20))]
        return new("ListBreakersResponse", breakers=names, next_page_token=str(first + 7) if first + 7 < 20 else "")

    with served(pages) as (good, node):
        found = call([good], "iter_breakers", namespace="here")
    assert [one.name for one in found] == [f"b{at}" for at in range(20)]
    assert [request.namespace for request in node.asked] == ["here"] * 3


def test_a_watch_goes_on_at_the_next_node_and_tells_nothing_twice(call: Any) -> None:
    running, done = number("RUN_STATE_RUNNING"), number("RUN_STATE_SUCCEEDED")

    def breaks(request: Any, context: grpc.ServicerContext) -> Any:
        yield new("Run", run_id="r", state=running)
        context.abort(grpc.StatusCode.UNAVAILABLE, "going down")

    def goes_on(request: Any, context: grpc.ServicerContext) -> Any:
        yield new("Run", run_id="r", state=running)
        yield new("Run", run_id="r", state=done)

    def once(request: Any, context: grpc.ServicerContext) -> Any:
        return goes_on(request, context) if at_first.asked[1:] else breaks(request, context)

    with served(once) as (first, at_first):
        seen = call([first], "watch_run", "r")
    assert [run.state for run in seen] == ["running", "succeeded"]


def test_output_goes_on_behind_the_last_byte(call: Any) -> None:
    def breaks(request: Any, context: grpc.ServicerContext) -> Any:
        yield new("ReadOutputResponse", attempt=1, pieces=[new("OutputPiece", offset=request.offset, data=b"abc")])
        if request.offset < 6:
            context.abort(grpc.StatusCode.UNAVAILABLE, "going down")

    with served(breaks) as (first, node):
        seen = call([first], "read_output", "r")
    assert [piece.offset for one in seen for piece in one.pieces] == [0, 3, 6]
    assert [(request.attempt, request.offset) for request in node.asked] == [(0, 0), (1, 3), (1, 6)]


def test_each_request_has_the_token(call: Any) -> None:
    with served(breaker) as (good, node):
        call([good], "get_breaker", "feed", options={"token": "s3cret"})
    assert node.metadata[0]["authorization"] == "Bearer s3cret"


def test_a_token_does_not_leave_the_machine_in_plain_text() -> None:
    with pytest.raises(ValueError, match=r"10\.0\.0\.1:7401 would be sent it in plain text"):
        Client(["127.0.0.1:1", "10.0.0.1:7401"], token="s3cret")
    Client(["10.0.0.1:7401"], token="s3cret", insecure=True).close()
    Client(["10.0.0.1:7401"], token="s3cret", tls=Tls()).close()


def test_both_sides_of_a_connection_are_checked(call: Any, tmp_path: Path) -> None:
    authority, other = trustme.CA(), trustme.CA()
    of_node, of_client = authority.issue_cert("127.0.0.1"), authority.issue_cert("client@example.org")
    authority.cert_pem.write_to_path(str(tmp_path / "ca.pem"))
    other.cert_pem.write_to_path(str(tmp_path / "other.pem"))
    of_client.cert_chain_pems[0].write_to_path(str(tmp_path / "cert.pem"))
    of_client.private_key_pem.write_to_path(str(tmp_path / "key.pem"))
    pair = (of_node.private_key_pem.bytes(), of_node.cert_chain_pems[0].bytes())
    credentials = grpc.ssl_server_credentials([pair], authority.cert_pem.bytes(), require_client_auth=True)
    whole = Tls(ca=tmp_path / "ca.pem", cert=tmp_path / "cert.pem", key=tmp_path / "key.pem")
    with served(breaker, credentials) as (good, _):
        assert call([good], "get_breaker", "feed", options={"tls": whole}).name == "feed"
        for wrong in (
            Tls(ca=tmp_path / "ca.pem"),
            Tls(ca=tmp_path / "other.pem", cert=whole.cert, key=whole.key),
            None,
        ):
            with pytest.raises(Unreachable):
                call([good], "get_breaker", "feed", options={"tls": wrong}, timeout=1.0)
    with pytest.raises(ValueError, match="need one another"):
        Client([good], tls=Tls(cert=whole.cert))


@pytest.mark.parametrize("text", ["", "node-1", ":7401", "a:0", "a:99999", "a:1/x", "u@a:1", "a b:1"])
def test_only_host_and_port_are_an_endpoint(text: str) -> None:
    with pytest.raises(ValueError, match="endpoints"):
        Client([text])


def test_every_call_of_the_protocol_is_there() -> None:
    served_to_workers = {"Serve", "SendOutput"}
    pool = message_class("Job").DESCRIPTOR.file.pool
    names = set()
    for file in ("job", "run", "breaker", "queue", "namespace", "cluster", "worker"):
        for service in pool.FindFileByName(f"chronarch/v1/{file}.proto").services_by_name.values():
            names |= {one.name for one in service.methods} - served_to_workers
    assert len(names) > 30
    for name in names:
        spelled = "".join(f"_{c.lower()}" if c.isupper() else c for c in name).lstrip("_")
        assert callable(getattr(Client, spelled))
        assert callable(getattr(chronarch.aio.Client, spelled))


def test_only_what_may_be_repeated_is() -> None:
    kinds = {
        ("JobService", "ApplyJobs"): Kind.KEYED,
        ("JobService", "GetJob"): Kind.READ,
        ("WorkerService", "DrainWorker"): Kind.HARMLESS,
        ("ClusterService", "TransferLeader"): Kind.ONCE,
        ("ClusterService", "RemoveNode"): Kind.ONCE,
    }
    assert {call: method(*call).kind for call in kinds} == kinds


def test_a_client_is_of_no_use_once_it_is_closed() -> None:
    client = Client([nobody()])
    client.close()
    with pytest.raises(ValueError, match="closed"):
        client.get_job("x")


def number(value: str) -> int:
    from chronarch._schema import number

    return number("RunState", value)
