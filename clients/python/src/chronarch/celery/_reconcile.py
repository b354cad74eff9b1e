"""One comparison of a Celery project with the cluster, and what follows from it; made over and over by the thin beat
and by `manage.py chronarch_sync --watch`, by any number of processes at once."""

import datetime
import logging
import time
from typing import Any, Dict, Hashable, Iterator, List, Mapping, NamedTuple, Optional, Sequence, Tuple

from ..client import Client
from ..errors import NotFound
from . import _late, _pages, sync
from ._beat_options import BeatOptions
from ._job_settings import JOBS
from ._once import Once
from ._telling import few
from .entries import APP, DJANGO, MANAGED_BY, MANAGER, Entry, app_label, named

log = logging.getLogger("celery.beat")

# Seconds that rows may be brought up to date in one comparison.
WRITE_BACK_MAX = 20.0
# How often a plan is made anew, because another process was carrying out the same one.
TRIES_MAX = 3
ACTOR = "celery beat"
# Seconds until it is looked again whether a held app has been let go; the next comparison tells.
HELD_PAUSE = 60.0
# What becomes of held jobs.
RELEASES = "`chronarch-celery adopt` or `chronarch_sync --release` lets them go"


class Released(NamedTuple):
    """What was let go."""

    jobs: int
    late: List[Tuple[str, datetime.datetime]]
    """Jobs that run once and were due while they were held, and when; they run now."""


class Reconciler:
    """Compares, and brings the cluster up to date.

    Args:
        app: the Celery app, with its tasks loaded.
        options: what is compared with what.
        client: used instead of one of its own.
        is_beat: whether this takes the place of beat, so that the first jobs of an app may send at once; otherwise they
            are held, as with `chronarch-celery sync`, for a beat may still send.
    """

    def __init__(
        self, app: Any, options: BeatOptions, client: Optional[Client] = None, *, is_beat: bool = True
    ) -> None:
        self.app, self.options, self._is_beat = app, options, is_beat
        self._client, self._is_own = client, client is None
        self._once = Once(app, broker=options.cluster.broker, namespace=options.cluster.namespace)
        self._told: Dict[str, str] = {}
        self._is_held = False
        self._holds = False
        self._is_stored = False
        self._only_python: Mapping[str, Entry] = {}

    @property
    def client(self) -> Client:
        """Made when it is first used.

        Raises:
            ValueError, OSError: the options do not go together.
        """
        if self._client is None:
            self._client = self.options.cluster.client(ACTOR)
        return self._client

    def close(self) -> None:
        """Ends its connections."""
        if self._is_own and self._client is not None:
            self._client.close()
            self._client = None

    def mark(self) -> Hashable:
        """Is another one when entries have changed; it costs one query, and is not asked of the cluster.

        Raises:
            Exception: the database cannot be asked.
        """
        schedule = self.app.conf.beat_schedule
        mine = hash(tuple((name, id(entry)) for name, entry in schedule.items()))
        if DJANGO not in self.options.sources:
            return mine
        from django_celery_beat.models import PeriodicTasks

        _reconnect_database()
        return mine, PeriodicTasks.last_change()

    def store(self) -> None:
        """Writes `beat_schedule` to the tables of django-celery-beat, where they are a source; once.

        Raises:
            django.db.Error: the tables cannot be written.
        """
        if DJANGO in self.options.sources and not self._is_stored:
            from ..django import _table

            _reconnect_database()
            _table.store(self.app)
        self._is_stored = True

    def entries(self) -> List[Entry]:
        """All entries of the sources.

        Raises:
            Exception: a source cannot be read.
        """
        if DJANGO in self.options.sources:
            _reconnect_database()
        return sync.collect(self.app, self.options.sources)

    def plan(self, entries: Sequence[Entry], *, prune: bool) -> sync.Plan:
        """What would be changed. Entries that only Python can evaluate are not in it.

        Raises:
            ChronarchError: the cluster cannot be asked.
        """
        options = self.options
        self._is_held = self._holds or is_held(self.client, options.cluster.namespace, self.app)
        return sync.plan(
            self.client,
            self.app,
            [entry for entry in entries if not entry.only_python],
            sources=options.sources,
            broker=options.cluster.broker,
            namespace=options.cluster.namespace,
            prune=prune,
            hold=True if self._is_held else False if self._is_beat else None,
            # Beat sends by name, whether or not its own process has the task.
            allow_unknown=True,
            names=[entry.name for entry in entries],
        )

    def run(self) -> sync.Plan:
        """One comparison and all that follows from it; returns what differed.

        Raises:
            ChronarchError: the cluster cannot be asked, or refuses.
            Exception: a source cannot be read.
        """
        entries = self.entries()
        planned = self.apply(entries)
        self._tell(planned, entries)
        self._only_python = {name: entry for entry, name in named(entries) if entry.only_python}
        self._remove_plain(planned)
        self._once.refresh(self.client, self._only_python)
        self.write_back()
        return planned

    def apply(self, entries: Sequence[Entry]) -> sync.Plan:
        """Makes the cluster have them.

        Raises:
            ChronarchError: it cannot be asked, or refuses; part of it may be done.
        """
        for number in range(1, TRIES_MAX + 1):
            planned = self.plan(entries, prune=self.options.prune)
            try:
                sync.apply(self.client, planned)
                break
            except NotFound:
                # Another beat was faster, and has deleted what this one was about to.
                if number == TRIES_MAX:
                    raise
        return planned

    def _remove_plain(self, planned: sync.Plan) -> None:
        """An entry that has become one for Python alone has no job any more that would fire beside it."""
        for name in set(planned.orphans) & set(self._only_python):
            self.client.delete_job(name, namespace=planned.namespace, reason="only Python can evaluate it")

    def write_back(self) -> int:
        """Tells django-celery-beat's rows when they last ran, and returns how many were changed.

        Raises:
            ChronarchError: the cluster cannot be asked.
            django.db.Error: the rows cannot be changed.
        """
        if DJANGO not in self.options.sources or not self.options.write_back:
            return 0
        from ..django import _mirror

        deadline = time.monotonic() + WRITE_BACK_MAX
        return _mirror.write_back(self.client, self.options.cluster.namespace, deadline=deadline)

    def hold(self) -> int:
        """Pauses the app's jobs, so that another beat may send, and returns how many were not paused before. Jobs that
        are made afterwards are held with them.

        Raises:
            ForeignJobs: another app of its name has made some of them.
            ChronarchError: the cluster cannot be asked, or refuses: it pauses 10,000 at once at most.
        """
        labels = {MANAGED_BY: MANAGER, APP: app_label(self.app)}
        sync.jobs_of(self.client, self.app, self.options.cluster.namespace)
        # Also where there is no job yet to see it by.
        self._holds = True
        return len(
            self.client.pause_jobs(namespace=self.options.cluster.namespace, labels=labels, reason=sync.HELD).jobs
        )

    def release(self, entries: Sequence[Entry]) -> Released:
        """Resumes what is held; what somebody paused otherwise stays so. What runs once and was due meanwhile is run.

        Args:
            entries: all that its sources have.

        Raises:
            ForeignJobs: another app of its name has made some of them.
            ChronarchError: the cluster cannot be asked, or refuses.
        """
        namespace = self.options.cluster.namespace
        jobs = sync.jobs_of(self.client, self.app, namespace)
        held = [name for name, job in jobs.items() if job.pause is not None and job.pause.reason == sync.HELD]
        made_of = {name: entry for entry, name in named(entries)}
        late = []
        for name in held:
            job = self.client.resume_job(name, namespace=namespace, reason="released")
            at = _late.run(self.client, namespace, job, made_of[name], "released") if name in made_of else None
            late += [(name, at)] if at is not None else []
        return Released(len(held), late)

    def advance(self) -> float:
        """Sees to the entries that only Python can evaluate, and returns the seconds until that has to be done again.
        While the app is held, as the last comparison saw it, another beat sends them.

        Raises:
            ChronarchError: the cluster cannot be asked.
        """
        if self._is_held:
            return HELD_PAUSE
        if self._once.is_stale():
            self._once.refresh(self.client, self._only_python)
        return self._once.advance(self.client)

    def _tell(self, planned: sync.Plan, entries: Sequence[Entry]) -> None:
        """Each thing once, for as long as it is the same."""
        said = {
            f"{JOBS} of {one.name}" if one.source == JOBS else f"{one.name} is not sent by the cluster": one.reason
            for one in planned.problems
        }
        if self._is_held:
            said["jobs are held and send nothing"] = f"once the old beat has ended, {RELEASES}"
        elif planned.held:
            said["held, and not sent with the others"] = f"{few(planned.held_jobs)}; {RELEASES}"
        for what, why in said.items():
            if self._told.get(what) != why:
                log.error("beat: %s: %s", what, why)
        unknown = {entry.task for entry in entries if entry.task and entry.task not in self.app.tasks}
        for task in sorted(unknown):
            said[task] = "unknown"
            if task not in self._told:
                log.warning("beat: no task %s is registered in this process; workers that lack it too drop it", task)
        self._told = said
        if planned.changes:
            counts = (planned.count("+"), planned.count("~"), planned.count("-"))
            log.info("beat: the cluster has been told: %d new, %d changed, %d removed", *counts)


