"""Entries as jobs: what is sent, where, and when."""

import datetime
import hashlib
import json
import re
from typing import TYPE_CHECKING, Any, Dict, List, Mapping, NamedTuple, Optional, Sequence, Tuple

from .._text import format_instant, format_span, parse_instant
from . import _job_settings, _template
from ._identity import APP, NAME_CHARS_MAX, ORIGIN, app_label, legal_name, origin_for
from ._schedules import CannotCarry, schedule_of

if TYPE_CHECKING:
    from .entries import Entry

BROKER_DEFAULT = "celery"
# What prune goes by: a job without it was made by somebody else.
MANAGED_BY = "managed-by"
MANAGER = "chronarch-celery"
SOURCE = "celery-source"
# Of a job's description, and of its args and kwargs together; as the cluster has them.
DESCRIPTION_BYTES_MAX = 4 << 10
BODY_BYTES_MAX = 64 << 10
# Hexadecimal digits that tell two entries apart whose names would be the same.
_DIGEST_CHARS = 8
# Celery's own default; a job that says no queue goes there.
_QUEUE_DEFAULT = "celery"
# Options that say how beat publishes, or what is so anyway.
_NEEDLESS = {
    *("retry", "retry_policy", "add_to_parent", "compression_level", "producer", "publisher", "connection", "timeout"),
    *("mandatory", "immediate", "exchange_type", "router", "result_cls", "route_name", "task_type", "declare"),
    "confirm_timeout",
}
# What begins like a param of the cluster's in an argument is none there, so that its braces are a param themselves.
_LIKE_PARAM = re.compile(r"\{\{(?= *params(?![A-Za-z0-9_]))")
_BRACES = "braces"
# Options of which something is said otherwise.
_TOLD = {"countdown", "eta", "compression"}
_CARRIED = {
    *("queue", "exchange", "routing_key", "priority", "headers", "expires", "time_limit", "soft_time_limit"),
    *("ignore_result", "shadow", "reply_to", "delivery_mode", "serializer"),
}


class Converted(NamedTuple):
    """A job, and what is not quite as beat has it."""

    job: Dict[str, Any]
    notes: List[str]


def named(entries: Sequence["Entry"], prefix: str = "") -> List[Tuple["Entry", str]]:
    """Each entry with the name of its job. Where several would have the same, the one whose own name it is keeps it,
    and the others get a digest of their source and name behind it: the same in every process and in any order."""
    plain = [legal_name(prefix + entry.name) for entry in entries]
    counts = {name: plain.count(name) for name in plain} if len(set(plain)) < len(plain) else {}
    return [
        (entry, name if counts.get(name, 1) == 1 or prefix + entry.name == name else _told_apart(entry, name))
        for entry, name in zip(entries, plain)
    ]


def _told_apart(entry: "Entry", name: str) -> str:
    digest = hashlib.sha256(f"{entry.source}\0{entry.name}".encode()).hexdigest()[:_DIGEST_CHARS]
    return f"{name[: NAME_CHARS_MAX - _DIGEST_CHARS - 1]}-{digest}"


