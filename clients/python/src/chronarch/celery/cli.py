"""`chronarch-celery`: from `celery beat` to a cluster, and back."""

import datetime
import functools
import json
import time
from typing import Any, Callable, Dict, List, Optional, Sequence, TypeVar

import click

from .._endpoints import ENDPOINTS_DEFAULT
from .._options import BROKER_DEFAULT, NAMESPACE_DEFAULT
from .._request import TIMEOUT_DEFAULT
from .._text import format_instant, format_span, parse_span
from ..client import Client
from ..errors import ChronarchError, PermissionDenied, Unauthenticated, Unreachable
from . import adopt as adopting
from . import doctor, ends, shadow
from . import sync as syncing
from ._loading import check_settings, load_app, told
from ._telling import as_json_of, few, tell, tell_ends, tell_shadow
from ._watch import Look, reach
from ._where import SHARED, cluster_of
from .entries import SOURCES

T = TypeVar("T")
# As the command line of the cluster has them; a difference under --check is 2 as well.
EXIT_FAILED, EXIT_DIFFERENCE, EXIT_UNREACHABLE, EXIT_PERMISSION = 1, 2, 3, 5


class Context:
    """What all commands need: the app, and the cluster."""

    def __init__(
        self,
        app: Any,
        client: Client,
        namespace: str,
        broker: str,
        prefix: str,
        program: str = "chronarch-celery",
    ) -> None:
        self.app = app
        self.client = client
        self.namespace = namespace
        self.broker = broker
        self.prefix = prefix
        self.program = program
        """What hints name."""


def _options() -> List[Callable[[Any], Any]]:
    return [
        click.option("-A", "--app", required=True, help="The Celery app, as celery takes it: shop.celery, shop:app."),
        click.option("--endpoints", help=f"HOST:PORT,… of the cluster's nodes. Default: {ENDPOINTS_DEFAULT}"),
        click.option("--token", help="Better in CHRONARCH_TOKEN: others see arguments."),
        click.option("--tls-ca", metavar="FILE"),
        click.option("--tls-cert", metavar="FILE"),
        click.option("--tls-key", metavar="FILE"),
        click.option("--insecure", is_flag=True, default=None, help="Lets a token leave the machine in plain text."),
        click.option("--timeout", metavar="SECONDS", help=f"Of a call. Default: {TIMEOUT_DEFAULT:g}"),
        click.option("-n", "--namespace", help=f"Of the jobs. Default: {NAMESPACE_DEFAULT}"),
        click.option("--broker", help=f"The connection in the workers' configuration. Default: {BROKER_DEFAULT}"),
        click.option("--prefix", default="", help="What the names of the jobs begin with."),
        click.option("--app-name", help="What tells its jobs from other apps'. Default: chronarch_app, or its name."),
    ]


def said(options: Dict[str, Any]) -> Dict[str, Any]:
    """Takes the options that say where the cluster is out of those of a command, and returns them by the names of the
    settings."""
    given = {key: options.pop(key.lower(), None) for key in SHARED if key != "TLS"}
    parts = {part: options.pop(f"tls_{part.lower()}", None) for part in ("CA", "CERT", "KEY")}
    return {**given, "TLS": {part: path for part, path in parts.items() if path is not None} or None}


def common(command: Callable[..., Any]) -> Callable[..., Any]:
    """Gives a command the options of all, and in their place a `Context`."""

    @functools.wraps(command)
    def within(app: str, prefix: str, app_name: Optional[str], **rest: Any) -> Any:
        given = said(rest)
        loaded = load_app(app, app_name)
        try:
            options = cluster_of(loaded, given)
            client = options.client("")
        except (ValueError, OSError) as error:
            raise click.UsageError(str(error)) from None
        with client:
            code = guarded(lambda: command(Context(loaded, client, options.namespace, options.broker, prefix), **rest))
        raise click.exceptions.Exit(code or 0)

    for option in reversed(_options()):
        within = option(within)
    return within


def guarded(act: Callable[[], Optional[int]]) -> Optional[int]:
    """What `act` gives, or the exit code of what the cluster refused."""
    try:
        return act()
    except ChronarchError as error:
        click.echo(str(error), err=True)
        if isinstance(error, Unreachable):
            return EXIT_UNREACHABLE
        return EXIT_PERMISSION if isinstance(error, (Unauthenticated, PermissionDenied)) else EXIT_FAILED


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
def main() -> None:
    """Replaces `celery beat` by a Chronarch cluster; workers, tasks and broker stay as they are.

    Where the cluster is, is what options say, else chronarch_endpoints, chronarch_namespace and so on of the app, else
    the configuration of Flask or Django, else CHRONARCH_ENDPOINTS and so on in the environment.

    Exit codes: 0 done, 1 refused or failed, 2 usage (with --check: a difference), 3 unreachable, 5 permission.
    """


