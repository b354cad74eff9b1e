"""The application."""

from django.apps import AppConfig, apps
from django.core import checks
from django.utils.translation import gettext_lazy as _

# As django_celery_beat calls itself.
BEAT = "django_celery_beat"


class ChronarchConfig(AppConfig):  # type: ignore[misc]
    """Connects signals and checks."""

    name = "chronarch.django"
    label = "chronarch"
    verbose_name = _("Chronarch")

    def ready(self) -> None:
        """See `AppConfig.ready`."""
        from . import _checks

        checks.register(_checks.check_settings, "chronarch")
        checks.register(_checks.check_schedulers, "chronarch")
        checks.register(_checks.check_cluster, "chronarch", deploy=True)
        if apps.is_installed(BEAT):
            from . import _push

            _push.connect()
