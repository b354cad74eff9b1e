"""What attempts write, in memory, from where the cluster reads it.

Output is counted in bytes from the start of the attempt, kept or not. Of one attempt the first KEPT_BYTES are kept
and the last END_BYTES; of all attempts together TOTAL_BYTES and ATTEMPTS_MAX: the oldest that have ended go first,
and while there are none, those that run keep no more. The record of a run has the last 4 KiB, whatever is kept here.
Nothing here fails an attempt or makes it wait.

Written from any thread, read in the worker's event loop.
"""

import asyncio
import threading
import time
from collections import OrderedDict, deque
from dataclasses import dataclass
from typing import Deque, List, Optional, Tuple, Union

# Bytes kept of one attempt: from its start, and of what is beyond from its end.
KEPT_BYTES = 1 << 20
END_BYTES = 64 << 10
# Bytes and attempts kept together.
TOTAL_BYTES = 64 << 20
ATTEMPTS_MAX = 1_024
# Bytes of one piece, and of the end that goes with a report.
PIECE_BYTES = 32 << 10
# Bytes up to which, and seconds within which, small writes become one piece; and pieces kept of the start and of the
# end.
MERGED_BYTES, MERGED_WITHIN = 4 << 10, 0.1
PIECES_MAX = 8_192
TAIL_BYTES = 4 << 10

STDOUT, STDERR = "stdout", "stderr"
Name = Tuple[str, int]


@dataclass
class Piece:
    """Bytes of one stream that were written at about one time; or, where there is no data, a gap."""

    offset: int
    stream: str
    at: float
    """Seconds since the epoch."""
    data: bytearray
    dropped: int = 0

    @property
    def end(self) -> int:
        """The offset behind it."""
        return self.offset + len(self.data) + self.dropped


class Log:
    """The output of one attempt."""

    def __init__(self, store: "Store") -> None:
        self._store = store
        self._lock = threading.Lock()
        self._first: List[Piece] = []
        self._last: Deque[Piece] = deque()
        self._first_bytes = self._last_bytes = 0
        self._length = 0
        self.has_ended = False

    @property
    def kept_bytes(self) -> int:
        """How much memory it takes, but for the pieces' own."""
        return self._first_bytes + self._last_bytes

    def write(self, stream: str, data: bytes) -> None:
        """Takes what was written, in pieces."""
        at = time.time()
        for start in range(0, len(data), PIECE_BYTES):
            self._take(stream, at, data[start : start + PIECE_BYTES])
        self._store.woken()

    def _take(self, stream: str, at: float, data: bytes) -> None:
        with self._lock:
            if self.has_ended:
                return
            fits = self._first_bytes + len(data) <= KEPT_BYTES and len(self._first) < PIECES_MAX
            if fits and not self._last and self._store.has_room(len(data)):
                self._append(self._first, Piece(self._length, stream, at, bytearray(data)))
                self._first_bytes += len(data)
            else:
                self._append(self._last, Piece(self._length, stream, at, bytearray(data)))
                self._last_bytes += len(data)
            self._length += len(data)
            self._store.add(len(data))
            while self._last and (
                self._last_bytes - len(self._last[0].data) >= END_BYTES or len(self._last) > PIECES_MAX
            ):
                gone = len(self._last.popleft().data)
                self._last_bytes -= gone
                self._store.add(-gone)

    @staticmethod
    def _append(pieces: "Union[List[Piece], Deque[Piece]]", piece: Piece) -> None:
        """Adds to the last piece what belongs to it: bytes that are written one by one must not cost a piece each."""
        last = pieces[-1] if pieces else None
        if (
            last is None
            or last.stream != piece.stream
            or last.end != piece.offset
            or piece.at - last.at > MERGED_WITHIN
            or len(last.data) + len(piece.data) > MERGED_BYTES
        ):
            pieces.append(piece)
        else:
            last.data += piece.data

    def close(self) -> None:
        """The attempt has ended: nothing more is taken."""
        with self._lock:
            self.has_ended = True
        self._store.woken()

    def pieces(self, offset: int, most: int) -> List[Piece]:
        """Pieces from this byte on, together about `most` bytes; what is not kept is told as a gap."""
        with self._lock:
            found: List[Piece] = []
            size, at = 0, offset
            for piece in (*self._first, *self._last):
                if piece.end <= at or size >= most:
                    continue
                if piece.offset > at:
                    found.append(Piece(at, "", 0.0, bytearray(), piece.offset - at))
                    at = piece.offset
                data = piece.data[at - piece.offset :]
                found.append(Piece(at, piece.stream, piece.at, data))
                size, at = size + len(data), piece.end
            return found

    def tail(self) -> Tuple[bytes, bool]:
        """The last bytes, for the report, and whether there are more before them."""
        with self._lock:
            data = b"".join(piece.data for piece in (*self._first[-2:], *self._last))[-TAIL_BYTES:]
            if len(data) < TAIL_BYTES:
                data = b"".join(piece.data for piece in (*self._first, *self._last))[-TAIL_BYTES:]
            return data, self._length > len(data)

    def offset_of_line(self, lines: int) -> int:
        """The offset so many lines before the end."""
        with self._lock:
            seen = 0
            pieces = [*self._first, *self._last]
            for back, piece in enumerate(reversed(pieces)):
                # The line end that the output ends with begins no line.
                at = len(piece.data) - (1 if back == 0 and piece.data.endswith(b"\n") else 0)
                while (at := piece.data.rfind(b"\n", 0, at)) >= 0:
                    seen += 1
                    if seen == lines:
                        return piece.offset + at + 1
            return pieces[0].offset if pieces else 0


