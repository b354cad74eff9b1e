"""Messages that the app itself builds, once, for a job to send anew in each run.

What a job says by its own keys is JSON with the headers of the protocol. All else that an app can make of a message
(serializers, compression, `link`, canvas, options of its own, what handlers of `before_task_publish` add) is had by
letting it publish to nobody: the task's `apply_async` with a producer that keeps the message, as kombu would write it
for Redis, and goes no further. No broker and no result backend is asked, and `after_task_publish` is not sent.

The message is built twice. What differs are the ids that Celery made, in whose place each run has its own; so the
same entry makes the same job in every process. A header that differs otherwise (a time, a trace) would be the same in
all runs and is left out.

That the end of the task is told to the cluster is built in too, as one more `link` and `link_error`; what stands in
for the run and the cluster has the length of the longest, for some serializers count bytes.
"""

import base64
import functools
import re
import threading
import uuid
from collections import UserList
from typing import Any, Callable, Dict, Iterator, List, Mapping, NamedTuple, Optional, Sequence, Tuple

from kombu import Connection, Producer

from ._schedules import CannotCarry

# Of a message and of the ids in it, as the cluster has them.
MESSAGE_BYTES_MAX = 96 << 10
IDS_MAX = 64
# As the cluster has them (src/state/celery.rs).
RUN = "@chronarch.run".ljust(80, ".")
CLUSTER = "@chronarch.cluster".ljust(32, ".")
DONE = "chronarch.done"
ZLIB = "application/x-gzip"
PICKLE = "application/x-python-serialize"
# What takes a message from us that runs a canvas: a task of Celery's own, which returns what it is called with.
CARRIER = "celery.accumulate"
_CANVAS = ("celery.chain", "celery.group", "celery.chord")
_ID = re.compile(rb"[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}")
_ADDRESS = re.compile(r" at 0x[0-9a-fA-F]+")
# What a run says, or a job, or what is of no use to a message that is kept.
_DROPPED = {
    *("countdown", "eta", "expires", "task_id", "retry", "retry_policy", "producer", "publisher", "connection"),
    *("add_to_parent", "router", "result_cls", "timeout", "confirm_timeout", "link", "link_error", "chain"),
}
_PARTS = ("chord", "group_id", "group_index", "callbacks", "errbacks")
# One at a time, for the app is told of a producer that is not its own.
_building = threading.Lock()


def _stand_in(what: object) -> str:
    return str(uuid.uuid5(uuid.NAMESPACE_URL, f"chronarch:template:{what}"))


# The task whose end is that of the run: of a chain the last one, as the id of a chain is that of its last task.
MAIN = _stand_in(0)
# The queue of a client's own for results that are sent back: nobody reads it.
_REPLIES = _stand_in("replies")
_ENDS = {how: _stand_in(how) for how in ("success", "failure")}


class Template(NamedTuple):
    """A message for a job."""

    message: str
    """As kombu writes it for Redis: JSON."""
    ids: List[str]
    """Those in it that are others in each run, that of the task whose end is the run's first."""
    task: str
    place: Dict[str, str]
    """Where the app would send it: `queue`, or `exchange` and `routing_key`."""
    notes: List[str]
    """What is not quite as the app builds it, each a sentence that begins with the field."""


class _Built(BaseException):
    """The message is there; nothing is to be done behind that. Handlers of the app's own for errors let it pass."""

    def __init__(self, message: Dict[str, Any]) -> None:
        super().__init__()
        self.message = message


class _Elsewhere(BaseException):
    """Another message would be sent while one is built."""


