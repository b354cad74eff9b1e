"""The client for asyncio. The calls, their names and their errors are those of `chronarch.Client`."""

import asyncio
import os
from types import TracebackType
from typing import Any, AsyncIterator, Awaitable, Callable, Dict, Mapping, Optional, Sequence, Type, Union

import grpc
import grpc.aio

from . import _convert, models
from ._aio_calls import Calls
from ._endpoints import Tls
from ._request import TIMEOUT_DEFAULT, Lost, Prepared, Settings, lost
from ._streams import Output, Stream, Watch
from ._tries import TRY_MAX, Tries
from .errors import ChronarchError, Tried, Unreachable


class Client(Calls):
    """The API over any of several endpoints, as `chronarch.Client`; belongs to the event loop that first uses it.

    Args and errors are those of `chronarch.Client`.
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
        self._channels: Dict[int, grpc.aio.Channel] = {}
        self._preferred = 0
        self._closed = False

    async def __aenter__(self) -> "Client":
        return self

    async def __aexit__(
        self, kind: Optional[Type[BaseException]], error: Optional[BaseException], trace: Optional[TracebackType]
    ) -> None:
        await self.close()

    async def close(self) -> None:
        """Ends the connections, and with them what is under way."""
        self._closed = True
        channels, self._channels = list(self._channels.values()), {}
        for channel in channels:
            await channel.close()

    # Calls that client streams and lists are made of.

    def watch_run(self, run_id: str, *, timeout: Optional[float] = None) -> AsyncIterator[models.Run]:
        """See `chronarch.Client.watch_run`."""
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
    ) -> AsyncIterator[models.ReadOutputResponse]:
        """See `chronarch.Client.read_output`."""
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

    async def wait_for_run(self, run_id: str, *, timeout: Optional[float] = None) -> models.Run:
        """See `chronarch.Client.wait_for_run`."""
        async for run in self.watch_run(run_id, timeout=timeout):
            last = run
        return last

    async def statuses(self) -> Dict[str, Union[models.ClusterStatus, ChronarchError]]:
        """See `chronarch.Client.statuses`."""
        prepared = Prepared(self._settings, "ClusterService", "GetStatus", {})
        limit = min(TRY_MAX, self._settings.timeout)

        async def ask(index: int) -> Union[models.ClusterStatus, ChronarchError]:
            try:
                answer: models.ClusterStatus = _convert.from_message(await self._try(index, prepared, limit))
                return answer
            except Lost as failed:
                return Unreachable([Tried(self._settings.endpoints[index], failed.reason, failed.reached)])
            except ChronarchError as error:
                return error

        endpoints = self._settings.endpoints
        return dict(zip(endpoints, await asyncio.gather(*(ask(index) for index in range(len(endpoints))))))

    # How a call is carried out.

    async def _unary(self, service: str, method: str, fields: Mapping[str, Any], timeout: Optional[float]) -> Any:
        prepared = Prepared(self._settings, service, method, fields)
        return _convert.from_message(await self._asked(prepared, self._try, timeout))

    async def _asked(
        self, prepared: Prepared, ask: Callable[[int, Prepared, float], Awaitable[Any]], timeout: Optional[float]
    ) -> Any:
        settings, clock = self._settings, asyncio.get_running_loop().time
        span = settings.timeout if timeout is None else timeout
        count = len(settings.endpoints)
        tries = Tries(prepared.method.kind, prepared.operation_id, count, span, clock())
        while True:
            index = self._preferred % count
            try:
                return await ask(index, prepared, tries.limit(clock()))
            except Lost as failed:
                pause = tries.failed(settings.endpoints[index], failed.reason, failed.reached, clock())
            # Another call may have moved on already; then its choice stays.
            if self._preferred % count == index:
                self._preferred = (index + 1) % count
            await asyncio.sleep(pause)

    async def _try(self, index: int, prepared: Prepared, limit: float) -> Any:
        channel, method = self._channel(index), prepared.method
        call = channel.unary_unary(method.path, request_serializer=_encode, response_deserializer=method.decode())
        try:
            return await call(prepared.message, timeout=limit, metadata=self._metadata())
        except grpc.RpcError as error:
            raise lost(error) from None

    def _stream(
        self, service: str, method: str, fields: Mapping[str, Any], timeout: Optional[float]
    ) -> AsyncIterator[Any]:
        return self._resumed(Stream(service, method, fields), timeout)

    async def _resumed(self, stream: Stream, timeout: Optional[float]) -> AsyncIterator[Any]:
        while not stream.over:
            prepared = Prepared(self._settings, stream.service, stream.method, stream.request())
            call = await self._asked(prepared, self._open, timeout)
            try:
                async for message in call:
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
                await asyncio.sleep(stream.REOPEN_AFTER)

    async def _open(self, index: int, prepared: Prepared, limit: float) -> Any:
        channel, method = self._channel(index), prepared.method
        open_stream = channel.unary_stream(
            method.path, request_serializer=_encode, response_deserializer=method.decode()
        )
        call = open_stream(prepared.message, metadata=self._metadata())
        try:
            # The stream itself may take for ever; that there is one may not.
            await asyncio.wait_for(call.initial_metadata(), limit)
        except asyncio.TimeoutError:
            call.cancel()
            raise Lost("no answer in time", True) from None
        except grpc.RpcError as error:
            raise lost(error) from None
        if call.done() and await call.code() is not grpc.StatusCode.OK:
            raise lost(
                grpc.aio.AioRpcError(
                    await call.code(),
                    await call.initial_metadata(),
                    await call.trailing_metadata(),
                    await call.details(),
                )
            )
        return call

    def _channel(self, index: int) -> grpc.aio.Channel:
        if self._closed:
            raise ValueError("the client is closed")
        if index not in self._channels:
            self._channels[index] = open_channel(self._settings, self._settings.endpoints[index])
        return self._channels[index]

    def _metadata(self) -> grpc.aio.Metadata:
        return grpc.aio.Metadata(*self._settings.metadata)


def open_channel(settings: Settings, endpoint: str) -> grpc.aio.Channel:
    """A connection to one endpoint, made when it is first used."""
    if settings.credentials is None:
        return grpc.aio.insecure_channel(endpoint, options=settings.options)
    return grpc.aio.secure_channel(endpoint, settings.credentials, options=settings.options)


def _encode(message: Any) -> bytes:
    encoded: bytes = message.SerializeToString()
    return encoded
