"""From a beat to the cluster, and back: one schedule at a time, with the last run carried across.

Forward: the jobs are brought up to date while they are held, intervals count from the last run that the source knows,
and then they are resumed. What was due between that run and now is told, and run once where that is asked for, as a
beat does when it starts. Back: all jobs are held in one step, and the sources that keep `last_run_at` are told it.
"""

import datetime
import json
from dataclasses import dataclass, field
from typing import Any, Dict, List, Mapping, Optional, Sequence, Tuple

from .. import models
from ..client import Client
from . import _late, sync
from ._identity import APP, app_label
from ._jobs import MANAGED_BY, MANAGER, named
from ._watch import Look, signs_of_beat
from .entries import DJANGO, REDBEAT, Entry

UTC = datetime.timezone.utc
REASON = "chronarch-celery adopt"
# Seconds for which messages of a beat are watched: at least, and at most, whatever is due.
WATCH_MIN, WATCH_MAX = 5.0, 65.0
# What django-celery-beat leaves of a row that runs once and has: ready to be enabled for another time.
DONE = {"last_run_at": None, "total_run_count": 0, "enabled": False}


def watch_seconds(entries: Sequence[Entry]) -> float:
    """How long to watch so that a beat that runs has something to send, where that is soon."""
    soonest = WATCH_MAX
    for entry in entries:
        if entry.enabled and entry.problem is None:
            try:
                period = getattr(entry.schedule, "run_every", None)
                left = period or entry.schedule.remaining_estimate(entry.schedule.now())
                soonest = min(soonest, left.total_seconds() * 1.2 + 2)
            except Exception:
                # Code of the app's own; the others say how long.
                continue
    return max(WATCH_MIN, soonest)


def look_for_beat(app: Any, entries: Sequence[Entry], seconds: Optional[float]) -> Look:
    """Whether it seems that a beat runs; None: as long as it takes until something is due, within limits."""
    return signs_of_beat(app, entries, watch_seconds(entries) if seconds is None else seconds)


@dataclass
class Adopted:
    """What was done."""

    resumed: List[str] = field(default_factory=list)
    due_meanwhile: List[Tuple[str, datetime.datetime]] = field(default_factory=list)
    """Jobs that were due between their last run at the source and now, and the first such instant."""
    run: List[str] = field(default_factory=list)
    """Those of them that were run now."""


def forward(
    client: Client, planned: sync.Plan, *, catch_up: bool = False, since: Optional[datetime.datetime] = None
) -> Adopted:
    """Applies the plan, whose jobs are held, and resumes those whose entries are enabled.

    Args:
        client: of the cluster.
        planned: with `carry` and `hold`.
        catch_up: whether what was due meanwhile is run once. What runs a single time, and has not, is run in any case.
        since: from when on no beat sent, as far as was looked: what was due since then is told of entries whose source
            knows no last run.

    Raises:
        ChronarchError: the cluster cannot be asked, or refuses. What was done stays; it may be done again.
    """
    sync.apply(client, planned)
    namespace = planned.namespace
    done = Adopted()
    labels = {MANAGED_BY: MANAGER}
    held = {
        job.spec.name
        for job in client.iter_jobs(namespace=namespace, labels=labels)
        if job.spec is not None and job.pause is not None and job.pause.reason == sync.HELD
    }
    for step in planned.steps:
        if step.name not in held or step.entry is None or not step.entry.enabled:
            continue
        due = None if _late.is_once(step.entry) else _first_due(client, namespace, step.name, step.entry, since)
        job = client.resume_job(step.name, namespace=namespace, reason=REASON)
        done.resumed.append(step.name)
        if due is not None and catch_up:
            # The same instant is caught up with once, however often this is done.
            operation = _late.operation_at("adopt", namespace, step.name, due)
            client.trigger_job(step.name, namespace=namespace, operation_id=operation, actor=_late.ACTOR, reason=REASON)
            done.run.append(step.name)
        elif due is None:
            due = _late.run(client, namespace, job, step.entry, REASON)
            done.run += [step.name] if due is not None else []
        if due is not None:
            done.due_meanwhile.append((step.name, due))
    return done


def _first_due(
    client: Client, namespace: str, name: str, entry: Entry, since: Optional[datetime.datetime]
) -> Optional[datetime.datetime]:
    """The first instant after the last run, where it is over."""
    after = entry.last_run_at or since
    if after is None:
        return None
    found = client.next_occurrences(name, namespace=namespace, after=after, count=1).occurrences
    at = found[0].at if found else None
    return at if at is not None and at <= datetime.datetime.now(UTC) else None