def convert(
    entry: "Entry",
    app: Any,
    *,
    broker: str = BROKER_DEFAULT,
    namespace: str = "",
    prefix: str = "",
    labels: Optional[Mapping[str, str]] = None,
    name: Optional[str] = None,
    allow_pickle: bool = False,
    once: bool = False,
) -> Converted:
    """See `entries.to_job`; with what is not quite as beat has it.

    Args:
        allow_pickle: whether a message that the app has built may be a pickle; so it may where
            `app.conf.chronarch_allow_pickle` is True.
        once: whether the job runs a single time.

    Raises:
        CannotCarry: why there is no such job.
    """
    notes: List[str] = []
    job: Dict[str, Any] = {"name": name or legal_name(prefix + entry.name)}
    if namespace:
        job["namespace"] = namespace
    if entry.description:
        job["description"] = entry.description.encode()[:DESCRIPTION_BYTES_MAX].decode(errors="ignore")
    job["labels"] = {**(labels or {}), MANAGED_BY: MANAGER, SOURCE: entry.source, APP: app_label(app)}
    origin = origin_for(app, None)
    if origin is not None:
        job["labels"][ORIGIN] = origin
    job["schedule"] = [_bounded(entry, schedule_of(entry.schedule, entry.last_run_at, notes), notes)]
    target = _target(entry, app, notes, allow_pickle=allow_pickle, once=once)
    target["broker"] = broker
    if entry.name != job["name"]:
        # Without it the header has the name of the job.
        named = {"periodic_task_name": entry.name}
        if "template" in target:
            message = json.loads(target["template"])
            message["headers"] = {**named, **message["headers"]}
            target["template"] = json.dumps(message)
        else:
            headers = {**named, **json.loads(target.get("headers", "{}"))}
            target["headers"] = json.dumps(headers, separators=(",", ":"))
    job["target"] = {"celery": target}
    if any(_LIKE_PARAM.search(target.get(name, "")) for name in ("args", "kwargs")):
        # Written so by `_body`.
        job["params"] = {_BRACES: "{{"}
    # The latest that was missed, however late, as beat does when it starts; and beat sends whatever runs.
    job["catch_up"] = {"runs": "latest", "window": "366d"}
    job["overlap"] = {"policy": "allow"}
    # However often a task fails, beat goes on sending it.
    job["breaker"] = {"consecutive_failures": 0}
    _job_settings.lay_over(app, entry.name, job, notes)
    return Converted(job, notes)


def _bounded(entry: "Entry", schedule: Dict[str, Any], notes: List[str]) -> Dict[str, Any]:
    if entry.start_time is not None:
        schedule["start_at"] = format_instant(entry.start_time)
        notes.append("start_time: the first occurrence from there on; beat sends one at once")
    if entry.expires is not None:
        schedule["end_at"] = format_instant(entry.expires)
    if entry.one_off and entry.total_run_count > 0:
        raise CannotCarry("one_off: it has run", "nothing is left to do; enable it anew to run it again")
    if entry.one_off and "at" not in schedule:
        start = once_from(entry)
        if start is None:
            raise CannotCarry("one_off: nothing says from when on its only run is the next one", "give it a start_time")
        schedule["start_at"] = format_instant(start)
        schedule["count"] = 1
    return schedule


def once_from(entry: "Entry") -> Optional[datetime.datetime]:
    """From when on the first occurrence is the only one of an entry that runs once; None: nothing says it."""
    return entry.start_time or entry.last_run_at or entry.changed_at


def _target(entry: "Entry", app: Any, notes: List[str], *, allow_pickle: bool, once: bool) -> Dict[str, Any]:
    options = _options(entry, app)
    allow_pickle = allow_pickle or app.conf.get("chronarch_allow_pickle") is True
    if _needs_template(entry, app, options, allow_pickle):
        built = _built(entry, app, options, notes, allow_pickle=allow_pickle, once=once)
        return {**built, **_lost_after(entry, app)}
    try:
        body = _body(entry)
    except CannotCarry as refusal:
        if refusal.only_python or not _template.is_pickle(_template.serializer_of(options, app)):
            raise
        # Its own serializer could say it.
        raise CannotCarry(str(refusal), "or pass --allow-pickle (chronarch_allow_pickle = True)") from None
    target = {"task": entry.task, **body, **_lost_after(entry, app)}
    target.update(_destination(entry, app, options))
    target.update(_expires(entry, app, options))
    for name in ("time_limit", "soft_time_limit"):
        if options.get(name):
            target[name] = format_span(datetime.timedelta(seconds=float(options[name])))
    for name in ("ignore_result", "shadow", "reply_to"):
        if options.get(name) is not None:
            target[name] = options[name]
    if options.get("headers"):
        target["headers"] = _json("options.headers", options["headers"], Mapping)
    _tell_lost(options, app, notes)
    return target


def _lost_after(entry: "Entry", app: Any) -> Dict[str, Any]:
    """What its worker confirms when it has ended, the broker delivers again: it is not lost with the worker."""
    acks_late = getattr(app.tasks.get(entry.task), "acks_late", None)
    return {"lost_after": "0s"} if (app.conf.task_acks_late if acks_late is None else acks_late) else {}


