"""Answers those who want to read output: each on a connection of its own, so that neither a slow reader nor much output
stands in the way of heartbeats, reports or another reader.

Beyond READS_MAX at a time nothing is answered: the leader, through whom they all come, allows fewer.
"""

import asyncio
import logging
from typing import Any, AsyncIterator, Optional, Set

import grpc

from .._request import Settings
from .._schema import method, new, number
from ..aio import open_channel
from ._output import STDERR, STDOUT, Log, Piece, Store

READS_MAX = 32
# Bytes of one message.
MESSAGE_BYTES = 64 << 10
_STREAMS = {
    "": 0,
    STDOUT: number("OutputStream", "OUTPUT_STREAM_STDOUT"),
    STDERR: number("OutputStream", "OUTPUT_STREAM_STDERR"),
}
_LIMIT = number("OutputLoss", "OUTPUT_LOSS_LIMIT")
_log = logging.getLogger("chronarch.worker")


class Reads:
    """See the module."""

    def __init__(self, store: Store, settings: Settings) -> None:
        self._store, self._settings = store, settings
        self._tasks: Set[asyncio.Task[None]] = set()

    def answer(self, address: str, wanted: Any) -> None:
        """Sends what is wanted to the node at `address`."""
        if len(self._tasks) >= READS_MAX:
            _log.warning("too many read output already")
            return
        task = asyncio.get_running_loop().create_task(self._send(address, wanted))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def close(self) -> None:
        """Ends what is under way."""
        for task in list(self._tasks):
            task.cancel()
        if self._tasks:
            await asyncio.wait(list(self._tasks))

    async def _send(self, address: str, wanted: Any) -> None:
        call = method("WorkerService", "SendOutput")
        async with open_channel(self._settings, address) as channel:
            send = channel.stream_unary(call.path, request_serializer=_encode, response_deserializer=call.decode())
            try:
                log = self._store.find((wanted.run_id, wanted.fence))
                await send(self._messages(wanted, log), metadata=grpc.aio.Metadata(*self._settings.metadata))
            except grpc.RpcError as error:
                # Whoever reads asks again; here nobody can do anything about it.
                _log.debug("output was not taken to its end: %s", error.code().name)

    async def _messages(self, wanted: Any, log: Optional[Log]) -> AsyncIterator[Any]:
        # At once, also where no output is yet to be seen: whoever waits learns that there is an answer.
        yield new("OutputSent", id=wanted.id)
        if log is None:
            yield new("OutputSent", state=_state("FORGOTTEN"))
            return
        offset = log.offset_of_line(wanted.tail_lines) if wanted.tail_lines else wanted.offset
        while True:
            # Asked before the pieces are: what is written in between is found by the next look.
            has_ended = log.has_ended
            changed = self._store.next_change()
            pieces = log.pieces(offset, MESSAGE_BYTES)
            if pieces:
                offset = pieces[-1].end
                shown = [_piece(piece) for piece in pieces if _is_wanted(piece, wanted.stream)]
                if shown:
                    yield new("OutputSent", pieces=shown)
            elif has_ended or not wanted.follow:
                yield new("OutputSent", state=_state("ENDED" if has_ended else "RUNNING"))
                return
            else:
                await changed.wait()


def _is_wanted(piece: Piece, stream: int) -> bool:
    return stream not in (_STREAMS[STDOUT], _STREAMS[STDERR]) or not piece.data or _STREAMS[piece.stream] == stream


def _piece(piece: Piece) -> Any:
    if not piece.data:
        return new("OutputPiece", offset=piece.offset, dropped_bytes=piece.dropped, loss=_LIMIT)
    sent = new("OutputPiece", offset=piece.offset, stream=_STREAMS[piece.stream], data=bytes(piece.data))
    millis = int(piece.at * 1_000)
    sent.at.seconds, sent.at.nanos = millis // 1_000, millis % 1_000 * 1_000_000
    return sent


def _state(name: str) -> int:
    return number("OutputState", f"OUTPUT_STATE_{name}")


def _encode(message: Any) -> bytes:
    encoded: bytes = message.SerializeToString()
    return encoded
