"""What is asked for on a stream, and from where it goes on after it broke."""

from typing import Any, Dict, Mapping, Optional

from . import models

_LIVE = (models.RunState.UNSPECIFIED, models.RunState.PENDING, models.RunState.RUNNING)


def is_ended(run: models.Run) -> bool:
    """Whether the run's record is final."""
    return run.state not in _LIVE


class Stream:
    """A stream that only its own node can go on with: when that one fails, so does the stream."""

    # Seconds before a stream that ended too early is opened again, lest a node that ends each is asked without end.
    REOPEN_AFTER = 0.1
    resumes = False

    def __init__(self, service: str, method: str, fields: Mapping[str, Any]) -> None:
        self.service = service
        self.method = method
        self._fields: Dict[str, Any] = dict(fields)
        self.over = False

    def request(self) -> Dict[str, Any]:
        """The fields of what is still wanted."""
        return self._fields

    def note(self, message: Any) -> bool:
        """Notes what was seen; whether the caller has not seen it yet."""
        return True

    def ended(self) -> None:
        """The node ended the stream."""
        self.over = True


class Watch(Stream):
    """Follows a run until it has ended."""

    resumes = True

    def __init__(self, run_id: str) -> None:
        super().__init__("RunService", "WatchRun", {"run_id": run_id})
        self._last: Optional[models.Run] = None

    def note(self, message: models.Run) -> bool:
        """See `Stream.note`."""
        is_news = message != self._last
        self._last = message
        self.over = is_ended(message)
        return is_news

    def ended(self) -> None:
        """A node that goes away ends the stream before the run has ended: the next one is asked."""


class Output(Stream):
    """Reads output behind what was read."""

    resumes = True

    def __init__(self, wanted: Mapping[str, Any]) -> None:
        super().__init__("RunService", "ReadOutput", wanted)

    def note(self, message: models.ReadOutputResponse) -> bool:
        """See `Stream.note`."""
        self._fields["attempt"] = message.attempt
        if message.pieces:
            last = message.pieces[-1]
            self._fields["offset"] = last.offset + len(last.data) + last.dropped_bytes
            self._fields["tail_lines"] = 0
        if message.state and self._fields["later_attempts"]:
            self._fields.update(attempt=message.attempt + 1, offset=0, tail_lines=0)
        return True