def _pair(_: Any, __: Any, given: Sequence[str]) -> Dict[str, str]:
    pairs = [text.partition("=") for text in given]
    if any(not found or not key for key, found, _value in pairs):
        raise click.BadParameter("expected KEY=VALUE")
    return {key: value for key, _found, value in pairs}


def split_sources(_: Any, __: Any, given: Optional[str]) -> Optional[List[str]]:
    """The sources of `--from`."""
    if given is None:
        return None
    names = [name.strip() for name in given.split(",")]
    unknown = [name for name in names if name not in SOURCES]
    if unknown:
        raise click.BadParameter(f"expected {', '.join(SOURCES)}, found {unknown[0]!r}")
    return names


def from_option(command: Callable[..., Any]) -> Callable[..., Any]:
    """`--from`."""
    text = f"{','.join(SOURCES)}. Default: beat_schedule, and the others where the app is set up for them."
    return click.option("--from", "sources", callback=split_sources, metavar="SOURCE,…", help=text)(command)


def collected(app: Any, sources: Optional[List[str]]) -> Any:
    """The entries of an app.

    Raises:
        click.ClickException: a source cannot be read.
    """
    try:
        return syncing.collect(app, sources)
    except Exception as error:
        # Redis, a database or the app's own modules: what of it is wrong they say themselves.
        raise click.ClickException(f"the schedule cannot be read: {told(error)}") from None


def watched(app: Any, look: Callable[[], T]) -> T:
    """What `look` sees of messages.

    Raises:
        ChronarchError: the cluster cannot be asked.
        click.ClickException: the broker cannot.
    """
    try:
        # `look` would wait for ever for a broker that takes connections and says nothing.
        reach(app.connection_for_read())
        return look()
    except ChronarchError:
        raise
    except Exception as error:
        text = f"no messages can be watched, so nothing was changed: {type(error).__name__}: {error}"
        raise click.ClickException(f"{text}\nhint: `chronarch-celery doctor` says what is wrong") from None


def carry_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """The options that say which entries are to be carried."""
    given = [
        click.option("--allow-unknown", is_flag=True, help="Carries tasks that the app has not registered, too."),
        click.option("--allow-pickle", is_flag=True, help="Lets jobs have pickles; they run code where they are read."),
        click.option("--ignore", multiple=True, metavar="ENTRY", help="An entry that is known not to be carried."),
    ]
    for option in reversed(given):
        command = option(command)
    return command


def sync_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """The options of `sync`, wherever it is a command."""
    command = click.option(
        "--label", "labels", multiple=True, callback=_pair, metavar="KEY=VALUE", help="Of each job."
    )(carry_options(command))
    given = [
        click.option("--dry-run", is_flag=True, help="Tells what would change."),
        click.option("--check", is_flag=True, help="As --dry-run, and ends with 2 where something would change."),
        click.option("--prune", is_flag=True, help="Deletes jobs made by sync whose entries are gone."),
        click.option(
            "--active/--hold", "active", default=None, help="Whether new jobs run at once. Default: see above."
        ),
    ]
    for option in reversed(given):
        command = option(command)
    return from_option(command)


@main.command("sync")
@common
@sync_options
def sync_command(context: Context, **how: Any) -> int:
    """Makes jobs of the app's schedule: + new, ~ changed, - deleted, ! not carried.

    While a beat still runs, jobs that run as well would send everything twice; so the first jobs of an app are held
    until `chronarch-celery adopt`. After that new ones run at once.
    """
    return carry_out(context, **how)


