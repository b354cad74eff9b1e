"""`manage.py chronarch_sync`: what the project's schedule and the cluster have otherwise."""

import dataclasses
import time
from argparse import ArgumentParser
from typing import Any, Container, NoReturn, Sequence

from django.core.management.base import BaseCommand, CommandError

from chronarch._options import Misconfigured
from chronarch._text import format_instant
from chronarch.celery._beat_options import of_app
from chronarch.celery._reconcile import Reconciler, lines
from chronarch.celery._telling import few
from chronarch.celery.entries import DJANGO, Entry
from chronarch.celery.sync import KNOWN_BY, Plan, unregistered
from chronarch.django import _checks, _connect, _table
from chronarch.errors import ChronarchError

# As `chronarch-celery sync` has it.
EXIT_FAILED, EXIT_DIFFERENT, EXIT_UNREACHABLE = 1, 2, 3
# The longest pause after a comparison that failed, seconds.
PAUSE_MAX = 60.0


class Command(BaseCommand):  # type: ignore[misc]
    """See the module."""

    help = (
        "Tells the cluster what the project's schedule is: django-celery-beat's tables and beat_schedule. "
        "Ends with 0; with 1 where an entry cannot be carried; under --check with 2 where something differs; with 3 "
        "where the cluster does not answer."
    )

    def add_arguments(self, parser: ArgumentParser) -> None:
        """See `BaseCommand.add_arguments`."""
        parser.add_argument("--check", action="store_true", help="change nothing; end with 2 where something differs")
        parser.add_argument("--prune", action="store_true", help="remove jobs whose entries are gone")
        parser.add_argument(
            "--watch", action="store_true", help="go on, and bring last_run_at and total_run_count up to date"
        )
        parser.add_argument(
            "--hold",
            action="store_true",
            help="have the cluster send nothing until --release; so before another beat takes over",
        )
        parser.add_argument("--release", action="store_true", help="let go what --hold, or chronarch-celery, holds")
        parser.add_argument("--every", type=float, default=60.0, metavar="SECONDS", help="with --watch; 60")

    def handle(self, *_: Any, **given: Any) -> None:
        """See `BaseCommand.handle`."""
        if sum(given[name] for name in ("check", "watch", "hold", "release")) > 1:
            raise CommandError("--check, --watch, --hold and --release exclude one another")
        if not 0 < given["every"] < float("inf"):
            raise CommandError("--every: expected seconds above 0")
        try:
            app = _checks.celery_app(_connect.options())
            app.loader.import_default_modules()
            app.finalize()
            options = dataclasses.replace(of_app(app), prune=given["prune"])
            reconciler = Reconciler(app, options, _connect.client(), is_beat=given["watch"])
        except Misconfigured as error:
            raise CommandError(str(error)) from None
        except (OSError, ValueError, ImportError, AttributeError) as error:
            raise CommandError(f"{type(error).__name__}: {error}") from None
        if DJANGO in options.sources and not given["check"]:
            _table.store(app, is_new_only=True)
        if given["watch"]:
            self._watch(reconciler, given)
        else:
            self._once(reconciler, given)

    def _once(self, reconciler: Reconciler, given: Any) -> None:
        try:
            entries = reconciler.entries()
            if given["check"]:
                planned = reconciler.plan(entries, prune=given["prune"])
            else:
                # What is held is told when it last ran; what is let go is told first what it is.
                self._hold(reconciler, given["hold"])
                planned = reconciler.apply(entries)
                reconciler.write_back()
                self._release(reconciler, given["release"], entries)
        except ChronarchError as error:
            self._silent(error)
        self._tell(planned, entries, reconciler.app.tasks, has_released=given["release"])
        if given["check"] and planned.changes:
            raise CommandError("the cluster has it otherwise", returncode=EXIT_DIFFERENT)
        if planned.problems:
            raise CommandError(f"{len(planned.problems)} entries cannot be carried", returncode=EXIT_FAILED)
        if not planned.changes:
            self.stdout.write("the cluster has it all")

    def _hold(self, reconciler: Reconciler, is_wanted: bool) -> None:
        if is_wanted:
            self.stdout.write(f"the cluster sends nothing for this app from here on; {reconciler.hold()} job(s) did")

    def _release(self, reconciler: Reconciler, is_wanted: bool, entries: Sequence[Entry]) -> None:
        if not is_wanted:
            return
        released = reconciler.release(entries)
        for name, at in released.late:
            self.stdout.write(f"{name}: was due at {format_instant(at)}: run now, once")
        self.stdout.write(f"{released.jobs} job(s) are let go: the cluster sends")
        if released.late:
            # Before somebody saves a row that has run, and arms it anew.
            reconciler.write_back()

    def _tell(self, planned: Plan, entries: Sequence[Entry], tasks: Container[str], *, has_released: bool) -> None:
        for line in lines(planned):
            self.stdout.write(line)
        for problem in planned.problems:
            self.stderr.write(f"{problem.name}: {problem.reason}")
        for entry in entries:
            if entry.enabled and entry.problem is None and entry.task not in tasks:
                why = f"is sent, but {unregistered(entry.task)}; {KNOWN_BY}, or disable it"
                self.stderr.write(f"WARNING: {entry.name}: {why}")
            if entry.only_python and entry.enabled:
                self.stderr.write(f"{entry.name}: only Python can evaluate it; `celery beat -S chronarch` does")
        if planned.idle:
            self.stdout.write(f"disabled, and not carried: {few([one.name for one in planned.idle])}")
        if planned.held and not has_released:
            why = f"{planned.held} job(s) wait, for another beat may still send them: --release lets them go"
            self.stderr.write(f"{why}: {few(planned.held_jobs)}")
        if planned.orphans:
            gone = f"{len(planned.orphans)} job(s) have no entry any more; --prune removes them"
            self.stderr.write(f"{gone}: {few(planned.orphans)}")

    def _silent(self, error: ChronarchError) -> NoReturn:
        code = EXIT_UNREACHABLE if isinstance(error, ConnectionError) else EXIT_FAILED
        raise CommandError(str(error), returncode=code)

    def _watch(self, reconciler: Reconciler, given: Any) -> None:
        pause = 1.0
        while True:
            try:
                for line in lines(reconciler.run()):
                    self.stdout.write(line)
                self.stdout.flush()
                pause, wait = 1.0, given["every"]
            except Exception as error:
                self.stderr.write(f"{type(error).__name__}: {error}; next try in {pause:.0f} s")
                pause, wait = min(pause * 2, PAUSE_MAX), pause
            try:
                time.sleep(wait)
            except KeyboardInterrupt:
                return
