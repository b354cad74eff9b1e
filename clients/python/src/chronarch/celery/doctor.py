"""What stands in the way of replacing a beat by a cluster: one finding for each thing that was looked at."""

import datetime
import uuid
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Callable, Dict, Iterator, List, NamedTuple, Optional, Sequence, Set, Tuple

from ..client import Client
from ..errors import ChronarchError, Unreachable
from ..models import Job
from . import _identity, _job_settings, _pages, sync
from ._beat_options import problems_of
from ._identity import APP, app_label
from ._jobs import MANAGED_BY, MANAGER, Converted, convert
from ._watch import ANSWER_SECONDS, answering, bounded, reach, signs_of_beat
from .entries import Entry, with_pickles

# An entry, and its job.
Carried = Tuple[Entry, Converted]
OK, WARN, FAIL = "ok", "warn", "fail"
# Transports of kombu that the cluster may speak, and what a worker with such a connection announces beside `celery`.
_FAMILIES = {
    "redis": "redis",
    "rediss": "redis",
    "sentinel": "redis",
    "amqp": "amqp",
    "amqps": "amqp",
    "pyamqp": "amqp",
}
# Clocks that differ by more are told; workers are heard every few seconds, so that less cannot be seen.
SKEW_SECONDS = 10.0
# An interval that is longer may never end where beat is started anew with each deployment.
_LONG = datetime.timedelta(days=1)
_NAMES_TOLD = 5
_SILENT = "does not answer"


class Finding(NamedTuple):
    """One line."""

    level: str
    """`ok`, `warn` or `fail`."""
    about: str
    text: str
    hint: str = ""

    def __str__(self) -> str:
        hint = f"\n      hint: {self.hint}" if self.hint else ""
        return f"{self.level:4}  {self.about}: {self.text}{hint}"


class Wanted(NamedTuple):
    """What is to be carried."""

    sources: Optional[Sequence[str]] = None
    """Where the entries are from; None: from those that are found."""
    allow_unknown: bool = False
    """Whether tasks are sent that the app has not registered."""
    allow_pickle: bool = False
    """Whether a message that the app has built may be a pickle."""
    ignore: Sequence[str] = ()
    """Entries that are known not to be carried."""


_ALL = Wanted()


def examine(
    app: Any,
    client: Client,
    entries: Sequence[Entry],
    *,
    broker: str,
    namespace: str,
    seconds: float,
    wanted: Wanted = _ALL,
) -> Iterator[Finding]:
    """The findings, each as soon as it is there. None of the looks changes anything.

    Args:
        app: the Celery app.
        client: of the cluster.
        entries: of the app's schedule.
        broker: the connection that jobs name.
        namespace: where the jobs are.
        seconds: how long messages of a beat are watched for.
        wanted: what is to be carried.
    """
    if wanted.allow_pickle:
        entries = [with_pickles(entry, app) for entry in entries]
    carried = [
        (entry, convert(entry, app, allow_pickle=wanted.allow_pickle)) for entry in entries if entry.problem is None
    ]
    workers: Dict[str, Any] = {}
    yield from _settings(app, entries, wanted)
    reachable = _broker(app)
    yield reachable
    if reachable.level == OK:
        yield from _guarded("queues", lambda: _queues(app))
        yield from _guarded("priorities", lambda: _priorities(app, carried))
        yield from _guarded("clock", lambda: _clock_of_broker(app))
        workers = bounded(lambda: _celery_workers(app), {})
    jobs: List[Job] = []
    found = _guarded("cluster", lambda: _cluster(app, client, broker))
    yield from found
    # What a cluster that does not answer says is told once.
    is_told = not any(finding.text.startswith(_SILENT) for finding in found)
    if is_told:
        failed = _guarded("jobs", lambda: _jobs(app, client, namespace, jobs))
        is_told = not failed
        yield from failed or _app(app, jobs, namespace)
    yield from _tasks(app, entries, workers, wanted)
    yield from _routes(app, carried, workers)
    yield _backend(app)
    yield _content(app)
    yield from _entries(app, entries, carried, wanted)
    if reachable.level == OK:
        beats = list(workers.get("beats", []))
        known = jobs if is_told else None
        yield from _guarded("scheduler", lambda: _schedulers(app, known, entries, (seconds, beats)))


