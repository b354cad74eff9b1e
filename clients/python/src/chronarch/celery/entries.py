"""What `celery beat` would send: entries of `beat_schedule`, of django-celery-beat's tables and of RedBeat's keys, in
one form, and the jobs that are made of them.

    for entry in from_app(app):
        print(entry.name, entry.problem or to_job(entry, app))

An entry that cannot be carried is there nevertheless, with its `problem`: reading never fails for one of them. RedBeat
and django-celery-beat are imported where they are read, and need not be installed otherwise.
"""

import dataclasses
import datetime
import inspect
import json
from dataclasses import dataclass, field
from typing import Any, Dict, Iterator, List, Mapping, Optional, Sequence, Tuple

from ._identity import APP, app_label, legal_name
from ._jobs import BROKER_DEFAULT, MANAGED_BY, MANAGER, SOURCE, convert, named
from ._schedules import CannotCarry, crontab_line

BEAT_SCHEDULE, DJANGO, REDBEAT = "beat_schedule", "django", "redbeat"
SOURCES = (BEAT_SCHEDULE, DJANGO, REDBEAT)
# Entries that are asked of Redis at once.
_KEYS_AT_ONCE = 500


@dataclass(frozen=True)
class Entry:
    """One entry of a schedule of Celery's."""

    key: str
    """Where it is in its source: the name in `beat_schedule`, the primary key of the row, the key in Redis."""
    name: str
    task: str
    schedule: Any
    """An object of `celery.schedules`, or of a class of the source's or the app's own; None where it is unreadable."""
    source: str
    """`beat_schedule`, `django` or `redbeat`."""
    args: Sequence[Any] = ()
    kwargs: Mapping[str, Any] = field(default_factory=dict)
    options: Mapping[str, Any] = field(default_factory=dict)
    """Of `apply_async`."""
    enabled: bool = True
    last_run_at: Optional[datetime.datetime] = None
    """With a time zone. None: never, or nothing is known of it; it is not invented as `ModelEntry` does."""
    total_run_count: int = 0
    one_off: bool = False
    start_time: Optional[datetime.datetime] = None
    expires: Optional[datetime.datetime] = None
    """The end of the schedule; django-celery-beat lets its messages expire then, too."""
    changed_at: Optional[datetime.datetime] = None
    """When the row was last saved; django-celery-beat alone knows."""
    description: str = ""
    problem: Optional[str] = None
    """Why no job can be made of it, and the way out."""
    only_python: bool = False
    """Whether `problem` is that only Python can say when it is due or what is sent; `celery beat -S chronarch` does."""


def to_job(
    entry: Entry,
    app: Any,
    *,
    broker: str = BROKER_DEFAULT,
    namespace: str = "",
    prefix: str = "",
    labels: Optional[Mapping[str, str]] = None,
    name: Optional[str] = None,
    allow_pickle: bool = False,
    once: bool = False,
) -> Dict[str, Any]:
    """The job of an entry, as `apply_jobs` takes it.

    Whether it is enabled is not in it: a job that is not is paused. An interval goes on from `last_run_at`, so that
    neither a new job nor a changed one runs at once.

    Args:
        entry: the entry.
        app: the Celery app that would send it.
        broker: the connection of the cluster's workers.
        namespace: of the job; empty: `default`.
        prefix: what its name begins with.
        labels: beside those that say who made it.
        name: its name; None: by `legal_name`. `named` gives each of several entries one of its own.
        allow_pickle: whether a message that the app has built may be a pickle.
        once: whether the job runs a single time, so that its message may be one that is built differently each time.

    Raises:
        CannotCarry: `entry.problem`.
    """
    if entry.problem is not None and entry.schedule is None:
        raise CannotCarry(entry.problem, "see where it is written")
    return convert(
        entry,
        app,
        broker=broker,
        namespace=namespace,
        prefix=prefix,
        labels=labels,
        name=name,
        allow_pickle=allow_pickle,
        once=once,
    ).job


def notes_of(entry: Entry, app: Any) -> List[str]:
    """What of an entry's job is not quite as beat has it, each a sentence that begins with the field.

    Raises:
        CannotCarry: there is no job of it.
    """
    return convert(entry, app).notes


def from_app(app: Any) -> List[Entry]:
    """The schedule of an app as `celery beat` sees it: `beat_schedule`, what handlers of `on_after_configure` and
    `on_after_finalize` add, and the cleaning of the result backend where beat adds it.

    Raises:
        Exception: what the import of the app's modules raises.
    """
    # As beat does: the signals that add entries are sent when the configuration is read and when the app is final.
    app.loader.import_default_modules()
    app.finalize()
    schedule = dict(app.conf.beat_schedule)
    entries = [_of_schedule(app, str(name), given) for name, given in schedule.items()]
    return entries + _defaults(app, schedule)