def carry_out(
    context: Context,
    sources: Optional[List[str]],
    *,
    dry_run: bool,
    check: bool,
    active: Optional[bool],
    ignore: Sequence[str],
    **how: Any,
) -> int:
    """Plans, tells, and applies; the exit code."""
    check_settings(context.app)
    entries = collected(context.app, sources)
    planned = syncing.plan(
        context.client,
        context.app,
        entries,
        sources=sources,
        broker=context.broker,
        namespace=context.namespace,
        prefix=context.prefix,
        hold=None if active is None else not active,
        **how,
    )
    tell(planned)
    if planned.held:
        click.echo(
            f"{planned.held} held: the cluster sends nothing of them until `{context.program} adopt`, once no beat runs"
            + ("; --active is of new jobs alone" if active else ""),
            err=True,
        )
    if not (dry_run or check):
        syncing.apply(context.client, planned)
    if check and planned.changes:
        return EXIT_DIFFERENCE
    return EXIT_FAILED if any(problem.name not in ignore for problem in planned.problems) else 0


@main.command("doctor")
@common
@from_option
@carry_options
@click.option("--watch", "seconds", type=click.FloatRange(min=0), default=5.0, show_default=True, metavar="SECONDS")
def doctor_command(
    context: Context,
    sources: Optional[List[str]],
    seconds: float,
    allow_unknown: bool,
    allow_pickle: bool,
    ignore: Sequence[str],
) -> int:
    """Looks at all that has to be right, and changes nothing: one line a finding, ok, warn or fail.

    --watch is how long messages of a beat are looked out for. Ends with 1 where something fails.
    """
    entries = collected(context.app, sources)
    levels = set()
    for finding in doctor.examine(
        context.app,
        context.client,
        entries,
        broker=context.broker,
        namespace=context.namespace,
        seconds=seconds,
        wanted=doctor.Wanted(sources, allow_unknown=allow_unknown, allow_pickle=allow_pickle, ignore=ignore),
    ):
        click.echo(str(finding))
        levels.add(finding.level)
    return EXIT_FAILED if doctor.FAIL in levels else 0


def _span(_: Any, __: Any, given: Optional[str]) -> Any:
    if given is None:
        return None
    try:
        return parse_span(given)
    except ValueError as error:
        raise click.BadParameter(str(error)) from None


@main.command("shadow")
@common
@from_option
@click.option("--for", "span", callback=_span, default="10m", show_default=True, help="How long, such as 10m or 24h.")
@click.option("--tolerance", callback=_span, default="5s", show_default=True, help="By how much beat may be behind.")
@click.option("--json", "as_json", is_flag=True, help="One JSON document in place of text.")
def shadow_command(
    context: Context,
    sources: Optional[List[str]],
    span: datetime.timedelta,
    tolerance: datetime.timedelta,
    as_json: bool,
) -> int:
    """Watches a beat beside the due times of the cluster's held jobs, and sends nothing itself.

    Tells what was missed, doubled, late, or sent when nothing was due. It sees messages that Celery workers tell of,
    and those that a beat with task_send_sent_event tells of; of tables and RedBeat also last_run_at. Ends with 1 where
    something differs, or nothing could be seen.
    """
    report = watched(
        context.app,
        lambda: shadow.compare(
            context.app,
            context.client,
            sources,
            namespace=context.namespace,
            prefix=context.prefix,
            span=span,
            tolerance=tolerance,
        ),
    )
    if as_json:
        click.echo(json.dumps(as_json_of(report), indent=1))
    else:
        tell_shadow(report)
    for at in report.gaps:
        click.echo(f"the connection to the broker broke at {format_instant(at)}: messages may be missing", err=True)
    if report.blind:
        hint = "start a Celery worker, or set task_send_sent_event for the beat"
        click.echo(f"nobody told of any message, so that nothing can be said\nhint: {hint}", err=True)
    return EXIT_FAILED if report.differs or report.blind else 0


def adopt_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """The options of `adopt`, wherever it is a command."""
    given = [
        click.option("--back", is_flag=True, help="Holds the jobs, and tells the sources when they last ran."),
        click.option("--force", is_flag=True, help="Although a beat seems to run."),
        click.option("--catch-up", is_flag=True, help="Runs once what was due since its last run at the source."),
        click.option("--allow-unknown", is_flag=True, help="Carries tasks that the app has not registered, too."),
        click.option("--allow-pickle", is_flag=True, help="Lets jobs have pickles; they run code where they are read."),
        click.option(
            "--watch",
            "seconds",
            type=click.FloatRange(min=0),
            metavar="SECONDS",
            help="How long messages of a beat are looked out for. Default: until one is due.",
        ),
    ]
    for option in reversed(given):
        command = option(command)
    return from_option(command)