class _Keeper(Producer):  # type: ignore[misc]
    """Keeps what it is to publish."""

    task: Optional[str] = None
    """The first task of a canvas, which does not hand its producer on."""

    def publish(self, body: Any, *args: Any, **options: Any) -> Any:
        # YAML knows no signatures, which are mappings that say more of themselves.
        return super().publish(_bare(body), *args, **{**options, "retry": False})

    def _publish(
        self,
        body: Any,
        priority: Any,
        content_type: Any,
        content_encoding: Any,
        headers: Any,
        properties: Any,
        routing_key: Any,
        mandatory: Any,
        immediate: Any,
        exchange: Any,
        *_: Any,
    ) -> Any:
        if self.task is not None and dict(headers).get("task") != self.task:
            raise _Elsewhere
        place = {"exchange": exchange or "", "routing_key": routing_key}
        said = {**properties, "delivery_info": place, "priority": priority or 0, "body_encoding": "base64"}
        message = {"content-type": content_type, "content-encoding": content_encoding, "headers": dict(headers)}
        raise _Built({**message, "properties": said, "body": body.encode() if isinstance(body, str) else bytes(body)})


def reasons(entry: Any, app: Any, options: Mapping[str, Any]) -> List[str]:
    """Why a job cannot say by keys of its own what the app would send; empty where it can.

    Args:
        entry: the entry.
        app: the app.
        options: those of the task's class, and over them the entry's.
    """
    from celery import signals

    found = [f"options.{name}" for name in ("link", "link_error", "chain") if options.get(name)]
    if entry.task in _CANVAS:
        found.append("a canvas")
    if serializer_of(options, app) not in ("json", "application/json"):
        found.append("serializer")
    if _packed(options.get("compression") or app.conf.task_compression) == ZLIB:
        found.append("compression")
    if signals.before_task_publish.receivers:
        found.append("before_task_publish")
    if _is_overridden(app.tasks.get(entry.task)):
        found.append("apply_async of the task's own")
    return found


def serializer_of(options: Mapping[str, Any], app: Any) -> str:
    """The serializer of a message."""
    return str(options.get("serializer") or app.conf.task_serializer)


def is_pickle(serializer: str) -> bool:
    """Whether it is Python's own, which runs what it reads."""
    return serializer in ("pickle", PICKLE)


def _packed(compression: Any) -> Optional[str]:
    """The name of a compression as a message has it."""
    from kombu.compression import get_encoder

    try:
        return None if not compression else str(get_encoder(compression)[1])
    except (KeyError, LookupError):
        raise CannotCarry(f"options.compression: there is no {compression}", "zlib is always there") from None


def _is_overridden(task: Any) -> bool:
    """Whether another function than Celery's sends it: of a class of the app's own, or put there by a library."""
    if task is None:
        return False
    sends = getattr(type(task).apply_async, "__wrapped__", None)
    return sends is not None or getattr(type(task).apply_async, "__module__", "") != "celery.app.task"


def build(entry: Any, app: Any, options: Mapping[str, Any], *, allow_pickle: bool, once: bool) -> Template:
    """The message of an entry.

    Args:
        entry: the entry.
        app: the app.
        options: those of the task's class, and over them the entry's.
        allow_pickle: whether it may be a pickle.
        once: whether it is sent a single time, so that what differs each time may stay.

    Raises:
        CannotCarry: why it cannot be kept.
    """
    if is_pickle(serializer_of(options, app)) and not allow_pickle:
        raise CannotCarry(
            "options.serializer: a pickle in a job could be another one by whoever may change jobs, and runs code",
            "use json, yaml or msgpack, or pass --allow-pickle (chronarch_allow_pickle = True)",
        )
    for name in _PARTS:
        if options.get(name):
            raise CannotCarry(f"options.{name}: is of one message of several", "send the whole canvas by its signature")
    if app.conf.task_always_eager:
        raise CannotCarry("task_always_eager: the task would run while its message is built", "switch it off")
    if app.conf.task_protocol != 2:
        raise CannotCarry("task_protocol: only messages of protocol 2 are built anew", "set task_protocol = 2")
    notes: List[str] = []
    first, second = (_tidied(_published(entry, app), app, notes if number == 0 else []) for number in range(2))
    return _settled(first, second, notes, once)


