"""One row as one job: made, changed, paused, resumed, or removed."""

import contextlib
import dataclasses
import logging
import time
from typing import Any, Dict, Iterable, List, Optional

from .._options import Options
from ..celery import _identity, sync
from ..celery._reconcile import RELEASES, is_held, is_in_charge
from ..celery.entries import CannotCarry, Entry, from_row, legal_name, to_job
from ..client import Client
from ..errors import NotFound
from ..models import Job
from . import _checks, _look

log = logging.getLogger(__name__)

# Columns that say nothing about what is run, and when.
_UNTOLD = ("last_run_at", "total_run_count", "date_changed")


class Target:
    """The jobs that rows are told to."""

    def __init__(self, client: Client, options: Options, using: str) -> None:
        self._client, self._options, self._using = client, options, using
        self._app = _checks.celery_app(options)
        self._jobs = _look.job_names(using)
        self.notes: List[str] = []
        """What whoever saved a row should know, each a sentence; logged as well."""

    def read(self, names: Iterable[str]) -> Dict[str, Any]:
        """The rows as they are, by their names."""
        from django_celery_beat.models import PeriodicTask

        rows = PeriodicTask.objects.using(self._using).filter(name__in=list(names))
        return {row.name: row for row in rows.select_related("interval", "crontab", "solar", "clocked")}

    def tell(self, name: str, row: Optional[Any], deadline: float) -> None:
        """Makes the cluster's job what the row says; None: there is no such row any more.

        Raises:
            ChronarchError: the cluster refuses, or does not answer.
        """
        if row is None:
            self._remove(name, deadline)
            return
        entry = from_row(row, self._app)
        job_name = self._jobs.get(name) or legal_name(name)
        if entry.problem is not None:
            self._refuse(entry, job_name, entry.problem, deadline)
            return
        try:
            job = to_job(
                entry, self._app, broker=self._options.broker, namespace=self._options.namespace, name=job_name
            )
        except CannotCarry as refusal:
            self._refuse(entry, job_name, str(refusal), deadline)
            return
        present = self._find(job_name, deadline)
        if present is not None and not self._is_ours(present):
            self._note(f"{name} has no job: a job {job_name} is there that was not made of a row")
            return
        if present is not None:
            # As when everything is compared: an interval goes on, whatever its row says of its last run.
            sync._keep_origin(job, present, self._app)
            sync._keep_phase(job, present)
        elif not is_in_charge(self._client, self._options.namespace, self._app):
            log.info(
                "%s has no job yet: the cluster has none of this app, until a beat or chronarch_sync makes them", name
            )
            return
        if entry.enabled and not self._knows(entry.task):
            self._note(f"{name} is sent, but {sync.unregistered(entry.task)}; {sync.KNOWN_BY}, or disable the row")
        # Only what begins to run may have to wait with the others.
        begins = entry.enabled and (present is None or (present.pause and present.pause.reason == sync.DISABLED))
        hold = bool(begins) and is_held(self._client, self._options.namespace, self._app)
        step = _step(entry, job, present, hold)
        if step.pause == sync.HELD:
            self._note(f"{name} is held with all jobs of the app, and not sent by the cluster: {RELEASES}")
        sync.apply(self._client, sync.Plan(self._options.namespace, (step,)))

    def _knows(self, task: str) -> bool:
        if task not in self._app.tasks:
            # A web process need not have imported the tasks of the app; that they cannot be, others say.
            with contextlib.suppress(Exception):
                self._app.loader.import_default_modules()
        return task in self._app.tasks

    def _refuse(self, entry: Entry, job_name: str, reason: str, deadline: float) -> None:
        if entry.enabled:
            self._note(f"{entry.name} has no job: {reason}")
            return
        # Nobody sends it; what its job was made of before may not be sent either.
        present = self._find(job_name, deadline)
        if present is not None and present.pause is None and self._is_ours(present):
            self._client.pause_job(job_name, namespace=self._options.namespace, reason=sync.DISABLED)

    def _note(self, text: str) -> None:
        if text not in self.notes:
            log.warning("%s", text)
            self.notes.append(text)

    def _remove(self, name: str, deadline: float) -> None:
        job_name = legal_name(name)
        # Another row may have the name by now.
        if job_name in self._jobs.values():
            return
        present = self._find(job_name, deadline)
        if present is None or present.spec is None:
            return
        if self._is_ours(present):
            # Another process may be faster.
            with contextlib.suppress(NotFound):
                self._client.delete_job(
                    job_name, namespace=self._options.namespace, reason="deleted in Django", timeout=_left(deadline)
                )

    def _is_ours(self, job: Job) -> bool:
        """Whether it is of a row of this app.

        Raises:
            ForeignJobs: it is of an app of the same name.
        """
        if job.spec is None or not _look.labels().items() <= job.spec.labels.items():
            return False
        _identity.check(self._app, [job], self._options.namespace)
        return True

    def _find(self, job_name: str, deadline: float) -> Optional[Job]:
        try:
            return self._client.get_job(job_name, namespace=self._options.namespace, timeout=_left(deadline))
        except NotFound:
            return None


def _step(entry: Entry, job: Dict[str, Any], present: Optional[Job], hold: bool) -> sync.Step:
    """What becomes of a job. One that somebody else has paused stays so, and so does one that waits to be adopted."""
    step = sync.Step("+" if present is None else "~", job["name"], entry.source, entry, job)
    if present is None:
        return dataclasses.replace(step, pause=sync.DISABLED if not entry.enabled else sync.HELD if hold else None)
    paused = None if present.pause is None else present.pause.reason
    if not entry.enabled and paused in (None, sync.HELD):
        return dataclasses.replace(step, pause=sync.DISABLED, was_paused=paused is not None)
    if entry.enabled and paused == sync.DISABLED:
        return dataclasses.replace(step, pause=sync.HELD if hold else None, was_paused=True, resume=not hold)
    return dataclasses.replace(step, stays_held=paused == sync.HELD)


def fingerprint(row: Optional[Any]) -> Any:
    """What of a row a job is made of, to see whether it has changed."""
    if row is None:
        return None
    values = {field.attname: getattr(row, field.attname) for field in row._meta.concrete_fields}
    for name in _UNTOLD:
        values.pop(name, None)
    part = row.scheduler
    own = None if part is None else tuple(str(getattr(part, field.attname)) for field in part._meta.concrete_fields)
    return tuple(str(value) for value in values.values()), own


def _left(deadline: float) -> float:
    return max(deadline - time.monotonic(), 0.1)