@main.command("adopt")
@common
@adopt_options
def adopt_command(context: Context, **how: Any) -> int:
    """Cuts over: syncs, and resumes the jobs that were held. Refuses while a beat still sends.

    --watch is how long messages of a beat are looked out for; a beat that has nothing to send in that time, and whose
    app has not set beat_enable_remote_control, cannot be seen.
    """
    return cut_over(context, **how)


def cut_over(
    context: Context,
    sources: Optional[List[str]],
    *,
    back: bool,
    force: bool,
    catch_up: bool,
    seconds: Optional[float],
    **how: Any,
) -> int:
    """To the cluster, or back; the exit code."""
    check_settings(context.app)
    entries = collected(context.app, sources)
    if back:
        return _back(context, entries)
    since = datetime.datetime.now(datetime.timezone.utc)
    if not force and not _no_beat(watched(context.app, lambda: adopting.look_for_beat(context.app, entries, seconds))):
        return EXIT_FAILED
    planned = syncing.plan(
        context.client,
        context.app,
        entries,
        sources=sources,
        broker=context.broker,
        namespace=context.namespace,
        prefix=context.prefix,
        hold=True,
        carry=True,
        **how,
    )
    tell(planned)
    done = adopting.forward(context.client, planned, catch_up=catch_up, since=since)
    for name, due in done.due_meanwhile:
        what = "run now, once" if name in done.run else "--catch-up would have run it once"
        click.echo(f"  {name}: was due at {format_instant(due)}: {what}")
    click.echo(f"{len(done.resumed)} jobs run now")
    present = syncing.jobs_of(context.client, context.app, planned.namespace)
    left = [name for name, job in present.items() if job.pause is not None and job.pause.reason == syncing.HELD]
    if left:
        click.echo(f"{len(left)} stay held, for their entries are gone or not carried: {few(left)}", err=True)
    adopting.note_once(context.app, planned, done)
    return EXIT_FAILED if planned.problems else 0


def _no_beat(look: Look) -> bool:
    for sign in look.signs:
        click.echo(f"a beat seems to run: {sign}", err=True)
    if look.signs:
        click.echo("nothing was changed\nhint: end the beat first; --force goes on all the same", err=True)
    elif not look.workers:
        click.echo("no Celery worker answers, so that a beat could not be seen; nothing was changed", err=True)
        click.echo("hint: start a worker, or be sure that no beat runs and pass --force", err=True)
    return not look.signs and look.workers > 0


def _back(context: Context, entries: Any) -> int:
    done = adopting.back(context.client, context.app, entries, namespace=context.namespace, prefix=context.prefix)
    for name, at in done.written:
        click.echo(f"  {name}: last_run_at is {format_instant(at)}")
    for name in done.finished:
        click.echo(f"  {name}: it runs once, and has: it is disabled")
    if done.untold:
        click.echo(
            f"  {len(done.untold)} entries of beat_schedule: beat's own file is not touched, so that a beat counts "
            "from what it noted there, and runs each crontab that was due since then once when it starts"
        )
    click.echo(f"{len(done.held)} jobs are held; start the beat")
    return 0


@main.command("reconcile")
@common
@click.option(
    "--older-than", callback=_span, default="1m", show_default=True, help="Tasks that were left that long ago."
)
@click.option("--every", callback=_span, metavar="SPAN", help="Goes on, and looks that often. Default: once.")
def reconcile_command(context: Context, older_than: datetime.timedelta, every: Optional[datetime.timedelta]) -> int:
    """Looks up in the app's result backend what runs still wait for, and tells the cluster how it ended.

    How tasks end is told without it; this is for what nobody could tell: a task that was revoked or had expired while
    nobody listened, or a broker that lost its memory. A `celery beat -S chronarch` does the same once a minute.
    """
    while True:
        try:
            found = ends.reconcile(context.client, context.app, older_than=older_than)
        except ends.NoBackend as error:
            raise click.ClickException(str(error)) from None
        except ChronarchError as error:
            # What no further try would change ends it all the same.
            if every is None or isinstance(error, (Unauthenticated, PermissionDenied)):
                raise
            click.echo(f"{error.message}; next look in {format_span(every)}", err=True)
        except Exception as error:
            # A database or Redis that is away: what of it is wrong it says itself.
            text = f"the backend cannot be read: {type(error).__name__}: {error}"
            if every is None:
                raise click.ClickException(text) from None
            click.echo(f"{text}; next look in {format_span(every)}", err=True)
        else:
            tell_ends(found, every is None)
        if every is None:
            return 0
        time.sleep(every.total_seconds())


if __name__ == "__main__":
    main()
