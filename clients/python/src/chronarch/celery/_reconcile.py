"""One comparison of a Celery project with the cluster, and what follows from it; made over and over by the thin beat and by
`manage.py chronarch_sync --watch`, by any number of processes at once."""

import logging
import re
import time
from dataclasses import dataclass, field
from typing import Any, Dict, Hashable, Iterator, List, Mapping, Optional, Sequence, Set, Tuple

from ..client import Client
from ..errors import InvalidArgument, NotFound
from ..models import Change, FieldChange, Job
from . import _pages
from ._beat_options import BeatOptions
from ._once import Once
from .entries import (
    APP,
    BEAT_SCHEDULE,
    DJANGO,
    MANAGED_BY,
    MANAGER,
    REDBEAT,
    SOURCE,
    CannotCarry,
    Entry,
    app_label,
    from_app,
    from_django,
    from_redbeat,
    named,
    to_job,
)

log = logging.getLogger("celery.beat")

# Jobs of one request.
JOBS_AT_ONCE = 200
# Why a job is paused by this; one that somebody else paused stays so.
PAUSED = "disabled in its source"
# Seconds that rows may be brought up to date in one comparison.
WRITE_BACK_MAX = 20.0
ACTOR = "celery beat"


@dataclass
class Difference:
    """What differs, and is changed by `Reconciler.apply`."""

    created: List[Dict[str, Any]] = field(default_factory=list)
    updated: List[Tuple[Dict[str, Any], List[FieldChange]]] = field(default_factory=list)
    paused: List[str] = field(default_factory=list)
    resumed: List[str] = field(default_factory=list)
    removed: List[str] = field(default_factory=list)
    """Jobs without an entry."""
    problems: Dict[str, str] = field(default_factory=dict)
    """Entries that cannot be carried, by their names, and why."""

    def __bool__(self) -> bool:
        return bool(self.created or self.updated or self.paused or self.resumed or self.removed)

    def lines(self) -> Iterator[str]:
        """For people: what would be made, changed and removed."""
        for job in self.created:
            yield f"+ {job['name']}"
        for job, changes in self.updated:
            yield f"~ {job['name']}"
            for one in changes:
                yield f"    {one.path}: {_said(one.from_)} -> {_said(one.to)}"
        for name in self.paused:
            yield f"~ {name}: paused"
        for name in self.resumed:
            yield f"~ {name}: resumed"
        for name in self.removed:
            yield f"- {name}"


def _said(text: Optional[str]) -> str:
    return "(unset)" if text is None else text