def note_once(app: Any, planned: sync.Plan, done: Adopted) -> None:
    """Disables the rows that run once and were run, as a beat does, so that none of them is run again.

    Raises:
        Exception: what the database raises.
    """
    ran = {step.entry.key: step.entry for step in planned.steps if step.name in done.run and step.entry is not None}
    now = datetime.datetime.now(UTC)
    _write_django(app, {key: (entry, now) for key, entry in ran.items() if entry.source == DJANGO and entry.one_off})


@dataclass
class Returned:
    """What was done."""

    held: List[str] = field(default_factory=list)
    written: List[Tuple[str, datetime.datetime]] = field(default_factory=list)
    """Entries whose source knows their last run now."""
    finished: List[str] = field(default_factory=list)
    """Entries that run once, and ran here; they are disabled at their source."""
    untold: List[str] = field(default_factory=list)
    """Entries of `beat_schedule` that ran here: beat's file of its own is not touched."""


def back(client: Client, app: Any, entries: Sequence[Entry], *, namespace: str, prefix: str) -> Returned:
    """Holds all jobs of the app, and writes `last_run_at` back.

    Raises:
        ForeignJobs: another app of its name has made some of them.
        ChronarchError: the cluster cannot be asked, or refuses.
        Exception: what the source raises that cannot be written; the jobs are held by then.
    """
    labels = {MANAGED_BY: MANAGER, APP: app_label(app)}
    present = sync.jobs_of(client, app, namespace)
    done = Returned(list(client.pause_jobs(namespace=namespace, labels=labels, reason=sync.HELD).jobs))
    ran: Dict[str, Tuple[Entry, datetime.datetime]] = {}
    for entry, name in named(entries, prefix):
        at = _last_run(client, namespace, name, _late.since_of(entry)) if name in present else None
        if at is not None and (entry.last_run_at is None or at > entry.last_run_at):
            ran[entry.name] = (entry, at)
    _write_django(app, {entry.key: (entry, at) for entry, at in ran.values() if entry.source == DJANGO})
    _write_redbeat(app, {entry.key: at for entry, at in ran.values() if entry.source == REDBEAT})
    for entry, at in ran.values():
        if entry.one_off and entry.source == DJANGO:
            done.finished.append(entry.name)
        elif entry.source in (DJANGO, REDBEAT):
            done.written.append((entry.name, at))
        else:
            done.untold.append(entry.name)
    return done


def _last_run(
    client: Client, namespace: str, name: str, since: Optional[datetime.datetime]
) -> Optional[datetime.datetime]:
    """When the newest run of the schedule that was not skipped was made; what a person asked for is none."""
    for run in client.iter_runs(namespace=namespace, job=name, from_=since):
        if run.state != models.RunState.SKIPPED and run.fired_at is not None and _late.is_of_schedule(run):
            return run.fired_at
    return None


def _write_django(app: Any, runs: Mapping[str, Tuple[Entry, datetime.datetime]]) -> None:
    if not runs:
        return
    from django.conf import settings
    from django_celery_beat.models import PeriodicTask, PeriodicTasks

    for key, (entry, at) in runs.items():
        column = at if settings.USE_TZ else at.astimezone(app.timezone).replace(tzinfo=None)
        # Not `save`, which sends signals; a one-off that ran here must not run there as well.
        values = DONE if entry.one_off else {"last_run_at": column}
        PeriodicTask.objects.filter(pk=key).update(**values)
    # A beat that runs reads the table anew.
    PeriodicTasks.update_changed()


def _write_redbeat(app: Any, runs: Mapping[str, datetime.datetime]) -> None:
    if not runs:
        return
    from redbeat.decoder import RedBeatJSONEncoder
    from redbeat.schedulers import RedBeatSchedulerEntry, ensure_conf, get_redis

    conf, server = ensure_conf(app), get_redis(app)
    for key, at in runs.items():
        entry = RedBeatSchedulerEntry.from_key(key, app=app)
        entry.last_run_at = at
        meta = {"last_run_at": at, "total_run_count": entry.total_run_count}
        with server.pipeline() as pipe:
            pipe.hset(key, "meta", json.dumps(meta, cls=RedBeatJSONEncoder))
            pipe.zadd(conf.schedule_key, {key: entry.score})
            pipe.execute()