def _defaults(app: Any, schedule: Mapping[str, Any]) -> List[Entry]:
    from celery.beat import Scheduler

    beat = Scheduler(app, lazy=True)
    try:
        beat.install_default_entries(schedule)
    except Exception as error:
        reason = f"the result backend cannot be loaded: {type(error).__name__}: {error}; correct result_backend"
        name = "celery.backend_cleanup"
        return [Entry(name, name, name, None, BEAT_SCHEDULE, problem=reason)]
    return [_of_schedule(app, name, entry) for name, entry in beat.data.items()]


def _of_schedule(app: Any, name: str, given: Any) -> Entry:
    from celery.beat import ScheduleEntry

    task = str(given.get("task", "") if isinstance(given, Mapping) else getattr(given, "task", ""))
    problem = _malformed(given)
    if problem is not None:
        return Entry(name, name, task, None, BEAT_SCHEDULE, problem=f"{problem}; beat cannot send it either")
    try:
        entry = given if isinstance(given, ScheduleEntry) else ScheduleEntry(**{**given, "name": name, "app": app})
        if not entry.task or entry.schedule is None:
            raise CannotCarry("it has no task, or no schedule", "beat cannot send it either")
    except Exception as error:
        return Entry(name, name, task, None, BEAT_SCHEDULE, problem=f"{type(error).__name__}: {error}")
    args = () if entry.args is None else entry.args
    return _checked(
        Entry(name, name, task, entry.schedule, BEAT_SCHEDULE, args, entry.kwargs, _options_of(entry.options)), app
    )


def _malformed(given: Any) -> Optional[str]:
    """What is wrong with the form of an entry; Celery's own words for it name neither the key nor what is right."""
    from celery.beat import ScheduleEntry

    if isinstance(given, ScheduleEntry):
        return None
    if not isinstance(given, Mapping):
        return f"expected a dict with task and schedule, found {given!r:.60}"
    known = set(inspect.signature(ScheduleEntry).parameters)
    unknown = sorted(str(key) for key in given if key not in known)
    if unknown:
        return f"{', '.join(unknown)}: unknown key; known are {', '.join(sorted(known - {'app', 'name'}))}"
    if not isinstance(given.get("options") or {}, Mapping):
        return f"options: expected a dict, found {given['options']!r:.60}"
    schedule = given.get("schedule")
    if isinstance(schedule, (int, float, datetime.timedelta)) or schedule is None or hasattr(schedule, "is_due"):
        return None
    return f"schedule: expected seconds, a timedelta, a crontab or a solar event, found {schedule!r:.60}"


def _options_of(options: Optional[Mapping[str, Any]]) -> Dict[str, Any]:
    return dict(options or {})


def _checked(entry: Entry, app: Any, allow_pickle: bool = False) -> Entry:
    """The entry, with its problem where no job can be made of it."""
    try:
        convert(entry, app, allow_pickle=allow_pickle)
    except CannotCarry as refusal:
        return dataclasses.replace(entry, problem=str(refusal), only_python=refusal.only_python)
    except Exception as error:
        # Code of the app's own is called: routers, `__json__`, `__str__`. None of it may hide the other entries.
        return dataclasses.replace(entry, problem=f"{type(error).__name__}: {error}")
    return entry


def with_pickles(entry: Entry, app: Any) -> Entry:
    """The entry, with the problem that it has where a job may be a pickle."""
    if entry.schedule is None:
        return entry
    return _checked(dataclasses.replace(entry, problem=None, only_python=False), app, allow_pickle=True)


def from_django(app: Any = None) -> List[Entry]:
    """The rows of django-celery-beat, by their columns.

    Args:
        app: the Celery app that sends them; None: the current one.

    Raises:
        ImportError: django-celery-beat is not installed.
        Exception: what Django raises: it is not set up, or the tables cannot be read.
    """
    from celery import current_app
    from django_celery_beat.models import PeriodicTask

    app = current_app._get_current_object() if app is None else app
    rows = PeriodicTask.objects.select_related("interval", "crontab", "solar", "clocked").order_by("pk")
    return [from_row(row, app) for row in rows]


def from_row(row: Any, app: Any) -> Entry:
    """The entry of one `PeriodicTask`."""
    fields: Dict[str, Any] = {
        "key": str(row.pk),
        "name": row.name,
        "task": row.task,
        "source": DJANGO,
        "enabled": row.enabled,
        "last_run_at": _aware(row.last_run_at, app),
        "total_run_count": row.total_run_count,
        "one_off": row.one_off,
        "start_time": _aware(row.start_time, app),
        "expires": _aware(row.expires, app),
        "changed_at": _aware(row.date_changed, app),
        "description": row.description or "",
    }
    try:
        fields["schedule"] = _schedule_of_row(row, app)
        for column, empty, kind in (("args", "[]", list), ("kwargs", "{}", dict), ("headers", "{}", dict)):
            fields[column] = _column(row, column, empty, kind)
    except CannotCarry as refusal:
        fields.pop("headers", None)
        return Entry(**{**fields, "schedule": None}, problem=str(refusal))
    options = {name: getattr(row, name) for name in ("queue", "exchange", "routing_key", "priority")}
    options = {name: value for name, value in options.items() if value not in (None, "")}
    options["expires"] = row.expire_seconds
    options["headers"] = fields.pop("headers")
    return _checked(Entry(**fields, options=options), app)