def _settings(app: Any, entries: Sequence[Entry], wanted: Wanted) -> Iterator[Finding]:
    """Options that make no sense, or are none, and names in them that no entry has."""
    for problem in problems_of(app):
        yield Finding(FAIL, "settings", problem)
    sources = sync.found_sources(app)
    if set(sources if wanted.sources is None else wanted.sources) >= set(sources):
        for name, reason in _job_settings.strangers(app, [entry.name for entry in entries]).items():
            yield Finding(WARN if name in wanted.ignore else FAIL, f"settings {name}", reason)


def _app(app: Any, jobs: List[Job], namespace: str) -> Iterator[Finding]:
    """Whether the jobs of the app's name are its own."""
    try:
        _identity.check(app, jobs, namespace)
    except _identity.ForeignJobs as error:
        yield Finding(FAIL, "app", error.message, error.hint or "")
        return
    if app.main or _identity.chosen_name(app) is not None or jobs:
        yield Finding(OK, "app", f"its jobs are those with the label {APP}={app_label(app)}")
    else:
        text = f"it has no name, so that its jobs would be those of every such app: {APP}={app_label(app)}"
        yield Finding(WARN, "app", text, 'Celery("shop"), or chronarch_app = "shop", before the first sync')


def _jobs(app: Any, client: Client, namespace: str, jobs: List[Job]) -> List[Finding]:
    jobs += _pages.jobs(client, namespace, {MANAGED_BY: MANAGER, APP: app_label(app)})
    return []


def _guarded(about: str, look: Callable[[], List[Finding]]) -> List[Finding]:
    try:
        return look()
    except Unreachable as error:
        return [Finding(FAIL, about, f"{_SILENT}: {error.message}", error.hint or "")]
    except ChronarchError as error:
        return [Finding(FAIL, about, error.message, error.hint or "")]
    except Exception as error:
        # Of the broker's library or of the settings it was given; the other looks tell what they find all the same.
        return [Finding(FAIL, about, f"cannot be looked at: {_told(error)}", "correct the app's settings")]


def _told(error: BaseException) -> str:
    return f"{type(error).__name__}: {error}" if str(error) else type(error).__name__


def _named(names: Sequence[str]) -> str:
    more = f" and {len(names) - _NAMES_TOLD} more" if len(names) > _NAMES_TOLD else ""
    return ", ".join(list(names)[:_NAMES_TOLD]) + more


def _broker(app: Any) -> Finding:
    try:
        connection = app.connection_for_write()
    except Exception as error:
        # There is no such transport, or its library is not installed: not even a url without its password to be told.
        hint = _how_to_install(app) if isinstance(error, ImportError) else "correct broker_url"
        return Finding(FAIL, "broker", f"broker_url cannot be used: {_told(error)}", hint)
    uri = connection.as_uri()
    try:
        reach(connection)
    except Exception as error:
        text = f"{uri} cannot be reached from here: {_told(error)}"
        return Finding(FAIL, "broker", text, "correct broker_url of the app, or start the broker")
    return Finding(OK, "broker", f"{uri} answers")


def _how_to_install(app: Any) -> str:
    # Of the url nothing but its scheme is told, for it may have a password.
    scheme = str(app.conf.broker_url or "").partition("://")[0].partition("+")[0]
    extra = _FAMILIES.get(scheme, scheme)
    return f"install the module that is named; pip install 'celery[{extra}]' brings what {scheme}:// needs"


def _queues(app: Any) -> List[Finding]:
    """Whether what is declared is what the app would declare; a queue that is not there is not made."""
    if app.connection_for_write().transport.driver_type != "amqp":
        return []
    found, missing = [], []
    for name, queue in app.amqp.queues.items():
        error = _refusal_of(app, queue)
        code = int(getattr(error, "reply_code", 0))
        if code == _NO_QUEUE:
            missing.append(name)
        elif error is not None:
            found.append(Finding(FAIL, "queues", f"{name}: {_told(error)}", _WAYS_OUT.get(code, "correct task_queues")))
    if missing:
        found.append(Finding(WARN, "queues", f"not there yet: {_named(missing)}", "start a worker that reads them"))
    return found or [Finding(OK, "queues", "are as the app declares them")]


