"""What can be seen of a beat from outside, without taking a message from anybody.

Workers tell what they receive (`task-received`), once events are switched on by remote control; a beat whose app has
`task_send_sent_event` tells what it sends (`task-sent`). Neither says who sent it. The ids do in part: those of the
cluster are made of the run (UUID 5), those of Celery are drawn (UUID 4). So a message that the app itself sends with
the same task and the same arguments as an entry cannot be told from one of beat's.
"""

import contextlib
import datetime
import socket
import threading
import time
import uuid
from typing import Any, Callable, Dict, Iterator, List, NamedTuple, Optional, Sequence

from .entries import DJANGO, REDBEAT, Entry

# Seconds that workers and a beat have to answer a broadcast.
ANSWER_SECONDS = 1.0
# Seconds for one look at a broker or a backend.
LOOK_SECONDS = 10.0
# Seconds between two looks at whether a watch is over.
_STEP_SECONDS = 0.5
# Seconds after which a broken connection is opened again.
_REOPEN_SECONDS = 1.0


def bounded(look: Callable[[], Any], otherwise: Any = None) -> Any:
    """What `look` gives within LOOK_SECONDS; libraries of brokers and backends may try for ever.

    Raises:
        Exception: what `look` raises, unless there is an `otherwise`.
    """
    box: List[Any] = []
    failed: List[BaseException] = []

    def act() -> None:
        try:
            box.append(look())
        except Exception as error:
            failed.append(error)

    thread = threading.Thread(target=act, daemon=True)
    thread.start()
    thread.join(LOOK_SECONDS)
    if box:
        return box[0]
    if otherwise is not None:
        return otherwise
    raise failed[0] if failed else TimeoutError(f"no answer in {LOOK_SECONDS:.0f} s")


def reach(connection: Any) -> None:
    """Connects, to see whether the broker answers, and disconnects.

    Raises:
        Exception: of the broker's library, or of no answer within LOOK_SECONDS.
    """
    try:
        bounded(lambda: connection.ensure_connection(max_retries=1, timeout=LOOK_SECONDS))
    finally:
        connection.release()


class Seen(NamedTuple):
    """One message."""

    at: datetime.datetime
    """When it was sent, or received where only that is told; by the clock of who tells it."""
    task: str
    args: str
    kwargs: str
    id: str
    sent: bool
    """Whether its publisher told it."""

    @property
    def by_cluster(self) -> bool:
        """Whether the cluster sent it."""
        try:
            return uuid.UUID(self.id).version == 5
        except ValueError:
            return False


@contextlib.contextmanager
def events_on(app: Any) -> Iterator[int]:
    """Has the workers tell what they receive; those that did not before are quiet again afterwards. Gives their
    number."""
    answers = app.control.broadcast("enable_events", reply=True, timeout=ANSWER_SECONDS) or []
    told = {name: answer for one in answers for name, answer in one.items()}
    switched = [name for name, answer in told.items() if str(answer.get("ok", "")) == "task events enabled"]
    try:
        yield len(told)
    finally:
        if switched:
            app.control.disable_events(destination=switched)


def watch(
    app: Any,
    seconds: float,
    over: Optional[Callable[[List[Seen]], bool]] = None,
    gaps: Optional[List[datetime.datetime]] = None,
) -> List[Seen]:
    """The messages of some time, in their order; those of retries and of tasks within tasks left out.

    Args:
        app: the Celery app.
        seconds: how long.
        over: ends it early once it says so of what was seen.
        gaps: when the connection broke, so that messages may not have been seen, is put there.
    """
    seen: Dict[str, Seen] = {}

    def note(event: Dict[str, Any]) -> None:
        task_id = str(event.get("uuid"))
        sent = event["type"] == "task-sent"
        if event.get("retries") or event.get("parent_id") or (task_id in seen and not sent):
            return
        at = datetime.datetime.fromtimestamp(event["timestamp"], datetime.timezone.utc)
        task, args, kwargs = (str(event.get(name) or "") for name in ("name", "args", "kwargs"))
        seen[task_id] = Seen(at, task, args, kwargs, task_id, sent)

    deadline = time.monotonic() + seconds

    def is_over() -> bool:
        return time.monotonic() >= deadline or (over is not None and over(list(seen.values())))

    while not is_over():
        with app.connection_for_read() as connection:
            receiver = app.events.Receiver(connection, handlers={"task-sent": note, "task-received": note})
            try:
                # One subscription for all of it: what is told between two is lost.
                with receiver.consumer_context() as (subscribed, _, _):
                    while not is_over():
                        with contextlib.suppress(socket.timeout):
                            left = min(_STEP_SECONDS, max(deadline - time.monotonic(), 0.01))
                            subscribed.drain_events(timeout=left)
            except connection.connection_errors:
                if gaps is not None:
                    gaps.append(datetime.datetime.now(datetime.timezone.utc))
                time.sleep(min(_REOPEN_SECONDS, max(deadline - time.monotonic(), 0)))
    return sorted(seen.values(), key=lambda one: one.at)


