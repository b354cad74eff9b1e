"""Chronarch in a Flask application.

    chronarch = Chronarch(app)                  # or Chronarch() and later chronarch.init_app(app)

    chronarch.client.trigger_job("nightly")     # anywhere within an application context

    @chronarch.task(name="reports.nightly")     # runs within an application context of a worker:
    def nightly(day): ...                       # chronarch-worker shop:chronarch.tasks --queue reports

    $ flask chronarch status
    $ flask chronarch sync                      # of the app's Celery, as chronarch-celery sync

The Celery app is `app.extensions["celery"]`, where the pattern of Flask's documentation puts it, or what is given as
`Chronarch(app, celery=celery)`.

Configuration, each also as the default of the command line: `CHRONARCH_ENDPOINTS` (a list, or text with commas),
`CHRONARCH_TOKEN`, `CHRONARCH_TLS_CA`, `CHRONARCH_TLS_CERT`, `CHRONARCH_TLS_KEY`, `CHRONARCH_TIMEOUT` (seconds),
`CHRONARCH_INSECURE`; of sync also `CHRONARCH_NAMESPACE` and `CHRONARCH_BROKER`, the connection of the cluster's
workers.
"""

import functools
import os
from typing import Any, Callable, List, Optional, TypeVar

import click
import flask
from flask.cli import AppGroup

from ._endpoints import Tls
from ._request import TIMEOUT_DEFAULT
from .celery._jobs import BROKER_DEFAULT
from .celery.cli import Context, carry_out, guarded, sync_options
from .client import Client
from .errors import ChronarchError
from .models import ClusterStatus
from .worker import App, Task

F = TypeVar("F", bound=Callable[..., Any])
# As the command line has it: no leader, or nobody answers.
EXIT_NO_LEADER = 3


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
        app.extensions["chronarch.client"] = None
        app.cli.add_command(commands)

    @property
    def client(self) -> Client:
        """The client of the current application.

        Raises:
            RuntimeError: this is outside of an application context, or `init_app` was not called with the application.
            ValueError: its configuration makes no sense.
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
        found = self._celery or flask.current_app.extensions.get("celery")
        if found is None:
            raise LookupError('there is neither app.extensions["celery"] nor Chronarch(app, celery=…)')
        # Some extensions keep themselves there, with the app in them.
        return found if hasattr(found, "conf") else getattr(found, "celery", found)

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

    def setting(name: str) -> Any:
        return app.config.get(name, os.environ.get(name)) or None

    ca, cert, key = (setting(f"CHRONARCH_TLS_{part}") for part in ("CA", "CERT", "KEY"))
    tls = Tls(ca, cert, key) if ca or cert or key else None
    timeout = setting("CHRONARCH_TIMEOUT")
    return Client(
        setting("CHRONARCH_ENDPOINTS"),
        tls=tls,
        token=setting("CHRONARCH_TOKEN"),
        insecure=bool(app.config.get("CHRONARCH_INSECURE", False)),
        timeout=TIMEOUT_DEFAULT if timeout is None else float(timeout),
    )


commands = AppGroup("chronarch", help="The cluster that runs this application's jobs.")


@commands.command("status")
def status() -> None:
    """What each node says of the cluster. Ends with 3 where there is no leader."""
    chronarch: Chronarch = flask.current_app.extensions["chronarch"]
    lines: List[List[str]] = [["ENDPOINT", "NODE", "ROLE", "TERM", "APPLIED", "JOBS", "LIVE RUNS", "VERSION"]]
    leads = False
    for endpoint, said in chronarch.client.statuses().items():
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


@commands.command("sync")
@click.option("-n", "--namespace", help="Default: CHRONARCH_NAMESPACE, or else default.")
@click.option(
    "--broker", help="The connection in the workers' configuration. Default: CHRONARCH_BROKER, or else celery."
)
@click.option("--prefix", default="", help="What the names of the jobs begin with.")
@sync_options
def sync(namespace: Optional[str], broker: Optional[str], prefix: str, **how: Any) -> None:
    """Makes jobs of the Celery app's schedule, as `chronarch-celery sync` does."""
    chronarch: Chronarch = flask.current_app.extensions["chronarch"]
    try:
        celery = chronarch.celery
    except LookupError as error:
        raise click.ClickException(str(error.args[0])) from None

    def chosen(given: Optional[str], name: str, otherwise: str) -> str:
        return given or flask.current_app.config.get(name) or os.environ.get(name) or otherwise

    context = Context(
        celery,
        chronarch.client,
        chosen(namespace, "CHRONARCH_NAMESPACE", "default"),
        chosen(broker, "CHRONARCH_BROKER", BROKER_DEFAULT),
        prefix,
    )
    raise click.exceptions.Exit(guarded(lambda: carry_out(context, **how)) or 0)


def _told(said: ClusterStatus) -> List[str]:
    mine = next((node for node in said.nodes if node.node_id == said.node_id), None)
    role = str(mine.role) if mine is not None else "unknown"
    numbers = (said.term, said.applied_index, said.jobs, said.live_runs)
    return [str(said.node_id), role, *(str(number) for number in numbers), said.version]


__all__ = ["EXIT_NO_LEADER", "Chronarch", "client_of"]