def is_in_charge(client: Client, namespace: str, app: Any) -> bool:
    """Whether the cluster has jobs of the app: before it has any, it is not for a row that is saved to make the first,
    for the old beat sends it.

    Raises:
        ChronarchError: the cluster cannot be asked.
    """
    labels = {MANAGED_BY: MANAGER, APP: app_label(app)}
    return bool(client.list_jobs(namespace=namespace, labels=labels, page_size=1).jobs)


def is_held(client: Client, namespace: str, app: Any) -> bool:
    """Whether the app's jobs wait for `chronarch-celery adopt`: then new ones wait with them; see `sync.is_held`. Where
    none waits, none does, unlike with `chronarch-celery sync`: who starts this has chosen what sends.

    Raises:
        ChronarchError: the cluster cannot be asked.
    """
    return sync.is_held(_pages.jobs(client, namespace, {MANAGED_BY: MANAGER, APP: app_label(app)}))


def lines(planned: sync.Plan) -> Iterator[str]:
    """A plan for people: what is made, changed and removed, field by field."""
    for step in planned.changes:
        yield f"{step.sign} {step.name}"
        if step.sign == "~":
            for one in step.fields:
                yield f"    {one.path}: {_said(one.from_)} -> {_said(one.to)}"
        if step.pause:
            yield f"    paused: {step.pause}"
        if step.resume:
            yield "    resumed"


def _said(text: Optional[str]) -> str:
    return "(unset)" if text is None else text


def _reconnect_database() -> None:
    # As between two requests: a connection that the server has ended, or that is too old, is made anew.
    from django.db import close_old_connections

    close_old_connections()