def _published(entry: Any, app: Any) -> Dict[str, Any]:
    with _building, _kept_apart(app) as producer:
        try:
            _send(entry, app, producer)
        except _Built as built:
            return built.message
        except _Elsewhere:
            raise CannotCarry(
                "before_task_publish: another message is sent while this one is built",
                "send it by after_task_publish, or give `producer` on in apply_async",
            ) from None
        except CannotCarry:
            raise
        except Exception as error:
            raise CannotCarry(
                f"the message cannot be built: {type(error).__name__}: {error}", _way_out(error)
            ) from None
    raise CannotCarry("apply_async: the task's own sends nothing", "beat cannot send it either")


def _way_out(error: Exception) -> str:
    if isinstance(error, TypeError):
        return "call the task with what it takes, and what its serializer can say"
    return "beat cannot send it either, or use another serializer"


class _kept_apart:  # noqa: N801
    """A producer, and for as long as it is there an app that asks no backend and sends nothing else in this thread."""

    def __init__(self, app: Any) -> None:
        self._app = app
        self._undo: List[Callable[[], None]] = []

    def __enter__(self) -> Producer:
        app, thread = self._app, threading.get_ident()
        producer = _Keeper(Connection("memory://"), auto_declare=False)
        acquire, backend = app.producer_or_acquire, app.backend
        called, awaited = backend.on_task_call, backend.add_pending_result

        def own(given: Any = None) -> Any:
            if given is not producer and threading.get_ident() == thread:
                if producer.task is None:
                    raise _Elsewhere
                given = producer
            return acquire(given)

        def quiet(given: Any, task_id: str) -> Any:
            return {} if given is producer else called(given, task_id)

        def unasked(result: Any, *args: Any, **options: Any) -> Any:
            # A group asks for the results of its members when it is made.
            return result if threading.get_ident() == thread else awaited(result, *args, **options)

        self._set(backend, "add_pending_result", unasked)
        self._set(app, "producer_or_acquire", own)
        self._set(backend, "on_task_call", quiet)
        self._set(app._local, "oid", _REPLIES)
        return producer

    def _set(self, holder: Any, name: str, value: Any) -> None:
        there = vars(holder)
        if name in there:
            self._undo.append(functools.partial(setattr, holder, name, there[name]))
        else:
            self._undo.append(functools.partial(delattr, holder, name))
        setattr(holder, name, value)

    def __exit__(self, *_: Any) -> None:
        for undo in reversed(self._undo):
            undo()


def _send(entry: Any, app: Any, producer: Producer) -> None:
    options = {key: value for key, value in entry.options.items() if value is not None and key not in _DROPPED}
    options = {**options, "producer": producer, "retry": False, "add_to_parent": False}
    links = {name: _signatures(entry.options.get(name), app) for name in ("link", "link_error")}
    links["link"].append(_end("success", app))
    links["link_error"].append(_end("failure", app))
    steps = _steps(entry, app)
    if steps is not None:
        if entry.args and entry.task != "celery.chain":
            raise CannotCarry("args: of a canvas of several messages", "put them into its tasks")
        canvas = _told(steps, app, links)
        producer.task = steps[0].task if canvas is steps[0] else canvas.tasks[0].task
        canvas.apply_async(tuple(entry.args or ()), **options)
        return
    behind = _signatures(entry.options.get("chain"), app)
    if not behind:
        options["task_id"] = MAIN
    else:
        # In reverse, as messages have them.
        for step in behind:
            _add(step, "link_error", links["link_error"])
        _add(behind[0].set(task_id=MAIN), "link", links.pop("link"))
        options["chain"] = behind
    task = app.tasks.get(entry.task)
    args, kwargs = entry.args or (), entry.kwargs or {}
    if task is None:
        app.send_task(entry.task, args, kwargs, **links, **options)
    else:
        task.apply_async(args, kwargs, **links, **options)


def _signatures(given: Any, app: Any) -> List[Any]:
    """Copies: what is built is changed."""
    from celery.canvas import Signature
    from kombu.utils.functional import maybe_list

    return [Signature.from_dict(_bare(one), app=app) for one in maybe_list(given) or ()]


