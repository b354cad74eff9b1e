"""Chronarch in a Flask application.

    chronarch = Chronarch(app)                  # or Chronarch() and later chronarch.init_app(app)

    chronarch.client.trigger_job("nightly")     # anywhere within an application context

    @chronarch.task(name="reports.nightly")     # runs within an application context of a worker:
    def nightly(day): ...                       # chronarch-worker shop:chronarch.tasks --queue reports

    $ flask chronarch status
    $ flask chronarch sync                      # of the app's Celery, as chronarch-celery sync: the first jobs are held
    $ flask chronarch adopt                     # lets them go, once celery beat has ended; --back: the way back

The Celery app is `app.extensions["celery"]`, where the pattern of Flask's documentation puts it, or what is given as
`Chronarch(app, celery=celery)`.

Configuration, each also as a variable of the environment: `CHRONARCH_ENDPOINTS` (a list, or text with commas),
`CHRONARCH_TOKEN`, `CHRONARCH_TLS_CA`, `CHRONARCH_TLS_CERT`, `CHRONARCH_TLS_KEY`, `CHRONARCH_TIMEOUT` (seconds, or text
such as `5s`), `CHRONARCH_INSECURE`; of jobs of the Celery app also `CHRONARCH_NAMESPACE` and `CHRONARCH_BROKER`, the
connection of the cluster's workers. `chronarch-celery -A` and `celery beat -S chronarch` go by it as well where they
are given that Celery app; what `chronarch_endpoints` and so on of the Celery app say goes before it.
"""

import functools
import weakref
from typing import Any, Callable, Dict, List, Mapping, Optional, TypeVar

import click
import flask
from flask.cli import AppGroup

from ._options import Layer, Misconfigured, Options, flat, in_environment, near_miss, read
from .celery._identity import APP, app_label
from .celery._jobs import MANAGED_BY, MANAGER
from .celery._where import SHARED, cluster_of
from .celery.cli import Context, adopt_options, carry_out, cut_over, guarded, sync_options
from .celery.sync import HELD
from .client import Client
from .errors import ChronarchError
from .models import ClusterStatus
from .worker import App, Task

F = TypeVar("F", bound=Callable[..., Any])
# As the command line has it: no leader, or nobody answers.
EXIT_NO_LEADER = 3
_PREFIX = "CHRONARCH_"
_KNOWN = (
    *(in_environment(key) for key in SHARED if key != "TLS"),
    *(in_environment("TLS", part) for part in ("CA", "CERT", "KEY")),
)
# Those that init_app was called with, in that order. The commands of Celery load a Celery app by its name, and find
# here whose it is.
_applications: "weakref.WeakKeyDictionary[flask.Flask, None]" = weakref.WeakKeyDictionary()


class Chronarch:
    """A client for the application, made when it is first used, and tasks that run within it.

    Args:
        app: the application; None: `init_app` is called with it later.
        celery: the Celery app whose schedule is synced; None: that of the application's extensions.
    """

    def __init__(self, app: Optional[flask.Flask] = None, *, celery: Any = None) -> None:
        self.tasks = App()
        """For `chronarch-worker module:chronarch.tasks`."""
        self._app: Optional[flask.Flask] = None
        self._celery = celery
        if app is not None:
            self.init_app(app)

    def init_app(self, app: flask.Flask, *, celery: Any = None) -> None:
        """Connects the two.

        Args:
            app: the application.
            celery: as of the class; None: as it was given there.
        """
        self._app = app
        self._celery = celery or self._celery
        app.extensions["chronarch"] = self
        app.extensions["chronarch.celery"] = self._celery
        app.extensions["chronarch.client"] = None
        _applications.pop(app, None)
        _applications[app] = None
        app.cli.add_command(commands)

    @property
    def client(self) -> Client:
        """The client of the current application.

        Raises:
            RuntimeError: this is outside of an application context, or `init_app` was not called with the application.
            ValueError: its configuration makes no sense; the message begins with the option.
        """
        app: Any = flask.current_app._get_current_object()  # type: ignore[attr-defined]
        if "chronarch.client" not in app.extensions:
            raise RuntimeError("init_app was not called with this application")
        if app.extensions["chronarch.client"] is None:
            app.extensions["chronarch.client"] = client_of(app)
        client: Client = app.extensions["chronarch.client"]
        return client

    @property
    def celery(self) -> Any:
        """The Celery app of the current application.

        Raises:
            LookupError: there is none.
        """
        found = _celery_of(flask.current_app)
        if found is None:
            raise LookupError('there is neither app.extensions["celery"] nor Chronarch(app, celery=…)')
        return found

    def task(self, **options: Any) -> Callable[[F], Task]:
        """As `App.task`, within an application context of the application that `init_app` was called with.

        Raises, when the task runs:
            RuntimeError: `init_app` was not called.
        """

        def register(function: F) -> Task:
            @functools.wraps(function)
            def within(*args: Any, **kwargs: Any) -> Any:
                if self._app is None:
                    raise RuntimeError("init_app was not called")
                with self._app.app_context():
                    return function(*args, **kwargs)

            made: Task = self.tasks.task(**options)(within)
            return made

        return register


def client_of(app: flask.Flask) -> Client:
    """A client as the application is configured.

    Raises:
        ValueError: the configuration makes no sense; the message begins with the option.
        OSError: a file of it cannot be read.
    """
    layer = Layer(flat(_configuration(app)), in_environment)
    return read([layer], keys=[key for key in SHARED if key not in ("NAMESPACE", "BROKER")]).client("")