# Codes of AMQP 0-9-1 that a declaration is refused with.
_NO_RIGHT, _NO_QUEUE, _LOCKED, _ANOTHER_KIND = 403, 404, 405, 406
_WAYS_OUT = {
    _NO_RIGHT: "give the account in broker_url the right to configure it: Celery's workers declare their queues",
    _LOCKED: "another connection has it for itself: end that one, or use another name",
    _ANOTHER_KIND: "make task_queues say what is there, or delete the queue once it is empty and start a worker",
}


def _refusal_of(app: Any, queue: Any) -> Optional[Exception]:
    """Why the broker does not let the queue be declared; None: it is there, and the same."""
    with app.connection_for_write() as connection:
        try:
            bound = queue(connection.default_channel)
            bound.queue_declare(passive=True)
            # Once more, whole: the same is no change, another type or argument is refused.
            bound.queue_declare(passive=False)
        except connection.channel_errors as error:
            refusal: Exception = error
            return refusal
    return None


def _priorities(app: Any, carried: Sequence[Carried]) -> List[Finding]:
    """Which priorities RabbitMQ would ignore; Redis has a list for each."""
    if app.connection_for_write().transport.driver_type != "amqp":
        return []
    flat = []
    for entry, made in carried:
        target = made.job["target"]["celery"]
        if target.get("priority") is not None and "exchange" not in target:
            queue = app.amqp.queues[target.get("queue", "celery")]
            if not (queue.max_priority or (queue.queue_arguments or {}).get("x-max-priority")):
                flat.append(entry.name)
    if not flat:
        return []
    text = f"of {_named(sorted(flat))}: the queue has no x-max-priority, so that RabbitMQ ignores it"
    hint = "set task_queue_max_priority, and delete the queue once it is empty, to be made anew"
    return [Finding(WARN, "priorities", text, hint)]


def _cluster(app: Any, client: Client, broker: str) -> List[Finding]:
    before = datetime.datetime.now(datetime.timezone.utc)
    workers = list(client.iter_workers())
    findings = []
    transport = str(app.connection_for_write().transport_cls)
    family = _FAMILIES.get(transport)
    if family is None:
        hint = "keep beat for this app, or move it to Redis"
        findings.append(Finding(FAIL, "cluster", f"its workers do not speak {transport}", hint))
    kind = f"celery:{broker}"
    able = [worker for worker in workers if kind in worker.kinds and worker.state == "serving"]
    if able and family is not None and not any(f"{family}:{broker}" in worker.kinds for worker in able):
        text = f"the connection {broker} of its workers is to another kind of broker than {transport}"
        findings.append(Finding(FAIL, "cluster", text, "pass --broker"))
    elif able:
        text = f"{len(able)} of its workers have the connection {broker}; whether it is this broker a run shows"
        findings.append(Finding(OK, "cluster", text))
    else:
        there = sorted(
            {one.partition(":")[2] for worker in workers for one in worker.kinds if one.startswith("celery:")}
        )
        others = f"; there are {_named(there)}" if there else ""
        hint = f"give them [connections.{broker}] with this broker's url, or pass --broker"
        findings.append(Finding(FAIL, "cluster", f"none of its workers has a connection {broker}{others}", hint))
    heard = [worker.last_heard_at for worker in workers if worker.last_heard_at is not None]
    findings.append(_skew("the cluster's", max(heard) if heard else None, before))
    return findings


_NO_TIME = datetime.datetime.min


def _time_of_redis(app: Any) -> datetime.datetime:
    with app.connection_for_write() as connection:
        if connection.transport.driver_type != "redis":
            return _NO_TIME
        seconds, micros = connection.default_channel.client.time()
    return datetime.datetime.fromtimestamp(seconds + micros / 1e6, datetime.timezone.utc)


