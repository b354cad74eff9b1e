"""The app that a command is about, and what may be wrong with it; code of the app's own runs here."""

import os
import sys
import traceback
from typing import Any, Optional

import click

from ._beat_options import problems_of


def load_app(name: str, app_name: Optional[str] = None) -> Any:
    """The app, as `celery -A` takes it.

    Args:
        name: what -A says.
        app_name: what tells its jobs from those of other apps; None: as it is configured.

    Raises:
        click.UsageError: there is none.
    """
    from celery.app.utils import find_app

    sys.path.insert(0, os.getcwd())
    try:
        app = find_app(name)
        # Celery takes what is called `app`, and in a Flask project that is another one.
        if hasattr(app, "conf"):
            # Where the project has Django, this sets it up; its configuration is code of its own as well.
            app.loader.import_default_modules()
            app.conf.get("chronarch_app")
    except Exception as error:
        raise click.UsageError(f"-A {name}: {told(error)}") from None
    if not hasattr(app, "conf"):
        raise click.UsageError(f"-A {name}: {type(app).__name__} is no Celery app; name it, as in module:celery_app")
    if app_name is not None:
        app.conf.chronarch_app = app_name
    return app


def check_settings(app: Any) -> None:
    """Whether what the app says of its jobs makes sense.

    Raises:
        click.UsageError: what does not.
    """
    problems = problems_of(app)
    if problems:
        raise click.UsageError("the app's configuration makes no sense:\n" + "\n".join(problems))


def told(error: BaseException) -> str:
    """An error of the app's own code, with the line of it where it was raised."""
    text = f"{type(error).__name__}: {error}"
    here = os.path.join(os.getcwd(), "")
    frames = traceback.extract_tb(error.__traceback__)
    mine = [one for one in frames if one.filename.startswith(here) and "site-packages" not in one.filename]
    return f"{text} ({mine[-1].filename[len(here) :]}, line {mine[-1].lineno})" if mine else text
