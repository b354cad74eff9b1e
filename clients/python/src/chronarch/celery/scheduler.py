"""`celery beat -S chronarch`: a beat that sends nothing itself.

It hands the schedule to the cluster and sees to it that the two stay the same: `beat_schedule`, the tables of
django-celery-beat where the project has them, RedBeat's keys where they are named. The cluster sends the tasks, also
while no beat runs. So as many may run as one likes, on as many machines, and it does not matter when one dies.

Only for what Python alone can evaluate (a schedule class of the app's own, a `BeatLazyFunc`) one beat has to be alive
when it is due: see `_once`.

    app.conf.chronarch_endpoints = ["10.0.0.1:7401", "10.0.0.2:7401", "10.0.0.3:7401"]

    $ celery -A shop beat -S chronarch

Options, each also without `app.conf` as CHRONARCH in Django's settings or as CHRONARCH_… in the environment:
`chronarch_endpoints`, `_token`, `_tls`, `_insecure`, `_timeout` (seconds), `_namespace`, `_broker` (the connection of
the cluster's workers, `celery`). Of the app alone: `chronarch_from` (of `beat_schedule`, `django`, `redbeat`),
`chronarch_sync_every` (60 s), `chronarch_reconcile_every` (60 s; 0: never), `chronarch_prune` (True),
`chronarch_write_back` (True), `chronarch_allow_pickle` (False), `chronarch_give_up_after` (never), `chronarch_app` (the
app's name), `chronarch_job_defaults` and `chronarch_jobs` (see `_job_settings`).

A cluster that is down does not end it: it tries again, after 1 s, then 2 s, up to a minute, and says so. It ends, with
the exit code 1, when its options make no sense, when the cluster refuses its token, and after `chronarch_give_up_after`
seconds without an answer.
"""

import contextlib
import logging
import random
import time
from typing import Any, Dict, Hashable, Optional

from celery import beat

from .._options import Misconfigured
from ..errors import ChronarchError, PermissionDenied, Unauthenticated
from . import ends
from ._beat_options import BeatOptions, of_app
from ._reconcile import Reconciler

log = logging.getLogger("celery.beat")

# Seconds until a change of the schedule is noticed.
LOOK_EVERY = 5.0
# Seconds until the next try after one that failed, doubled up to the longest.
PAUSE_MIN, PAUSE_MAX = 1.0, 60.0


