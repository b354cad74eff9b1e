"""The user's functions as tasks, and what they are told about the attempt that they carry out.

Names are Celery's where Celery has the thing (`name`, `bind`, `soft_time_limit`, `self.request.id`, `retries`), so
that a task moves by search and replace. Retries are not among them: they are the job's, `retry:` in its definition,
kept by the cluster, so that a worker that dies forgets none. What cannot succeed says so by an exit code (`Fail`),
which `retry.on: [exit:N]` tells from others.
"""

import contextvars
import datetime
import functools
import json
import logging
from dataclasses import dataclass, field
from typing import Any, Callable, Dict, List, Mapping, Optional, Tuple, Type, TypeVar, Union, overload

F = TypeVar("F", bound=Callable[..., Any])
_log = logging.getLogger("chronarch.worker")


class Fail(Exception):
    """Ends an attempt as failed, with an exit code that `retry.on` of the job can name: `exit:75`."""

    def __init__(self, message: str = "", exit_code: Optional[int] = None) -> None:
        super().__init__(message)
        self.exit_code = exit_code


# As BaseException: code that catches every Exception must not keep an attempt from ending.
class Cancelled(BaseException):
    """The run was cancelled, or the cluster has given this attempt up. Raised in the task; to be let through."""


class SoftTimeLimitExceeded(Exception):
    """The task's `soft_time_limit` is over. It may clean up and return, or fail, until the hard limit ends it."""

    def __str__(self) -> str:
        return "SoftTimeLimitExceeded()"


class TimeLimitExceeded(BaseException):
    """The attempt's time is over. Raised in the task; to be let through."""


@dataclass
class Request:
    """What an attempt is told."""

    run_id: str
    """The same in each attempt of a run: a target that remembers it makes the effect happen once."""
    fence: int
    """The attempt's number among all attempts of the cluster; it only grows."""
    attempt: int
    """From 1."""
    namespace: str
    job: str
    task: str
    args: List[Any] = field(default_factory=list)
    kwargs: Dict[str, Any] = field(default_factory=dict)
    scheduled_at: Optional[datetime.datetime] = None
    """The instant that the run stands for."""
    timeout: Optional[float] = None
    """Seconds that the attempt may take, from its start."""
    params: Dict[str, str] = field(default_factory=dict)
    inputs: Dict[str, Any] = field(default_factory=dict)
    """What the runs that it runs after gave as their results, by the names of their jobs."""
    chain_id: str = ""
    traceparent: str = ""
    hostname: str = ""
    """The worker's name."""
    soft_timeout: Optional[float] = None

    @property
    def id(self) -> str:
        """`run_id`, by the name that Celery has for it."""
        return self.run_id

    @property
    def retries(self) -> int:
        """How many attempts there were before this one."""
        return self.attempt - 1

    @property
    def timelimit(self) -> Tuple[Optional[float], Optional[float]]:
        """The hard and the soft limit, seconds."""
        return (self.timeout, self.soft_timeout)

    def is_cancelled(self) -> bool:
        """Whether the attempt is to end. For code that Python cannot interrupt: a loop in a library, a thread."""
        probe = _cancelled.get()
        return probe is not None and probe()

    def progress(self, fraction: float, text: str = "") -> None:
        """Writes a line of progress to the attempt's output, where `chronarch run logs -f` shows it.

        Args:
            fraction: 0 to 1.
            text: what is being done.

        Raises:
            Cancelled: the attempt is to end.
        """
        print(f"progress {fraction:.0%}{' ' + text if text else ''}", flush=True)
        if self.is_cancelled():
            raise Cancelled


_current: "contextvars.ContextVar[Optional[Request]]" = contextvars.ContextVar("chronarch_request", default=None)
_cancelled: "contextvars.ContextVar[Optional[Callable[[], bool]]]" = contextvars.ContextVar(
    "chronarch_cancelled", default=None
)


def current() -> Optional[Request]:
    """The attempt that this code belongs to; None outside of one."""
    return _current.get()


class Task:
    """A function that carries out attempts. Called, it is the function."""

    def __init__(self, run: Callable[..., Any], name: str, bind: bool, options: "Options") -> None:
        self.run = run
        self.name = name
        self.bind = bind
        self.options = options
        functools.update_wrapper(self, run)

    @property
    def request(self) -> Request:
        """What the attempt is told; of a task that is called directly an empty one."""
        found = current()
        return found if found is not None else Request("", 0, 1, "", "", self.name)

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return self.run(self, *args, **kwargs) if self.bind else self.run(*args, **kwargs)

    def target(self, *args: Any, **kwargs: Any) -> Dict[str, Any]:
        """The `target` of a job that runs this task with these arguments; `{{ params.day }}` stands for a parameter.

        Raises:
            TypeError: an argument is no JSON.
        """
        payload = {"task": self.name, "args": list(args), "kwargs": kwargs}
        return {"queue": {"payload": json.dumps(payload)}}

    def __repr__(self) -> str:
        return f"<task {self.name}>"