def _clock_of_broker(app: Any) -> List[Finding]:
    before = datetime.datetime.now(datetime.timezone.utc)
    return [_skew("the broker's", bounded(lambda: _time_of_redis(app), _NO_TIME), before)]


def _skew(whose: str, there: Optional[datetime.datetime], here: datetime.datetime) -> Finding:
    if there is None or there is _NO_TIME:
        return Finding(OK, "clock", f"{whose} is not told")
    skew = (there - here).total_seconds()
    if abs(skew) > SKEW_SECONDS:
        return Finding(FAIL, "clock", f"{whose} is {skew:+.0f} s from the one here", "run NTP on each machine")
    return Finding(OK, "clock", f"{whose} is within {SKEW_SECONDS:.0f} s of the one here")


def _celery_workers(app: Any) -> Dict[str, Any]:
    """What workers and beats say; all are asked at once, for each answer takes its whole time."""
    inspect = app.control.inspect(timeout=ANSWER_SECONDS)
    looks = {"registered": inspect.registered, "queues": inspect.active_queues, "beats": lambda: answering(app)}
    with ThreadPoolExecutor(len(looks)) as pool:
        asked = {name: pool.submit(look) for name, look in looks.items()}
        return {name: future.result() or {} for name, future in asked.items()}


def _tasks(app: Any, entries: Sequence[Entry], workers: Dict[str, Any], wanted: Wanted) -> Iterator[Finding]:
    # What has no name is told with its entry.
    names = {entry.task for entry in entries if entry.task and entry.enabled and entry.name not in wanted.ignore}
    unknown = sorted(names - set(app.tasks))
    if unknown:
        hint = "correct the names, or import their modules in the app; --allow-unknown has them sent all the same"
        level = WARN if wanted.allow_unknown else FAIL
        yield Finding(level, "tasks", f"the app has not registered {_named(unknown)}", hint)
    else:
        yield Finding(OK, "tasks", f"{len(names)} tasks of the schedule are registered")
    if not workers.get("registered"):
        yield Finding(WARN, "workers", "no Celery worker answers", "start one, and look again")
        return
    known = {str(task).partition(" ")[0] for tasks in workers["registered"].values() for task in tasks}
    # Workers do not tell those that begin with `celery.`.
    told = set() if wanted.allow_unknown else set(unknown)
    lacking = sorted(name for name in names - known - told if not name.startswith("celery."))
    if lacking:
        hint = "such messages are dropped: deploy the workers"
        yield Finding(FAIL, "workers", f"none of them knows {_named(lacking)}", hint)
    else:
        yield Finding(OK, "workers", f"{len(workers['registered'])} answer, and know the tasks")


def _routes(app: Any, carried: Sequence[Carried], workers: Dict[str, Any]) -> Iterator[Finding]:
    read = {queue["name"] for queues in workers.get("queues", {}).values() for queue in queues}
    used: Set[str] = set()
    for _, made in carried:
        target = made.job["target"]["celery"]
        if "exchange" not in target:
            used.add(target.get("queue", "celery"))
    unread = sorted(used - read)
    if read and unread:
        hint = "start a worker with -Q, or correct the route"
        yield Finding(FAIL, "queues", f"no worker reads {_named(unread)}", hint)
    elif read:
        yield Finding(OK, "queues", f"{_named(sorted(used))}: each is read by a worker")
    if app.conf.task_create_missing_queues:
        text = "task_create_missing_queues is on: a misspelt queue is made, and read by nobody"
        yield Finding(WARN, "routes", text, "name the queues in task_queues, and switch it off")
    else:
        yield Finding(OK, "routes", "task_create_missing_queues is off: a queue that is not named is refused")