class Store:
    """The output of the attempts that are held or ended lately."""

    def __init__(self) -> None:
        self._logs: OrderedDict[Name, Log] = OrderedDict()
        self._lock = threading.Lock()
        self._bytes = 0
        self._loop: Optional[asyncio.AbstractEventLoop] = None
        self._changed: Optional[asyncio.Event] = None
        self._is_told = False

    def open(self, name: Name) -> Log:
        """The log of an attempt that begins."""
        log = Log(self)
        self._logs[name] = log
        self._make_room()
        return log

    def find(self, name: Name) -> Optional[Log]:
        """The log of an attempt, unless it is forgotten or never was."""
        return self._logs.get(name)

    def _make_room(self) -> None:
        for name, log in list(self._logs.items()):
            if len(self._logs) <= ATTEMPTS_MAX and self._bytes <= TOTAL_BYTES // 2:
                return
            if log.has_ended:
                del self._logs[name]
                self.add(-log.kept_bytes)

    def has_room(self, size: int) -> bool:
        """Whether so many bytes more may be kept. Read without the lock: a little too much does no harm."""
        return self._bytes + size <= TOTAL_BYTES

    def add(self, size: int) -> None:
        """Counts bytes that are kept, or no longer."""
        with self._lock:
            self._bytes += size

    # Waiting for more.

    def bind(self, loop: asyncio.AbstractEventLoop) -> None:
        """Says which loop reads."""
        self._loop, self._changed = loop, asyncio.Event()

    def woken(self) -> None:
        """Something was written. However much it is, the loop is told once until it has looked."""
        with self._lock:
            if self._loop is None or self._is_told or self._loop.is_closed():
                return
            self._is_told = True
        self._loop.call_soon_threadsafe(self._tell)

    def _tell(self) -> None:
        with self._lock:
            self._is_told = False
        if self._changed is not None:
            self._changed.set()
            self._changed = asyncio.Event()

    def next_change(self) -> asyncio.Event:
        """Set when something is written from here on. Of the loop that reads."""
        if self._changed is None:
            self._changed = asyncio.Event()
        return self._changed
