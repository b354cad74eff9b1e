"""What `manage.py check` says of it. The network is asked by `check --deploy` alone."""

import importlib.util
from typing import Any, List, Optional

from django.apps import apps
from django.conf import settings
from django.core import checks

from .._options import Misconfigured, Options
from ..errors import ChronarchError
from . import _connect
from .apps import BEAT

# Seconds for all that `check --deploy` asks the cluster.
PATIENCE = 5.0
# As the setting has to name it: django-celery-beat's admin does not know of names that packages give to Celery.
SCHEDULER = "chronarch.celery.scheduler:Scheduler"
SHORT = "chronarch"
OURS = (SHORT, SCHEDULER, SCHEDULER.replace(":", "."))


def check_settings(**_: Any) -> List[checks.CheckMessage]:
    """Each setting that makes no sense, and endpoints that nobody named."""
    try:
        options = _connect.options()
    except Misconfigured as error:
        return [checks.Error(problem, id="chronarch.E001") for problem in error.problems]
    found: List[checks.CheckMessage] = []
    if options.endpoints is None:
        found.append(
            checks.Warning(
                "no endpoints are named, so three nodes on this machine are assumed",
                hint='set CHRONARCH = {"ENDPOINTS": ["HOST:PORT", …]}, or CHRONARCH_ENDPOINTS in the environment',
                id="chronarch.W001",
            )
        )
    if not apps.is_installed(BEAT):
        found.append(
            checks.Info(
                "django_celery_beat is not installed: periodic tasks are those of beat_schedule alone",
                id="chronarch.I001",
            )
        )
    return found


def check_schedulers(**_: Any) -> List[checks.CheckMessage]:
    """An app that cannot be loaded, and a second scheduler beside the cluster."""
    try:
        options = _connect.options()
    except Misconfigured:
        return []
    app = None
    if options.celery_app is not None and importlib.util.find_spec("celery") is not None:
        try:
            app = celery_app(options)
        except Exception as error:
            return [
                checks.Error(
                    f'CHRONARCH["CELERY_APP"]: {options.celery_app!r} cannot be loaded: {error}',
                    hint="give it as `celery -A` takes it, such as shop.celery:app",
                    id="chronarch.E002",
                )
            ]
    found = _name_that_the_admin_cannot_use()
    named = other_scheduler(app)
    if named is None:
        return found
    return [
        *found,
        checks.Warning(
            f"{named}, while chronarch.django hands the same tasks to the cluster: each is sent twice where both run",
            hint=f"stop that beat, or start it as `celery beat -S {SHORT}`, and set beat_scheduler to {SCHEDULER!r}",
            id="chronarch.W002",
        ),
    ]


def _name_that_the_admin_cannot_use() -> List[checks.CheckMessage]:
    if not apps.is_installed(BEAT) or getattr(settings, "CELERY_BEAT_SCHEDULER", None) != SHORT:
        return []
    text = f"CELERY_BEAT_SCHEDULER is {SHORT!r}, and django-celery-beat's admin wants the class: its list answers 500"
    hint = f"CELERY_BEAT_SCHEDULER = {SCHEDULER!r}; -S {SHORT} may stay"
    return [checks.Warning(text, hint=hint, id="chronarch.W005")]


def celery_app(options: Options) -> Any:
    """The app that the settings name, or else the current one, which reads the project's settings in most projects.

    Raises:
        Exception: whatever its module raises, or that it is not there.
    """
    from celery import current_app
    from celery.app.utils import find_app

    return current_app._get_current_object() if options.celery_app is None else find_app(options.celery_app)


def other_scheduler(app: Any) -> Optional[str]:
    """The setting that names another scheduler for beat, and what it says."""
    named = getattr(settings, "CELERY_BEAT_SCHEDULER", None)
    if named is not None and named not in OURS:
        return f"CELERY_BEAT_SCHEDULER is {named!r}"
    named = None if app is None else app.conf.beat_scheduler
    # Celery's default is a scheduler of its own, and says nothing about what runs.
    if named and named not in OURS and named != "celery.beat:PersistentScheduler":
        return f"beat_scheduler of the app is {named!r}"
    return None


def check_cluster(**_: Any) -> List[checks.CheckMessage]:
    """Whether the cluster answers, and a worker of it has the connection that tasks are sent through."""
    try:
        options = _connect.options()
        client = _connect.client()
    except (Misconfigured, OSError, ValueError):
        return []
    try:
        workers = client.list_workers(timeout=PATIENCE).workers
    except ChronarchError as error:
        return [checks.Warning(f"the cluster does not answer: {error.message}", hint=error.hint, id="chronarch.W003")]
    kind = f"celery:{options.broker}"
    if any(kind in worker.kinds for worker in workers):
        return []
    known = sorted({one[len("celery:") :] for worker in workers for one in worker.kinds if one.startswith("celery:")})
    return [
        checks.Warning(
            f"no worker of the cluster has a connection {options.broker!r}, so that no task would be sent",
            hint=f'CHRONARCH["BROKER"] names one of: {", ".join(known)}'
            if known
            else f"add [connections.{options.broker}] with the broker's url to the nodes' configuration",
            id="chronarch.W004",
        )
    ]