def _end(how: str, app: Any) -> Any:
    options = {"task_id": _ENDS[how], "ignore_result": True, "serializer": "json", "compression": "zlib"}
    options["exchange"] = DONE
    return app.signature(
        DONE, args=[RUN, None, MAIN, how], kwargs={}, immutable=True, options={**options, "routing_key": CLUSTER}
    )


def _steps(entry: Any, app: Any) -> Optional[List[Any]]:
    """The steps of a canvas; None: the entry is a task."""
    from celery.canvas import _chain, chain, chord, group

    parts = entry.kwargs or {}
    if entry.task == "celery.chord" and "header" in parts:
        header = _bare(parts["header"])
        header = header["kwargs"]["tasks"] if isinstance(header, Mapping) else header
        return [chord(_signatures(header, app), _signatures(parts["body"], app)[0], app=app)]
    if entry.task not in _CANVAS or "tasks" not in parts:
        return None
    tasks = _signatures(list(parts["tasks"]), app)
    if entry.task == "celery.group":
        return [group(tasks, app=app)]
    made = chain(*tasks, app=app)
    return list(made.tasks) if isinstance(made, _chain) else [made]


def _told(steps: List[Any], app: Any, links: Mapping[str, List[Any]]) -> Any:
    """A canvas of one message, whose end is told. One that begins with several is sent by a worker."""
    from celery.canvas import chain, chord, group

    if isinstance(steps[0], (group, chord)):
        # What the carrier returns is not for them.
        _shield(steps[0])
        steps = [app.tasks[CARRIER].si(), *steps]
    for step in steps:
        # Without that setting a chord hands them to its body too, and warns of it.
        is_of_body = isinstance(step, chord) and not app.conf.task_allow_error_cb_on_chord_header
        _add(step.body if is_of_body else step, "link_error", links["link_error"])
    # Of a group nobody knows when it has ended: its last word is that it was sent.
    last = steps[-2] if isinstance(steps[-1], group) else steps[-1]
    _add(last, "link", links["link"])
    (last.body if isinstance(last, chord) else last).set(task_id=MAIN)
    return chain(*steps, app=app) if len(steps) > 1 else steps[0]


def _shield(signature: Any) -> None:
    """Keeps a result away from a signature, as `set_immutable` does; of a chain that is copied it would be lost."""
    from celery.canvas import _chain, chord, group

    if isinstance(signature, (group, chord)):
        for task in signature.tasks:
            _shield(task)
    elif isinstance(signature, _chain):
        _shield(signature.tasks[0])
    else:
        signature.set_immutable(True)


def _add(signature: Any, name: str, links: Sequence[Any]) -> None:
    for one in links:
        (signature.link if name == "link" else signature.link_error)(one)


def _bare(value: Any) -> Any:
    """The value with mappings in place of signatures; all else is as it is."""
    from celery.canvas import Signature

    if isinstance(value, Signature):
        return {key: _bare(one) for key, one in value.items()}
    if type(value) is dict:
        return {key: _bare(one) for key, one in value.items()}
    if type(value) is tuple:
        return tuple(_bare(one) for one in value)
    if type(value) is list or isinstance(value, UserList):
        return [_bare(one) for one in value]
    return value


def _tidied(message: Dict[str, Any], app: Any, notes: List[str]) -> Dict[str, Any]:
    """Without what a run says, and unpacked."""
    from kombu.compression import decompress

    headers, properties = message["headers"], message["properties"]
    headers.update(eta=None, expires=None, parent_id=None, origin="")
    for name in ("argsrepr", "kwargsrepr"):
        if headers.get(name):
            headers[name] = _ADDRESS.sub("", headers[name])
    if headers.get("stamped_headers"):
        headers["stamped_headers"] = sorted(headers["stamped_headers"])
    properties.pop("expiration", None)
    if properties.get("reply_to") == _REPLIES:
        properties["reply_to"] = ""
    packed = headers.pop("compression", None)
    if packed is not None:
        message["body"] = decompress(message["body"], packed)
        if packed == ZLIB:
            headers["compression"] = ZLIB
        else:
            notes.append(f"options.compression: {packed} there; it is sent without, zlib alone is written here")
    return message


