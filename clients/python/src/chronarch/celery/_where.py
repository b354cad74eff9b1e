"""Where the cluster of a Celery app is, whoever asks: `chronarch-celery`, `flask chronarch`, a beat, Django."""

import sys
from typing import Any, Dict, List, Mapping, Optional

from .._options import KEYS, Layer, Options, flat, in_celery, in_django, in_environment, on_command_line, read

# CELERY_APP is not for an app to say.
SHARED = tuple(key for key in KEYS if key != "CELERY_APP")


def cluster_of(
    app: Any, given: Optional[Mapping[str, Any]] = None, environ: Optional[Mapping[str, str]] = None
) -> Options:
    """What the command line says, else `app.conf.chronarch_endpoints` and so on, else the configuration of the Flask
    application whose Celery app this is, else CHRONARCH in Django's settings, else the environment.

    Args:
        app: with its modules imported, as far as Django is to be found.
        given: of the command line, by the names of `KEYS`.
        environ: None: of the process.

    Raises:
        Misconfigured: some make no sense; the message has each by the name that it has where it was said.
    """
    layers: List[Layer] = [] if given is None else [Layer(given, on_command_line)]
    layers.append(Layer({key: app.conf.get(in_celery(key)) for key in SHARED}, in_celery))
    flask = sys.modules.get("chronarch.flask")
    if flask is not None:
        layers.append(Layer(flat(flask.configuration_of(app)), in_environment))
    layers.append(Layer(_of_django(), in_django))
    return read(layers, environ, keys=SHARED)


def _of_django() -> Dict[str, Any]:
    if not has_django("chronarch.django"):
        return {}
    from django.conf import settings

    given = getattr(settings, "CHRONARCH", {})
    return dict(given) if isinstance(given, dict) else {}


def has_django(installed: str) -> bool:
    """Whether this is a Django project that has this app."""
    # Celery has set Django up by now where the project has it.
    if "django" not in sys.modules:
        return False
    from django.apps import apps

    return bool(apps.ready and apps.is_installed(installed))


__all__ = ["SHARED", "cluster_of", "has_django"]
