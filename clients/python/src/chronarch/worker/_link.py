"""One stream to the leader: how it is opened, what is heard on it, and until when it allows attempts to begin.

Invariant: `may_begin_until` is a lease after a heartbeat was *handed over* that the leader has answered, never after
the answer came, so it lies before the end of the lease as the leader counts it.
"""

import asyncio
import contextlib
from collections import deque
from typing import Any, Deque, Optional

import grpc
import grpc.aio

from .. import _convert
from .._request import Settings
from .._schema import method, new
from ..aio import open_channel

# The versions of the protocol that are spoken; 1: streams may be carried, the leader may ask for a drain.
PROTOCOL, PROTOCOL_MIN = 1, 0
# Seconds from one heartbeat to the next; a third of the lease where that is shorter.
HEARTBEAT_EVERY = 1.0
# A shorter lease, seconds, is no lease.
LEASE_MIN = 0.1
# A link on which nothing was heard for so many seconds is abandoned.
SILENCE_MAX = 3.0
# Heartbeats without an answer; at one more the link is abandoned.
UNANSWERED_MAX = 64
# Seconds to make a connection, and from hello to welcome: a node that carries the stream has to reach the leader first.
CONNECT_MAX = 1.0
WELCOME_MAX = 2.0


class NotLeader(Exception):
    """The node does not lead; `leader` is whom it names, or empty."""

    def __init__(self, leader: str) -> None:
        super().__init__(f"the node does not lead, {leader or 'nobody known'} does")
        self.leader = leader


class NoLink(Exception):
    """There is no link to the address, or it is over. The message is for the log."""

    def __init__(self, message: str, is_silent: bool = False) -> None:
        super().__init__(message)
        self.is_silent = is_silent


