"""A Django project with Celery and django-celery-beat, as their documentation has it."""

import os
import tempfile
from pathlib import Path

_FOLDER = tempfile.TemporaryDirectory(prefix="chronarch-django-")


def set_up() -> str:
    """Sets Django up for this process, with a database of its own, and returns the name of the database."""
    import django
    from django.conf import settings

    if not settings.configured:
        os.environ["SHOP_DATABASE"] = str(Path(_FOLDER.name) / "db.sqlite3")
        from . import settings as given

        # Not by the environment, for other tests start processes that have nothing to do with it.
        settings.configure(**{name: getattr(given, name) for name in dir(given) if name.isupper()})
        django.setup()
        from django.core.management import call_command

        call_command("migrate", verbosity=0)
    return "default"