class Scheduler(beat.Scheduler):  # type: ignore[misc]
    """See the module."""

    max_interval = LOOK_EVERY

    def __init__(self, app: Any, *args: Any, **kwargs: Any) -> None:
        self.options: BeatOptions = _options_of(app)
        self._reconciler: Optional[Reconciler] = None
        self._sync_at = 0.0
        self._once_at = 0.0
        self._mark: Hashable = None
        self._pause = 0.0
        self._unjudged: Dict[str, str] = {}
        self._answered_at = time.monotonic()
        self._reconcile_at = time.monotonic() + self.options.reconcile_every
        super().__init__(app, *args, **kwargs)

    @property
    def info(self) -> str:
        """What the banner says."""
        cluster = self.options.cluster
        nodes = ", ".join(cluster.endpoints) if cluster.endpoints else "three nodes on this machine"
        return (
            f"    . cluster -> {nodes}\n    . namespace -> {cluster.namespace}\n"
            f"    . schedule -> {', '.join(self.options.sources)}"
        )

    def setup_schedule(self) -> None:
        """Reads the schedule; it is handed over in the first tick, so that a cluster that is down holds nothing up."""
        # Which entries and which result backend cannot be used, the comparison tells; they end no other.
        self.merge_inplace(
            {name: one for name, one in self.app.conf.beat_schedule.items() if self._is_sound(name, one)}
        )
        with contextlib.suppress(Exception):
            self.install_default_entries(self.schedule)
        self._reconciler = Reconciler(self.app, self.options)

    def _is_sound(self, name: str, entry: Any) -> bool:
        try:
            self._maybe_entry(name, entry)
        except Exception:
            return False
        return True

    def tick(self, *_: Any, **__: Any) -> float:
        """Compares with the cluster where it is time, or where something has changed, and returns the seconds until the
        next look.

        Raises:
            ChronarchError: the cluster refuses the token, or did not answer for `chronarch_give_up_after` seconds.
        """
        now = time.monotonic()
        reconciler = self._reconciler
        assert reconciler is not None, "it was made to be looked at, and not to run"
        is_waiting = self._pause > 0 and now < self._sync_at
        try:
            if now >= self._sync_at or (not is_waiting and self._has_changed(reconciler)):
                reconciler.store()
                self._mark = reconciler.mark()
                reconciler.run()
                self._sync_at = time.monotonic() + self.options.sync_every
                self._once_at = 0.0
                self._went_well()
            if not is_waiting and time.monotonic() >= self._once_at:
                self._once_at = time.monotonic() + reconciler.advance()
            if not is_waiting:
                self._look_for_ends(reconciler)
        except (Unauthenticated, PermissionDenied):
            raise
        except ChronarchError as error:
            self._went_wrong(error)
        except Exception as error:
            # The database is away, or code of the project failed: neither may end what keeps the schedule up to date.
            log.exception("the schedule cannot be read")
            self._went_wrong(error)
        wake_at = self._sync_at if self._pause > 0 else min(self._sync_at, self._once_at)
        return min(max(wake_at - time.monotonic(), 0.01), self.max_interval)

    def _has_changed(self, reconciler: Reconciler) -> bool:
        return reconciler.mark() != self._mark

    def _look_for_ends(self, reconciler: Reconciler) -> None:
        """What the result backend knows and nobody told. That it is away, or the cluster does not say what it waits
        for, is no reason to leave the schedule alone; a cluster that is away is noticed by the next comparison."""
        now = time.monotonic()
        if self.options.reconcile_every == 0 or now < self._reconcile_at:
            return
        self._reconcile_at = now + self.options.reconcile_every
        try:
            found = ends.reconcile(reconciler.client, self.app)
        except ends.NoBackend as error:
            log.debug("beat: %s", error)
            self._reconcile_at = float("inf")
        except ChronarchError as error:
            log.warning(
                "beat: the ends of tasks were not reconciled, next look in %.0f s: %s",
                self.options.reconcile_every,
                _in_a_line(error),
            )
        except Exception as error:
            log.warning("beat: the result backend cannot be read: %s: %s", type(error).__name__, error)
        else:
            for run_id, task_id, state in found.ended:
                log.info("beat: run %s ends, for its task %s is %s", run_id, task_id, state)
            self._tell_unjudged(found)

    def _tell_unjudged(self, found: ends.Found) -> None:
        """Each once, for as long as it is the same."""
        for run_id, task_id, why in found.unjudged:
            if self._unjudged.get(run_id) != why:
                log.warning("beat: how task %s of run %s ended cannot be told: %s", task_id, run_id, why)
        self._unjudged = {run_id: why for run_id, _, why in found.unjudged}

    def _went_well(self) -> None:
        if self._pause > 0:
            log.warning("beat: the cluster answers again, after %.0f s", time.monotonic() - self._answered_at)
        self._pause = 0.0
        self._answered_at = time.monotonic()

    def _went_wrong(self, error: Exception) -> None:
        silent = time.monotonic() - self._answered_at
        if self.options.give_up_after is not None and silent > self.options.give_up_after:
            raise error
        self._pause = min(max(self._pause * 2, PAUSE_MIN), PAUSE_MAX)
        # Several beats that lost the same node do not come back in the same instant.
        wait = self._pause * random.uniform(0.75, 1.0)
        self._sync_at = time.monotonic() + wait
        text = _in_a_line(error) if isinstance(error, ChronarchError) else f"{type(error).__name__}: {error}"
        log.error(
            "beat: the schedule was not compared with the cluster, next try in %.0f s; what it has goes on: %s",
            wait,
            text,
        )

    def close(self) -> None:
        """Ends the connections; the cluster goes on."""
        super().close()
        if self._reconciler is not None:
            self._reconciler.close()


def _options_of(app: Any) -> BeatOptions:
    """The options; a beat for which they make no sense ends with what is wrong, and not with where that was found."""
    try:
        return of_app(app)
    except Misconfigured as error:
        if not logging.root.handlers:
            # Celery sets the log up after its banner, which asks for the scheduler; Python writes this to stderr.
            raise SystemExit("\n".join(f"beat: {problem}" for problem in error.problems)) from None
        for problem in error.problems:
            log.critical("beat: %s", problem)
        raise SystemExit(1) from None


def _in_a_line(error: ChronarchError) -> str:
    return f"{error.message} (hint: {error.hint})" if error.hint else error.message


__all__ = ["Scheduler"]
