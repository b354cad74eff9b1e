"""Chronarch in a Django project: the cluster sends the periodic tasks, django-celery-beat's admin stays where they are
edited.

    INSTALLED_APPS += ["chronarch.django"]
    CHRONARCH = {
        "ENDPOINTS": ["10.0.0.1:7401", "10.0.0.2:7401", "10.0.0.3:7401"],
        "CELERY_APP": "shop.celery:app",
    }

Further settings: `TOKEN`, `TLS` (`{"CA": …, "CERT": …, "KEY": …, "SERVER_NAME": …}`, paths), `INSECURE`, `TIMEOUT`
(seconds), `NAMESPACE` (`default`), `BROKER` (the connection of the workers, `celery`). What is left out is looked up in
the environment: `CHRONARCH_ENDPOINTS`, `CHRONARCH_TOKEN`, and so on.

    from chronarch.django import client

    client().trigger_job("nightly")

    $ python manage.py chronarch_sync --check

What a change costs, and what is promised: a saved or deleted row is pushed when its transaction commits, and never
before; a push that fails is logged and fails nothing; what was missed, and what changed without signals
(`queryset.update`, `bulk_create`), is caught by `celery beat -S chronarch` or `chronarch_sync --watch`.
"""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ..client import Client


def client() -> "Client":
    """The client of this process, as CHRONARCH in the settings has it. Made when it is first used, and again after a
    fork.

    Raises:
        chronarch.django.Misconfigured: the settings make no sense.
    """
    from ._connect import client as found

    return found()


def __getattr__(name: str) -> object:
    if name == "Misconfigured":
        from .._options import Misconfigured

        return Misconfigured
    raise AttributeError(f"module {__name__} has no attribute {name}")


__all__ = ["client"]