def _needs_template(entry: "Entry", app: Any, options: Mapping[str, Any], allow_pickle: bool) -> bool:
    reasons = _template.reasons(entry, app, options)
    if reasons == ["serializer"] and not allow_pickle:
        # As JSON it needs nobody's leave, where workers take it.
        is_taken = bool({"json", "application/json"} & {str(one) for one in app.conf.accept_content})
        if _template.is_pickle(_template.serializer_of(options, app)) and is_taken:
            reasons = []
    # What is none of a message's own options is a property of it.
    return bool(reasons) or bool(set(options) - _CARRIED - _NEEDLESS - _TOLD)


def _built(
    entry: "Entry", app: Any, options: Mapping[str, Any], notes: List[str], *, allow_pickle: bool, once: bool
) -> Dict[str, Any]:
    """The target of an entry whose message the app builds."""
    for name, value, kind in (("args", entry.args, (list, tuple)), ("kwargs", entry.kwargs, Mapping)):
        _checked(name, value, kind)
    if not entry.task.startswith("celery."):
        # Of a canvas each task goes where it is routed.
        _destination(entry, app, options)
    built = _template.build(entry, app, options, allow_pickle=allow_pickle, once=once)
    notes += built.notes
    _tell_untimed(options, notes)
    target: Dict[str, Any] = {"template": built.message, "template_ids": built.ids, **built.place}
    if target.get("queue") == _QUEUE_DEFAULT:
        del target["queue"]
    return {**target, **_expires(entry, app, options)}


def _body(entry: "Entry") -> Dict[str, Any]:
    body: Dict[str, Any] = {}
    for name, value, kind in (("args", entry.args, (list, tuple)), ("kwargs", entry.kwargs, Mapping)):
        text = _json(name, value, kind)
        if text not in ("[]", "{}"):
            body[name] = _LIKE_PARAM.sub(f"{{{{ params.{_BRACES} }}}}", text)
    if sum(len(text.encode()) for text in body.values()) > BODY_BYTES_MAX:
        raise CannotCarry(
            "args: with kwargs they are more than 64 KiB", "send a key, and let the task look the rest up"
        )
    return body


def _options(entry: "Entry", app: Any) -> Dict[str, Any]:
    """The options that the message is sent with: those of the task's class, and over them the entry's."""
    from celery.app.task import extract_exec_options

    task = app.tasks.get(entry.task)
    own = {} if task is None else {key: value for key, value in extract_exec_options(task).items() if value is not None}
    return {**own, **{key: value for key, value in entry.options.items() if value is not None}}


def _checked(name: str, value: Any, kind: Any) -> None:
    """Refuses what is not even beat's to send, and what has to be called."""
    from celery.beat import BeatLazyFunc

    if not isinstance(value, kind):
        expected = "a mapping" if kind is Mapping else "a list"
        raise CannotCarry(f"{name}: expected {expected}, found {type(value).__name__}", "beat cannot send it either")
    parts = value.values() if isinstance(value, Mapping) else value
    if any(isinstance(part, BeatLazyFunc) for part in parts):
        raise CannotCarry(
            f"{name}: a BeatLazyFunc is called when the message is sent, which only Python can",
            "let the task compute it, or keep the entry with `celery beat -S chronarch`",
            only_python=True,
        )


def _json(name: str, value: Any, kind: Any) -> str:
    from kombu.utils.json import dumps

    _checked(name, value, kind)
    try:
        text = dumps(value, separators=(",", ":"), allow_nan=False)
    except (TypeError, ValueError) as error:
        raise CannotCarry(
            f"{name}: {error}", "pass what JSON can say, or kombu.utils.json.register_type() the class"
        ) from None
    return str(text)