def _schedule_of_row(row: Any, app: Any) -> Any:
    from celery.schedules import maybe_schedule

    kinds = [kind for kind in ("interval", "crontab", "solar", "clocked") if getattr(row, f"{kind}_id") is not None]
    if len(kinds) != 1:
        found = " and ".join(kinds) or "none"
        raise CannotCarry(f"it has to have one schedule and has {found}", "choose one in the admin")
    part = getattr(row, kinds[0])
    if kinds[0] == "crontab":
        # Celery's own words do not name the field.
        crontab_line(vars(part))
    try:
        return maybe_schedule(part.schedule, app=app)
    except Exception as error:
        raise CannotCarry(f"{kinds[0]}: {type(error).__name__}: {error}", "correct the schedule") from None


def _column(row: Any, column: str, empty: str, kind: type) -> Any:
    from kombu.utils.json import loads

    try:
        value = loads(getattr(row, column) or empty)
    except (ValueError, TypeError) as error:
        raise CannotCarry(f"{column}: {error}", "beat disables such a row: write JSON") from None
    if not isinstance(value, kind):
        expected = "a list" if kind is list else "a mapping"
        raise CannotCarry(f"{column}: expected {expected} in JSON", "beat cannot send it either")
    return value


def _aware(at: Optional[datetime.datetime], app: Any) -> Optional[datetime.datetime]:
    # Tables of projects with USE_TZ = False have wall times.
    return at if at is None or at.tzinfo is not None else at.replace(tzinfo=app.timezone)


def from_redbeat(app: Any) -> List[Entry]:
    """The entries of RedBeat, as the app is configured for it, in the order in which they are due.

    Raises:
        ImportError: RedBeat is not installed.
        redis.exceptions.RedisError: it cannot be read.
    """
    from redbeat.schedulers import ensure_conf, get_redis

    conf = ensure_conf(app)
    server = get_redis(app)
    entries = []
    for keys in _batches(server.zrange(conf.schedule_key, 0, -1)):
        with server.pipeline(transaction=False) as pipe:
            for key in keys:
                pipe.hmget(key, "definition", "meta")
            kept = pipe.execute()
        for key, (definition, meta) in zip(keys, kept):
            # A key without a definition is the rest of an entry that was deleted; RedBeat removes it.
            if definition:
                entries.append(_of_redbeat(app, key, str(key)[len(conf.key_prefix) :], definition, meta))
    return entries


def _batches(keys: Sequence[Any]) -> Iterator[Sequence[Any]]:
    for at in range(0, len(keys), _KEYS_AT_ONCE):
        yield keys[at : at + _KEYS_AT_ONCE]


def _of_redbeat(app: Any, key: str, name: str, definition: str, meta: Optional[str]) -> Entry:
    from celery.schedules import maybe_schedule

    said: Dict[str, Any] = {}
    try:
        said = json.loads(definition)
        read, notes = _decoded(definition, meta)
        schedule = maybe_schedule(read["schedule"], app=app)
    except Exception as error:
        return Entry(
            key,
            str(said.get("name") or name),
            str(said.get("task") or ""),
            None,
            REDBEAT,
            problem=_unread(said, error),
            enabled=bool(said.get("enabled", True)),
        )
    entry = Entry(
        key,
        str(read.get("name") or name),
        str(read["task"]),
        schedule,
        REDBEAT,
        () if read.get("args") is None else read["args"],
        read.get("kwargs") or {},
        _options_of(read.get("options")),
        enabled=bool(read.get("enabled", True)),
        last_run_at=_aware(notes.get("last_run_at"), app),
        total_run_count=int(notes.get("total_run_count") or 0),
    )
    return _checked(entry, app)


def _decoded(definition: str, meta: Optional[str]) -> Tuple[Dict[str, Any], Dict[str, Any]]:
    from redbeat.decoder import RedBeatJSONDecoder

    return json.loads(definition, cls=RedBeatJSONDecoder), json.loads(meta, cls=RedBeatJSONDecoder) if meta else {}


def _unread(said: Mapping[str, Any], error: Exception) -> str:
    schedule = said.get("schedule")
    if isinstance(schedule, Mapping) and schedule.get("__type__") == "crontab":
        try:
            crontab_line(schedule)
        except CannotCarry as refusal:
            return str(refusal)
    return f"the definition cannot be read: {type(error).__name__}: {error}; RedBeat cannot send it either"


__all__ = [
    "APP",
    "BEAT_SCHEDULE",
    "BROKER_DEFAULT",
    "DJANGO",
    "MANAGED_BY",
    "MANAGER",
    "REDBEAT",
    "SOURCE",
    "SOURCES",
    "CannotCarry",
    "Entry",
    "app_label",
    "crontab_line",
    "from_app",
    "from_django",
    "from_redbeat",
    "from_row",
    "legal_name",
    "named",
    "notes_of",
    "to_job",
    "with_pickles",
]