def _backend(app: Any) -> Finding:
    try:
        backend = app.backend
        if type(backend).__name__ == "DisabledBackend":
            return Finding(OK, "results", "are not kept: there is no result_backend")
        if type(backend).__name__ == "RPCBackend":
            text = "rpc:// sends results to who asked, and nobody waits for those of a schedule"
            return Finding(WARN, "results", text, "set ignore_result, or use another result_backend")
        bounded(lambda: backend.get_task_meta(str(uuid.uuid4()), cache=False))
    except Exception as error:
        hint = "install it" if isinstance(error, ImportError) else "start it"
        text = f"result_backend cannot be read: {_told(error)}"
        return Finding(FAIL, "results", text, f"correct result_backend, or {hint}")
    # That of Django has no url.
    return Finding(OK, "results", f"{backend.as_uri() or type(backend).__name__} answers")


def _content(app: Any) -> Finding:
    accepted = {str(one) for one in app.conf.accept_content}
    if accepted & {"json", "application/json"}:
        return Finding(OK, "content", "workers take JSON")
    if str(app.conf.task_serializer) in accepted:
        text = f"workers take {app.conf.task_serializer} and no JSON, so they cannot be asked for events, nor to revoke"
        return Finding(WARN, "content", text, "add json to accept_content, for Celery's remote control")
    return Finding(FAIL, "content", "workers do not take JSON, which jobs are sent as", "add json to accept_content")


def _entries(app: Any, entries: Sequence[Entry], carried: Sequence[Carried], wanted: Wanted) -> Iterator[Finding]:
    """What cannot be carried, and what beat itself does badly with."""
    of_all = _job_settings.problems(app)
    for entry in entries:
        if not entry.enabled:
            # Nobody sends it, as one that runs once and has.
            continue
        # What is wrong with a setting for all of them is told once.
        if entry.problem is not None and not (of_all and entry.problem.startswith(of_all[0])):
            level = WARN if entry.only_python or entry.name in wanted.ignore else FAIL
            yield Finding(level, f"entry {entry.name}", entry.problem)
    sound = [entry for entry, _ in carried]
    long = [entry.name for entry in sound if getattr(entry.schedule, "run_every", datetime.timedelta()) >= _LONG]
    if long:
        text = f"a day or longer: {_named(long)}; a beat that loses its state with a deployment begins them anew"
        yield Finding(WARN, "intervals", text, "the cluster counts from the last run, or from a fixed grid")
    notes = {entry.name: made.notes for entry, made in carried}
    paused = sorted(name for name, told in notes.items() if any(note.startswith("dst:") for note in told))
    if paused:
        text = f"beat skips the hour that comes twice in autumn: {_named(paused)}"
        yield Finding(WARN, "summer time", text, "the cluster runs them in both passes")
    yield Finding(OK, "entries", f"{len(sound)} of {len(entries)} can be carried")


def _schedulers(
    app: Any, jobs: Optional[Sequence[Job]], entries: Sequence[Entry], watched: Tuple[float, List[str]]
) -> List[Finding]:
    seconds, beats = watched
    signs = signs_of_beat(app, entries, seconds, beats).signs
    if jobs is None:
        seen = f"a beat runs: {'; '.join(signs)}" if signs else f"no beat was seen in {seconds:g} s"
        return [Finding(WARN, "scheduler", f"{seen}; whether the cluster sends as well cannot be told")]
    active = [job for job in jobs if job.pause is None]
    if signs and active:
        text = f"a beat and {len(active)} jobs of the cluster run at once: {'; '.join(signs)}"
        return [Finding(FAIL, "scheduler", text, "end the beat, or `chronarch-celery adopt --back`")]
    if signs:
        return [Finding(OK, "scheduler", f"a beat runs: {'; '.join(signs)}")]
    if active:
        return [Finding(OK, "scheduler", f"the cluster: {len(active)} jobs are active, and no beat was seen")]
    held = [job for job in jobs if job.pause is not None and job.pause.reason == sync.HELD]
    if held:
        text = f"no beat was seen in {seconds:g} s, and {len(held)} jobs are held"
        return [Finding(WARN, "scheduler", text, "where beat has ended: `chronarch-celery adopt`")]
    text = f"no beat was seen in {seconds:g} s, and the cluster has no jobs of this app"
    return [Finding(WARN, "scheduler", text, "`chronarch-celery sync` makes them")]