def _destination(entry: "Entry", app: Any, options: Mapping[str, Any]) -> Dict[str, Any]:
    """Where Celery would send it: `Router.route`, and what `AMQP.send_task_message` makes of that."""
    routed, queue = _routed(entry, app, options)
    declared = getattr(queue, "exchange", None)
    kind = routed.get("exchange_type") or getattr(declared, "type", None) or "direct"
    exchange = getattr(routed.get("exchange"), "name", routed.get("exchange"))
    target: Dict[str, Any] = {}
    if kind == "direct" and not (exchange and routed.get("routing_key")):
        if queue is None or not queue.name:
            raise CannotCarry("options.queue: nothing says where the task goes", "set task_default_queue")
        if queue.name != _QUEUE_DEFAULT:
            target["queue"] = queue.name
    else:
        target.update(_exchange(app, queue, kind, exchange, routed.get("routing_key")))
    if routed.get("priority") is not None:
        target["priority"] = int(routed["priority"])
    mode = routed.get("delivery_mode") or getattr(declared, "delivery_mode", None)
    if str(mode or app.conf.task_default_delivery_mode) in ("1", "transient"):
        target["transient"] = True
    return target


def _routed(entry: "Entry", app: Any, options: Mapping[str, Any]) -> Tuple[Dict[str, Any], Any]:
    """The options after routing, and the queue that they name."""
    from celery.exceptions import QueueNotFound
    from kombu.exceptions import KombuError

    try:
        task = app.tasks.get(entry.task)
        routed = app.amqp.router.route(dict(options), entry.task, entry.args, entry.kwargs, task)
        queue = routed.get("queue")
        return routed, app.amqp.queues[queue] if isinstance(queue, str) else queue
    except (QueueNotFound, KeyError, KombuError) as error:
        raise CannotCarry(f"options.queue: {error}", "name it in task_queues") from None
    except Exception as error:
        raise CannotCarry(f"task_routes: {type(error).__name__}: {error}", "correct the router") from None


def _exchange(app: Any, queue: Any, kind: str, exchange: Any, routing_key: Any) -> Dict[str, Any]:
    if not exchange:
        exchange = queue.exchange.name or app.conf.task_default_exchange or app.conf.task_default_queue
        routing_key = routing_key or queue.routing_key or app.conf.task_default_routing_key
    if kind not in ("direct", "topic"):
        raise CannotCarry(f"options.exchange: {exchange} is a {kind} exchange", "use a direct or a topic one")
    if not routing_key:
        raise CannotCarry(f"options.exchange: {exchange} needs a routing_key", "set options.routing_key")
    return {"exchange": str(exchange), "routing_key": str(routing_key)}


def _expires(entry: "Entry", app: Any, options: Mapping[str, Any]) -> Dict[str, Any]:
    expires = options.get("expires")
    if isinstance(expires, str):
        try:
            expires = parse_instant(expires)
        except ValueError as error:
            raise CannotCarry(f"options.expires: {error}", "write seconds or a datetime") from None
    if isinstance(expires, datetime.datetime):
        at = expires if expires.tzinfo is not None else expires.replace(tzinfo=app.timezone)
        return {"expires_at": format_instant(at)}
    if isinstance(expires, datetime.timedelta):
        expires = expires.total_seconds()
    if expires is None:
        if entry.expires is not None:
            return {"expires_at": format_instant(entry.expires)}
        # Never, as beat has it; without it a message would expire when the next one is due.
        return {"expires": "0s"}
    if not expires > 0:
        raise CannotCarry(f"options.expires: {expires} is over when the message is sent", "write more seconds than 0")
    return {"expires": format_span(datetime.timedelta(seconds=float(expires)))}


def _tell_lost(options: Mapping[str, Any], app: Any, notes: List[str]) -> None:
    serializer = _template.serializer_of(options, app)
    if serializer not in ("json", "application/json"):
        notes.append(f"options.serializer: {serializer} there; messages are written as JSON here")
    _tell_untimed(options, notes)
    if options.get("compression") or app.conf.task_compression:
        notes.append("options.compression: left out; messages are not compressed")


def _tell_untimed(options: Mapping[str, Any], notes: List[str]) -> None:
    for name in ("countdown", "eta"):
        if options.get(name):
            notes.append(f"options.{name}: left out; the task runs when its message is there")