@dataclass(frozen=True)
class Options:
    """How a task is carried out."""

    time_limit: Optional[float] = None
    soft_time_limit: Optional[float] = None
    ignore_result: bool = False
    throws: Tuple[Type[BaseException], ...] = ()
    reject_on_worker_lost: bool = False


class App:
    """Tasks by their names."""

    def __init__(self) -> None:
        self.tasks: Dict[str, Task] = {}

    @overload
    def task(self, function: F) -> Task: ...

    @overload
    def task(
        self,
        function: None = None,
        *,
        name: Optional[str] = None,
        bind: bool = False,
        time_limit: Optional[float] = None,
        soft_time_limit: Optional[float] = None,
        ignore_result: bool = False,
        throws: Tuple[Type[BaseException], ...] = (),
        reject_on_worker_lost: bool = False,
    ) -> Callable[[F], Task]: ...

    def task(
        self,
        function: Optional[F] = None,
        *,
        name: Optional[str] = None,
        bind: bool = False,
        time_limit: Optional[float] = None,
        soft_time_limit: Optional[float] = None,
        ignore_result: bool = False,
        throws: Tuple[Type[BaseException], ...] = (),
        reject_on_worker_lost: bool = False,
    ) -> Union[Task, Callable[[F], Task]]:
        """Makes a task of a function, also of an `async def`.

        Args:
            function: the function, where the decorator stands without arguments. name: how payloads call it; module
            and function where it is None. bind: whether it is given the task as its first argument, for
            `self.request`. time_limit: seconds after which the attempt ends as timed out; the job's `timeout` holds
            as well. soft_time_limit: seconds after which SoftTimeLimitExceeded is raised in it. ignore_result:
            whether what it returns is not kept. throws: exceptions that are expected: they fail the attempt without a
            traceback in its output. reject_on_worker_lost: whether the attempt counts as lost, for the job's
            `on_lost` to decide, when its process
                dies, instead of as failed.

        Raises:
            ValueError: a limit is no time, or another task has the name.
        """
        for label, limit in (("time_limit", time_limit), ("soft_time_limit", soft_time_limit)):
            if limit is not None and not limit > 0:
                raise ValueError(f"{label}: expected seconds above 0, found {limit}")
        options = Options(time_limit, soft_time_limit, ignore_result, tuple(throws), reject_on_worker_lost)

        def register(run: F) -> Task:
            made = Task(run, name or f"{run.__module__}.{run.__qualname__}", bind, options)
            before = self.tasks.get(made.name)
            # The same function again is that of a module that is loaded anew.
            if before is not None and _place(before.run) != _place(run):
                raise ValueError(f"name: there is a task {made.name} already")
            self.tasks[made.name] = made
            return made

        return register if function is None else register(function)


def _place(function: Callable[..., Any]) -> Tuple[str, str]:
    return function.__module__, function.__qualname__


# The tasks of a program that needs no more than one set of them.
default_app = App()
task = default_app.task


class BadPayload(Exception):
    """A job's payload names no task, or is none."""


def invocation(app: App, payload: str, job: str) -> Tuple[Task, List[Any], Dict[str, Any]]:
    """The task that a payload asks for, with its arguments.

    `{"task": NAME, "args": […], "kwargs": {…}}` names it. Anything else is for the task that is called like the job:
    it is given what the payload is as JSON as its one argument, or none when the payload is empty.

    Raises:
        BadPayload: it cannot be carried out; the message is for the run's record.
    """
    try:
        value = json.loads(payload) if payload.strip() else None
    except ValueError as error:
        raise BadPayload(f"payload: no JSON: {error}") from None
    if not (isinstance(value, Mapping) and "task" in value):
        return _named(app, job, "called like the job"), [] if value is None else [value], {}
    unknown = sorted(set(value) - {"task", "args", "kwargs"})
    if unknown:
        raise BadPayload(f"payload.{unknown[0]}: unknown; a payload with `task` has `args` and `kwargs` beside it")
    name, args, kwargs = value["task"], value.get("args", []), value.get("kwargs", {})
    if not isinstance(name, str):
        raise BadPayload("payload.task: expected the name of a task")
    if not isinstance(args, list):
        raise BadPayload("payload.args: expected a list")
    if not isinstance(kwargs, dict):
        raise BadPayload("payload.kwargs: expected an object")
    return _named(app, name, "of the payload"), args, kwargs


def _named(app: App, name: str, which: str) -> Task:
    found = app.tasks.get(name)
    if found is None:
        raise BadPayload(f"this worker has no task {name!r} ({which})")
    return found