class Link:
    """See the module. Reading and writing are done by one task each."""

    def __init__(self, address: str, channel: grpc.aio.Channel, call: Any) -> None:
        self.address = address
        self.opened_at = _now()
        self.lease = 0.0
        self.carried_by = 0
        self.may_begin_until = 0.0
        self._channel, self._call = channel, call
        self._unanswered: Deque[float] = deque()
        self._beaten = 0
        self._drain_told: Optional[int] = None
        self._next_beat = 0.0

    # Opening.

    @classmethod
    async def open(cls, settings: Settings, address: str, hello: Any, drain: Optional[Any]) -> "Link":
        """Connects, says hello and waits for the welcome.

        Raises:
            NotLeader: the node does not lead.
            NoLink: any other reason.
        """
        channel = open_channel(settings, address)
        link: Optional[Link] = None
        try:
            await _connected(channel)
            serve = method("WorkerService", "Serve")
            open_stream = channel.stream_stream(
                serve.path, request_serializer=_encode, response_deserializer=serve.decode()
            )
            link = cls(address, channel, open_stream(metadata=grpc.aio.Metadata(*settings.metadata)))
            await asyncio.wait_for(link._greet(hello, drain), WELCOME_MAX)
            return link
        except asyncio.TimeoutError:
            raise NoLink("no answer in time", True) from None
        except grpc.RpcError as error:
            raise _refused(error) from None
        finally:
            if link is None or not link.lease:
                await channel.close()

    async def _greet(self, hello: Any, drain: Optional[Any]) -> None:
        # Listened for before anything is said: a node that does not lead may say so and end the stream while these are
        # on their way, and gRPC, once a write has failed, hands over nothing that is not being read by then.
        answer = asyncio.ensure_future(self._answer())
        try:
            # Its answer is what counts, whatever of this it heard.
            with contextlib.suppress(grpc.RpcError, asyncio.InvalidStateError, grpc.aio.UsageError):
                await self._write(hello=hello)
                if drain is not None:
                    await self.tell_drain(drain)
                await self.beat()
            await answer
        finally:
            answer.cancel()

    async def _answer(self) -> None:
        while True:
            message = await self._call.read()
            if message is grpc.aio.EOF:
                raise NoLink(f"the stream ended before a welcome: {await self._end()}")
            kind = message.WhichOneof("kind")
            if kind == "not_leader":
                raise NotLeader(message.not_leader.leader)
            if kind == "welcome":
                self._welcomed(message.welcome)
                return
            # None: a kind of a later release.
            if kind is not None:
                raise NoLink(f"{kind} came before a welcome")

    def _welcomed(self, welcome: Any) -> None:
        lease = _convert.span(welcome.lease).total_seconds()
        if not PROTOCOL_MIN <= welcome.protocol <= PROTOCOL:
            raise NoLink(f"the leader speaks version {welcome.protocol} of the protocol, this worker {PROTOCOL}")
        if lease < LEASE_MIN:
            raise NoLink(f"a lease of {lease} s is none")
        self.lease = lease
        self.carried_by = welcome.relayed_by
        self._next_beat = _now() + self._every

    # Writing: the writer's task alone.

    @property
    def _every(self) -> float:
        return min(HEARTBEAT_EVERY, self.lease / 3)

    def beat_in(self) -> float:
        """Seconds until the next heartbeat is due."""
        return max(0.0, self._next_beat - _now())

    async def beat(self) -> None:
        """Sends a heartbeat.

        Raises:
            NoLink: too many have no answer.
        """
        if len(self._unanswered) >= UNANSWERED_MAX:
            raise NoLink("the leader is silent", True)
        now = _now()
        self._unanswered.append(now)
        self._beaten += 1
        self._next_beat = now + self._every
        await self._write(heartbeat=new("Heartbeat"))

    async def tell_drain(self, drain: Any) -> None:
        """Tells the leader that the worker drains."""
        self._drain_told = self._beaten
        self._next_beat = 0.0
        await self._write(drain=drain)

    async def report(self, report: Any) -> None:
        """Sends a report."""
        await self._write(report=report)

    async def _write(self, **kind: Any) -> None:
        await self._call.write(new("WorkerMessage", **kind))

    @property
    def was_told_of_drain(self) -> bool:
        """Whether the leader was told on this link that the worker drains."""
        return self._drain_told is not None

    @property
    def drain_was_heard(self) -> bool:
        """Whether the leader has answered a heartbeat that went behind the drain: no order is under way."""
        return self._drain_told is not None and self._beaten - len(self._unanswered) > self._drain_told

    # Reading: the reader's task alone.

    async def read(self) -> Any:
        """The next message; heartbeats are counted.

        Raises:
            NotLeader: the node leads no longer.
            NoLink: the stream is over.
        """
        try:
            message = await asyncio.wait_for(self._call.read(), SILENCE_MAX)
        except asyncio.TimeoutError:
            raise NoLink("the leader is silent", True) from None
        except grpc.RpcError as error:
            raise _refused(error) from None
        if message is grpc.aio.EOF:
            raise NoLink(f"the leader ended the stream: {await self._end()}")
        kind = message.WhichOneof("kind")
        if kind == "not_leader":
            raise NotLeader(message.not_leader.leader)
        if kind == "heartbeat":
            if not self._unanswered:
                raise NoLink("the leader answers what was not sent")
            # Answers come in order: this one is for the oldest that has none.
            self.may_begin_until = self._unanswered.popleft() + self.lease
        return message

    async def _end(self) -> str:
        code = await self._call.code()
        return f"{code.name} {await self._call.details() or ''}".strip()

    @property
    def is_confirmed(self) -> bool:
        """Whether attempts may begin now."""
        return _now() < self.may_begin_until

    async def close(self) -> None:
        """Ends the stream. What the leader may still have sent on it is never seen."""
        self._call.cancel()
        await self._channel.close()


async def _connected(channel: grpc.aio.Channel) -> None:
    until = _now() + CONNECT_MAX
    while True:
        state = channel.get_state(try_to_connect=True)
        if state is grpc.ChannelConnectivity.READY:
            return
        if state is grpc.ChannelConnectivity.TRANSIENT_FAILURE:
            raise NoLink("cannot connect", True)
        await asyncio.wait_for(channel.wait_for_state_change(state), max(until - _now(), 0.001))


def _refused(error: Any) -> Exception:
    # A node that is starting or going down; that is no more than "not here".
    if error.code() is grpc.StatusCode.UNAVAILABLE:
        return NotLeader("")
    return NoLink(f"{error.code().name}: {error.details()}")


def _encode(message: Any) -> bytes:
    encoded: bytes = message.SerializeToString()
    return encoded


def _now() -> float:
    return asyncio.get_running_loop().time()