class Reconciler:
    """Compares, and brings the cluster up to date.

    Args:
        app: the Celery app, with its tasks loaded.
        options: what is compared with what.
        client: used instead of one of its own.
    """

    def __init__(self, app: Any, options: BeatOptions, client: Optional[Client] = None) -> None:
        self.app, self.options = app, options
        self._client, self._is_own = client, client is None
        self._once = Once(app, broker=options.cluster.broker, namespace=options.cluster.namespace)
        self._told: Mapping[str, str] = {}

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

    def entries(self) -> List[Entry]:
        """All entries of the sources. Where the tables of django-celery-beat are one of them, what they hold of
        `beat_schedule` is taken from there.

        Raises:
            Exception: a source cannot be read.
        """
        found: List[Entry] = []
        held: Set[str] = set()
        if DJANGO in self.options.sources:
            _reconnect_database()
            found += from_django(self.app)
            held = {entry.name for entry in found}
        if BEAT_SCHEDULE in self.options.sources:
            found += [entry for entry in from_app(self.app) if entry.name not in held]
        if REDBEAT in self.options.sources:
            held |= {entry.name for entry in found}
            found += [entry for entry in from_redbeat(self.app) if entry.name not in held]
        return found

    def compare(self, entries: Sequence[Entry]) -> Difference:
        """What the cluster has otherwise.

        Raises:
            ChronarchError: the cluster cannot be asked.
        """
        found = Difference()
        namespace = self.options.cluster.namespace
        labels = {MANAGED_BY: MANAGER, APP: app_label(self.app)}
        present = {
            job.spec.name: job
            for job in _pages.jobs(self.client, namespace, labels)
            if job.spec is not None and job.spec.labels.get(SOURCE) in self.options.sources
        }
        jobs: List[Dict[str, Any]] = []
        kept: Set[str] = set()
        by_name: Dict[str, Entry] = {}
        for entry, name in named(entries):
            if entry.only_python:
                continue
            kept.add(name)
            job = self._job(entry, name, found.problems)
            if job is not None:
                jobs.append(job)
                by_name[name] = entry
        for at in range(0, len(jobs), JOBS_AT_ONCE):
            self._try(jobs[at : at + JOBS_AT_ONCE], by_name, found)
        for name, entry in by_name.items():
            _compare_pause(name, entry, present.get(name), found)
        found.removed = [name for name in present if name not in kept]
        return found

    def _job(self, entry: Entry, name: str, problems: Dict[str, str]) -> Optional[Dict[str, Any]]:
        if entry.problem is not None:
            problems[entry.name] = entry.problem
            return None
        cluster = self.options.cluster
        try:
            return to_job(entry, self.app, broker=cluster.broker, namespace=cluster.namespace, name=name)
        except CannotCarry as refusal:
            problems[entry.name] = str(refusal)
        return None

    def _try(self, jobs: List[Dict[str, Any]], entries: Mapping[str, Entry], found: Difference) -> None:
        """What would become of jobs; those that the cluster refuses are left out, with its reason."""
        left = list(jobs)
        while left:
            try:
                results = self.client.apply_jobs(left, dry_run=True).results
            except InvalidArgument as refusal:
                wrong = {index: problem for problem in refusal.problems for index in _indices(problem.path)}
                if not wrong:
                    raise
                for index, problem in wrong.items():
                    found.problems[entries[left[index]["name"]].name] = str(problem)
                left = [job for index, job in enumerate(left) if index not in wrong]
                continue
            for job, result in zip(left, results):
                if result.change is Change.CREATED:
                    found.created.append(job)
                elif result.change is Change.UPDATED:
                    found.updated.append((job, result.changes))
            return

    def apply(self, found: Difference, prune: bool) -> None:
        """Makes the cluster have it.

        Raises:
            ChronarchError: it does not let itself, or cannot be asked; part of it may be done.
        """
        namespace, client = self.options.cluster.namespace, self.client
        created = {job["name"] for job in found.created}
        # Before they are changed, for a job that has run its course may have another run by the change.
        for name in found.paused:
            if name not in created:
                client.pause_job(name, namespace=namespace, reason=PAUSED)
        jobs = found.created + [job for job, _ in found.updated]
        for at in range(0, len(jobs), JOBS_AT_ONCE):
            client.apply_jobs(jobs[at : at + JOBS_AT_ONCE], reason="sync")
        for name in found.paused:
            if name in created:
                client.pause_job(name, namespace=namespace, reason=PAUSED)
        for name in found.resumed:
            client.resume_job(name, namespace=namespace, reason="enabled in its source")
        for name in found.removed if prune else ():
            try:
                client.delete_job(name, namespace=namespace, reason="its entry is gone")
            except NotFound:
                # Another one was first.
                continue

    def run(self) -> Difference:
        """One comparison and all that follows from it; returns what differed.

        Raises:
            ChronarchError: the cluster cannot be asked, or refuses.
            Exception: a source cannot be read.
        """
        entries = self.entries()
        found = self.compare(entries)
        self.apply(found, self.options.prune)
        self._tell(found)
        if BEAT_SCHEDULE in self.options.sources or REDBEAT in self.options.sources:
            self._once.refresh(self.client, {name: entry for entry, name in named(entries) if entry.only_python})
        self.write_back()
        return found

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

    def advance(self) -> float:
        """Sees to the entries that only Python can evaluate, and returns the seconds until that has to be done again.

        Raises:
            ChronarchError: the cluster cannot be asked.
        """
        return self._once.advance(self.client)

    def _tell(self, found: Difference) -> None:
        """Each problem once, for as long as it is the same."""
        for name, problem in found.problems.items():
            if self._told.get(name) != problem:
                log.error("%s is not sent by the cluster: %s", name, problem)
        self._told = dict(found.problems)
        if found:
            log.info(
                "beat: the cluster has been told: %d created, %d changed, %d paused, %d resumed, %d without an entry%s",
                len(found.created),
                len(found.updated),
                len(found.paused),
                len(found.resumed),
                len(found.removed),
                "" if self.options.prune else " left",
            )


def _compare_pause(name: str, entry: Entry, present: Optional[Job], found: Difference) -> None:
    pause = None if present is None else present.pause
    if not entry.enabled and pause is None:
        found.paused.append(name)
    elif entry.enabled and pause is not None and pause.reason == PAUSED:
        found.resumed.append(name)


def _indices(path: str) -> List[int]:
    found = re.match(r"jobs\[(\d+)\]", path)
    return [int(found.group(1))] if found else []


def _reconnect_database() -> None:
    # As between two requests: a connection that the server has ended, or that is too old, is made anew.
    from django.db import close_old_connections

    close_old_connections()
