"""The client for code that waits for its answers; `chronarch.aio` has the same for asyncio."""

import os
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Callable, Dict, Iterator, Mapping, Optional, Sequence, Tuple, Union

import grpc

from . import _convert, models
from ._calls import Calls
from ._endpoints import Tls
from ._request import TIMEOUT_DEFAULT, Lost, Prepared, Settings, lost
from ._streams import Output, Stream, Watch
from ._tries import TRY_MAX, Tries
from .errors import ChronarchError, Tried, Unreachable


class Client(Calls):
    """The API over any of several endpoints. Connects when it is first used; may be used by several threads.

    It stays with the endpoint that answered last; when that one is down, silent, or knows no leader, it asks the next,
    round after round, until the timeout of the call is over. Used after a fork it makes connections of its own.

    Args:
        endpoints: `host:port` of some or all nodes, as a list or a text with commas. None: what CHRONARCH_ENDPOINTS
            says, or else three nodes on this machine.
        tls: how connections are encrypted; None: not.
        token: goes with each request. None: what CHRONARCH_TOKEN says, if anything.
        timeout: seconds for a call, all tries together, unless the call says otherwise.
        actor: who asks, for the record; empty: the address of this machine.
        insecure: whether a token may be sent in plain text beyond this machine.

    Raises:
        ValueError: an option makes no sense.
        OSError: a file of `tls` cannot be read.
    """

    def __init__(
        self,
        endpoints: Union[str, Sequence[str], None] = None,
        *,
        tls: Optional[Tls] = None,
        token: Optional[str] = None,
        timeout: float = TIMEOUT_DEFAULT,
        actor: str = "",
        insecure: bool = False,
    ) -> None:
        token = token if token is not None else os.environ.get("CHRONARCH_TOKEN") or None
        self._settings = Settings(endpoints, tls, token, timeout, actor, insecure)
        self._lock = threading.Lock()
        self._channels: Dict[int, grpc.Channel] = {}
        self._process = os.getpid()
        self._preferred = 0
        self._closed = False

    def __enter__(self) -> "Client":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Ends the connections, and with them what is under way."""
        with self._lock:
            self._closed = True
            channels = list(self._channels.values()) if self._process == os.getpid() else []
            self._channels = {}
        for channel in channels:
            channel.close()

    # Calls that client streams and lists are made of.

    def watch_run(self, run_id: str, *, timeout: Optional[float] = None) -> Iterator[models.Run]:
        """The run as it is, then each change of it, until it has ended. A broken stream is opened again at the next
        endpoint; what is seen a second time is left out.

        Args:
            run_id: the run.
            timeout: seconds within which the stream has to be opened, each time; not for the whole of it.

        Raises:
            ChronarchError: it cannot be opened, or not again.
        """
        return self._resumed(Watch(run_id), timeout)

    def read_output(
        self,
        run_id: str,
        *,
        attempt: int = 0,
        offset: int = 0,
        tail_lines: int = 0,
        stream: Union[models.OutputStream, str] = "",
        follow: bool = False,
        later_attempts: bool = False,
        timeout: Optional[float] = None,
    ) -> Iterator[models.ReadOutputResponse]:
        """The output of a run's attempts. A broken stream is taken up again behind the last byte that was seen.

        Args:
            run_id: the run.
            attempt: from 1; 0: the newest that was started.
            offset: the first byte that is wanted.
            tail_lines: from so many lines before what is there now, at most 100,000; 0: from the offset.
            stream: `stdout` or `stderr`; empty: all.
            follow: go on until the attempt has ended.
            later_attempts: and then with the attempts behind it, until the run has ended.
            timeout: seconds within which the stream has to be opened, each time; not for the whole of it.

        Raises:
            ChronarchError: it cannot be opened, or not again.
        """
        wanted = {
            "run_id": run_id,
            "attempt": attempt,
            "offset": offset,
            "tail_lines": tail_lines,
            "stream": stream or None,
            "follow": follow,
            "later_attempts": later_attempts,
        }
        return self._resumed(Output(wanted), timeout)

    def wait_for_run(self, run_id: str, *, timeout: Optional[float] = None) -> models.Run:
        """The run once it has ended.

        Args:
            run_id: the run.
            timeout: as of `watch_run`.

        Raises:
            ChronarchError: as of `watch_run`.
        """
        for run in self.watch_run(run_id, timeout=timeout):
            last = run
        return last

    def statuses(self) -> Dict[str, Union[models.ClusterStatus, ChronarchError]]:
        """What each endpoint itself says of the cluster, asked all at once; one that is silent costs 3 s at most."""
        prepared = Prepared(self._settings, "ClusterService", "GetStatus", {})
        limit = min(TRY_MAX, self._settings.timeout)

        def ask(index: int) -> Union[models.ClusterStatus, ChronarchError]:
            try:
                answer: models.ClusterStatus = _convert.from_message(self._try(index, prepared, limit))
                return answer
            except Lost as failed:
                return Unreachable([Tried(self._settings.endpoints[index], failed.reason, failed.reached)])
            except ChronarchError as error:
                return error

        endpoints = self._settings.endpoints
        with ThreadPoolExecutor(len(endpoints)) as pool:
            return dict(zip(endpoints, pool.map(ask, range(len(endpoints)))))

    # How a call is carried out.

    def _unary(self, service: str, method: str, fields: Mapping[str, Any], timeout: Optional[float]) -> Any:
        prepared = Prepared(self._settings, service, method, fields)
        return _convert.from_message(self._asked(prepared, self._try, timeout))

    def _asked(self, prepared: Prepared, ask: Callable[[int, Prepared, float], Any], timeout: Optional[float]) -> Any:
        settings = self._settings
        span = settings.timeout if timeout is None else timeout
        count = len(settings.endpoints)
        tries = Tries(prepared.method.kind, prepared.operation_id, count, span, time.monotonic())
        while True:
            index = self._preferred % count
            try:
                return ask(index, prepared, tries.limit(time.monotonic()))
            except Lost as failed:
                pause = tries.failed(settings.endpoints[index], failed.reason, failed.reached, time.monotonic())
            # Another call may have moved on already; then its choice stays.
            if self._preferred % count == index:
                self._preferred = (index + 1) % count
            time.sleep(pause)

    def _try(self, index: int, prepared: Prepared, limit: float) -> Any:
        """Asks one endpoint.

        Raises:
            Lost: it brought no answer.
            ChronarchError: the answer is a refusal.
        """
        channel = self._channel(index)
        method = prepared.method
        call = channel.unary_unary(method.path, request_serializer=_encode, response_deserializer=method.decode())
        try:
            return call(prepared.message, timeout=limit, metadata=self._settings.metadata)
        except grpc.RpcError as error:
            raise self._lost(index, channel, error) from None

    def _stream(self, service: str, method: str, fields: Mapping[str, Any], timeout: Optional[float]) -> Iterator[Any]:
        return self._resumed(Stream(service, method, fields), timeout)

    def _resumed(self, stream: Stream, timeout: Optional[float]) -> Iterator[Any]:
        while not stream.over:
            prepared = Prepared(self._settings, stream.service, stream.method, stream.request())
            call = self._asked(prepared, self._open, timeout)
            try:
                for message in call:
                    seen = _convert.from_message(message)
                    if stream.note(seen):
                        yield seen
                stream.ended()
            except grpc.RpcError as error:
                # Raises where it is an answer.
                failed = lost(error)
                if not stream.resumes:
                    raise Unreachable([Tried("the node", failed.reason, True)]) from None
            finally:
                call.cancel()
            if not stream.over:
                time.sleep(stream.REOPEN_AFTER)

    def _open(self, index: int, prepared: Prepared, limit: float) -> Any:
        method = prepared.method
        channel = self._channel(index)
        call = channel.unary_stream(method.path, request_serializer=_encode, response_deserializer=method.decode())(
            prepared.message, metadata=self._settings.metadata
        )
        # The stream itself may take for ever; that there is one may not.
        timer = threading.Timer(limit, call.cancel)
        timer.daemon = True
        timer.start()
        call.initial_metadata()
        timer.cancel()
        if call.is_active():
            return call
        code = call.code()
        if code is grpc.StatusCode.OK:
            return call
        if code is grpc.StatusCode.CANCELLED:
            raise Lost("no answer in time", True)
        raise self._lost(index, channel, _Ended(code, call.details(), call.trailing_metadata()))

    def _lost(self, index: int, channel: grpc.Channel, error: Any) -> Lost:
        """As `lost`; a connection that could not be made is begun anew by the next try.

        Up to grpcio 1.78 a socket is read only while a call waits on it. A channel that has failed fails each further
        call at once, so its attempts to connect again all end as too slow, whoever listens by then. The first call of
        another channel waits.
        """
        failed = lost(error)
        if not failed.connected:
            with self._lock:
                if self._channels.get(index) is channel:
                    # Not closed: calls of other threads may be under way. It closes with the last of them.
                    del self._channels[index]
        return failed

    def _channel(self, index: int) -> grpc.Channel:
        with self._lock:
            if self._closed:
                raise ValueError("the client is closed")
            if self._process != os.getpid():
                # The connections are those of the process that was forked; it goes on using them.
                self._channels, self._process = {}, os.getpid()
            if index not in self._channels:
                self._channels[index] = open_channel(self._settings, self._settings.endpoints[index])
            return self._channels[index]


class _Ended:
    """The end of a stream, as an RpcError tells it."""

    def __init__(self, code: Any, details: Optional[str], trailing: Any) -> None:
        self._status: Tuple[Any, Optional[str], Any] = (code, details, trailing)

    def code(self) -> Any:
        return self._status[0]

    def details(self) -> Optional[str]:
        return self._status[1]

    def trailing_metadata(self) -> Any:
        return self._status[2]


def open_channel(settings: Settings, endpoint: str) -> grpc.Channel:
    """A connection to one endpoint, made when it is first used."""
    if settings.credentials is None:
        return grpc.insecure_channel(endpoint, options=settings.options)
    return grpc.secure_channel(endpoint, settings.credentials, options=settings.options)


def _encode(message: Any) -> bytes:
    encoded: bytes = message.SerializeToString()
    return encoded