def _settled(first: Dict[str, Any], second: Dict[str, Any], notes: List[str], once: bool) -> Template:
    """One message of two, with stand-ins where they differ by their ids."""
    found, others = list(_ids(first)), list(_ids(second))
    if len(found) != len(others):
        raise CannotCarry("the message is built differently each time", "keep it as it is", only_python=True)
    number: Dict[bytes, bytes] = {}
    pairs: Dict[bytes, bytes] = {}
    for one, other in zip(found, others):
        if one != other and one not in number:
            number[one] = pairs[other] = _stand_in(len(number) + 1).encode()
    first, second = _replaced(first, number), _replaced(second, pairs)
    if not once:
        for part in ("headers", "properties"):
            mine, theirs = first[part], second[part]
            for name in sorted(key for key in mine if mine[key] != theirs.get(key)):
                del mine[name]
                notes.append(f"{part}.{name}: left out; it is another one each time the message is built")
        if first["body"] != second["body"]:
            raise CannotCarry(
                "the body of the message is another one each time it is built",
                "keep it as it is, or let `celery beat -S chronarch` build it when it is due",
                only_python=True,
            )
    if MAIN.encode() not in list(_ids(first)):
        raise CannotCarry("nobody can tell when the canvas ends", "let it end with a task")
    return _written(first, [MAIN, *(value.decode() for value in number.values())], notes)


def _written(message: Dict[str, Any], ids: List[str], notes: List[str]) -> Template:
    from kombu.utils.json import dumps

    raw = message["body"]
    body = base64.b64encode(raw).decode()
    try:
        text = str(dumps({**message, "body": body}, allow_nan=False))
    except (TypeError, ValueError) as error:
        raise CannotCarry(f"headers: {error}", "put in what JSON can say; Redis could not carry it either") from None
    if len(text.encode()) > MESSAGE_BYTES_MAX:
        raise CannotCarry(
            f"the message is more than {MESSAGE_BYTES_MAX >> 10} KiB", "send a key, and let the task look the rest up"
        )
    ids += [one for one in _ENDS.values() if one.encode() in raw]
    if len(ids) > IDS_MAX:
        raise CannotCarry(f"the canvas has more than {IDS_MAX} tasks", "let a task of yours send it")
    info = message["properties"]["delivery_info"]
    exchange, key = info["exchange"], str(info["routing_key"] or "")
    place = {"exchange": exchange, "routing_key": key} if exchange else {"queue": key}
    return Template(text, ids, str(message["headers"]["task"]), place, notes)


def _ids(message: Mapping[str, Any]) -> Iterator[bytes]:
    for text in _texts(message):
        yield from _ID.findall(text)


def _texts(message: Mapping[str, Any]) -> Tuple[bytes, bytes, bytes]:
    from kombu.utils.json import dumps

    headers, properties = (dumps(message[part], sort_keys=True, default=repr).encode() for part in _PARTS_OF)
    return headers, properties, message["body"]


_PARTS_OF = ("headers", "properties")


def _replaced(message: Mapping[str, Any], stand_ins: Mapping[bytes, bytes]) -> Dict[str, Any]:
    def within(value: Any) -> Any:
        if isinstance(value, str):
            return _ID.sub(lambda found: stand_ins.get(found[0], found[0]), value.encode()).decode()
        if isinstance(value, Mapping):
            return {key: within(one) for key, one in value.items()}
        if isinstance(value, (list, tuple)):
            return [within(one) for one in value]
        return value

    body = _ID.sub(lambda found: stand_ins.get(found[0], found[0]), message["body"])
    return {**message, **{part: within(message[part]) for part in _PARTS_OF}, "body": body}


__all__ = ["Template", "build", "is_pickle", "reasons", "serializer_of"]