def configuration_of(celery: Any) -> Mapping[str, Any]:
    """The options of the application whose Celery app this is: of several the current one, or else the newest.

    Raises:
        Misconfigured: there are some that nobody knows.
    """
    mine = [app for app in _applications if _celery_of(app) is _bare(celery)]
    current = _bare(flask.current_app) if flask.has_app_context() else None
    return _configuration(current if current in mine else mine[-1]) if mine else {}


def _configuration(app: flask.Flask) -> Dict[str, Any]:
    given = {name: value for name, value in app.config.items() if name.startswith(_PREFIX) and value is not None}
    unknown = [name for name in given if name not in _KNOWN]
    if unknown:
        raise Misconfigured([f"{name}: unknown option{near_miss(name, _KNOWN)}" for name in unknown])
    return given


def _celery_of(app: flask.Flask) -> Any:
    found = app.extensions.get("chronarch.celery") or app.extensions.get("celery")
    # Some extensions keep themselves there, with the app in them.
    return _bare(found if hasattr(found, "conf") else getattr(found, "celery", found))


def _bare(proxied: Any) -> Any:
    current = getattr(proxied, "_get_current_object", None)
    return proxied if current is None else current()


commands = AppGroup("chronarch", help="The cluster that runs this application's jobs.")


@commands.command("status")
def status() -> None:
    """What each node says of the cluster. Ends with 3 where there is no leader."""
    chronarch: Chronarch = flask.current_app.extensions["chronarch"]
    try:
        client = chronarch.client
    except (ValueError, OSError) as error:
        raise click.UsageError(str(error)) from None
    lines: List[List[str]] = [["ENDPOINT", "NODE", "ROLE", "TERM", "APPLIED", "JOBS", "LIVE RUNS", "VERSION"]]
    leads = False
    for endpoint, said in client.statuses().items():
        if isinstance(said, ClusterStatus):
            lines.append([endpoint, *_told(said)])
            leads |= said.leader_id != 0
        else:
            assert isinstance(said, ChronarchError)
            lines.append([endpoint, "-", said.message])
    # What a node does not say has no columns to be in line with.
    whole = [line for line in lines if len(line) == len(lines[0])]
    widths = [max(len(text) for text in column) for column in zip(*whole)]
    for line in lines:
        click.echo("  ".join(text.ljust(width) for text, width in zip(line, widths)).rstrip())
    if not leads:
        click.echo("there is no leader", err=True)
        raise click.exceptions.Exit(EXIT_NO_LEADER)
    _tell_held()


def _tell_held() -> None:
    """Says that jobs wait for `adopt`, where there are any."""
    celery = _celery_of(flask.current_app)
    if celery is None:
        return
    try:
        options = cluster_of(celery)
        with options.client("") as client:
            labels = {MANAGED_BY: MANAGER, APP: app_label(celery)}
            jobs = list(client.iter_jobs(namespace=options.namespace, labels=labels))
    except (ChronarchError, ValueError, OSError) as error:
        click.echo(f"the jobs of the Celery app cannot be listed: {error}", err=True)
        return
    held = sum(job.pause is not None and job.pause.reason == HELD for job in jobs)
    if held:
        click.echo(f"{held} of {len(jobs)} jobs of the Celery app are held until `flask chronarch adopt`")


def _of_celery(command: Callable[..., Any]) -> Callable[..., Any]:
    """Gives a command what those on a Celery app have in common, and in its place a `Context`."""

    @functools.wraps(command)
    def within(namespace: Optional[str], broker: Optional[str], prefix: str, **how: Any) -> None:
        chronarch: Chronarch = flask.current_app.extensions["chronarch"]
        try:
            celery = chronarch.celery
            options: Options = cluster_of(celery, {"NAMESPACE": namespace, "BROKER": broker})
            client = options.client("")
        except LookupError as error:
            raise click.ClickException(str(error.args[0])) from None
        except (ValueError, OSError) as error:
            raise click.UsageError(str(error)) from None
        with client:
            context = Context(celery, client, options.namespace, options.broker, prefix, "flask chronarch")
            code = guarded(lambda: command(context, **how))
        raise click.exceptions.Exit(code or 0)

    given = [
        click.option("-n", "--namespace", help="Default: CHRONARCH_NAMESPACE, or else default."),
        click.option(
            "--broker", help="The connection in the workers' configuration. Default: CHRONARCH_BROKER, or else celery."
        ),
        click.option("--prefix", default="", help="What the names of the jobs begin with."),
    ]
    for option in reversed(given):
        within = option(within)
    return within


@commands.command("sync")
@_of_celery
@sync_options
def sync(context: Context, **how: Any) -> int:
    """Makes jobs of the Celery app's schedule, as `chronarch-celery sync` does.

    While a beat still runs, jobs that run as well would send everything twice; so the first jobs of an app are held
    until `flask chronarch adopt`. After that new ones run at once.
    """
    return carry_out(context, **how)


@commands.command("adopt")
@_of_celery
@adopt_options
def adopt(context: Context, **how: Any) -> int:
    """Cuts over: syncs, and resumes the jobs that were held, as `chronarch-celery adopt` does. Refuses while a beat
    still sends.
    """
    return cut_over(context, **how)


def _told(said: ClusterStatus) -> List[str]:
    mine = next((node for node in said.nodes if node.node_id == said.node_id), None)
    role = str(mine.role) if mine is not None else "unknown"
    numbers = (said.term, said.applied_index, said.jobs, said.live_runs)
    return [str(said.node_id), role, *(str(number) for number in numbers), said.version]


__all__ = ["EXIT_NO_LEADER", "Chronarch", "client_of", "configuration_of"]
