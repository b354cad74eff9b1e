"""Finding the user's tasks by the name of their module."""

import importlib
from typing import Any

from ._task import App, default_app


class CannotLoad(Exception):
    """There is no such module or no such app in it, or it has no task."""


def load(spec: str) -> App:
    """The app of `package.module:name`, or `:name.attribute`; of `package.module` alone the tasks that it makes with
    `chronarch.worker.task`.

    Raises:
        CannotLoad: the message says what is missing. What the module itself raises on import is let through.
    """
    module_name, _, name = spec.partition(":")
    try:
        module = importlib.import_module(module_name)
    except ModuleNotFoundError as error:
        if error.name is None or not f"{module_name}.".startswith(f"{error.name}."):
            raise
        raise CannotLoad(f"there is no module {error.name}; modules are looked for here and in PYTHONPATH") from error
    app = default_app
    if name:
        found: Any = module
        for part in name.split("."):
            found = getattr(found, part, None)
        if not isinstance(found, App):
            what = "nothing" if found is None else type(found).__name__
            raise CannotLoad(f"{spec}: expected an App, found {what}")
        app = found
    if not app.tasks:
        raise CannotLoad(f"{spec}: no task; functions become tasks by `@{name or 'task'}{'.task' if name else ''}`")
    return app