class Look(NamedTuple):
    """What was seen of a beat."""

    signs: List[str]
    """Why it seems that one runs, each a sentence; empty where nothing does."""
    workers: int
    """Celery workers that told of messages. None: nothing could be seen of a beat that does not answer itself."""


def signs_of_beat(app: Any, entries: Sequence[Entry], seconds: float, beats: Optional[Sequence[str]] = None) -> Look:
    """Whether it seems that a beat runs. A beat that is silent because nothing was due is not seen, unless it answers:
    `beat_enable_remote_control`, or RedBeat's lock.

    Args:
        app: the Celery app.
        entries: of its schedule.
        seconds: how long messages are watched.
        beats: those that have answered a ping; None: they are asked.
    """
    signs = [f"{name} answers" for name in (answering(app) if beats is None else beats)]
    lock = redbeat_lock(app) if any(entry.source == REDBEAT for entry in entries) else None
    if lock is not None:
        signs.append(f"RedBeat's lock is held, for {lock:.0f} s at most: by a beat, or by one that was killed")
    before = _last_runs(entries)
    tasks = {entry.task for entry in entries if entry.enabled}
    with events_on(app) as workers:
        seen = watch(app, seconds, lambda seen: any(_is_beats(one, tasks) for one in seen))
    found = next((one for one in seen if _is_beats(one, tasks)), None)
    if found is not None:
        signs.append(f"{found.task} was sent at {found.at:%H:%M:%S} UTC, and not by the cluster")
    now = _last_runs(_again(app, entries))
    moved = [name for name, at in now.items() if at != before.get(name) and not is_the_cluster_s(at)]
    if moved:
        signs.append(f"last_run_at of {moved[0]} has moved")
    return Look(signs, workers)


def is_the_cluster_s(at: Optional[datetime.datetime]) -> bool:
    """Whether `last_run_at` may be what `celery beat -S chronarch` has written back: an instant of the cluster, which
    are whole milliseconds. A beat notes when it sent, by a finer clock. None: a row that was cleared."""
    return at is None or at.microsecond % 1_000 == 0


def _is_beats(one: Seen, tasks: "set[str]") -> bool:
    return one.task in tasks and not one.by_cluster


def _last_runs(entries: Sequence[Entry]) -> Dict[str, Any]:
    return {entry.name: entry.last_run_at for entry in entries if entry.source in (DJANGO, REDBEAT)}


def _again(app: Any, entries: Sequence[Entry]) -> List[Entry]:
    from . import sync

    sources = sorted({entry.source for entry in entries if entry.source in (DJANGO, REDBEAT)})
    return sync.collect(app, sources) if sources else []


def answering(app: Any) -> List[str]:
    """The names of beats that answer a ping."""
    answers = app.control.ping(timeout=ANSWER_SECONDS) or []
    return sorted(name for one in answers for name in one if name.startswith("celerybeat@"))


def redbeat_lock(app: Any) -> Optional[float]:
    """Seconds for which RedBeat's lock is held; None: it is free."""
    from redbeat.schedulers import ensure_conf, get_redis

    key = ensure_conf(app).lock_key
    left = get_redis(app).pttl(key) if key else -2
    return None if left == -2 else max(left, 0) / 1_000
