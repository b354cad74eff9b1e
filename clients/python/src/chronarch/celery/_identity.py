"""Whose jobs are whose: an app's name, and where the app is defined.

The label `celery-app` tells the jobs of one app from those of another in the same namespace. It is the app's name, and
names are not unique: an app without one is `celery`, and that of every tutorial is `tasks`. Two such apps would change
and delete each other's jobs in turn. So jobs also say which module their app is defined in, and who finds jobs of its
name that come from elsewhere touches none of them.

No app knows its module, so it is looked for among those that are loaded: the app is a global of it. Others that import
the app have it as well, and which of them are loaded differs between a beat and a web server. So each of them counts as
the app's own; the one that has `Celery` beside it, for it has made the app, is what jobs are told.
"""

import re
import sys
import types
import weakref
from typing import Any, List, Mapping, Optional, Sequence, Tuple

from ..errors import ChronarchError
from ..models import Job

APP = "celery-app"
ORIGIN = "celery-origin"
# Of a job's name and of a label's value, as the cluster has them.
NAME_CHARS_MAX = 128
LABEL_CHARS_MAX = 63
# What an app without a name is called.
NAMELESS = "celery"
_UNTOLD = ("__main__", "__mp_main__")
# Of jobs that a refusal names.
_NAMED_MAX = 3
_found: "weakref.WeakKeyDictionary[Any, Tuple[str, ...]]" = weakref.WeakKeyDictionary()


class ForeignJobs(ChronarchError):
    """The cluster has jobs under the app's name that another app has made."""


def legal_name(text: str) -> str:
    """A text as the name of a job: lower case, with `-` for all that a name cannot hold."""
    name = re.sub(r"[^a-z0-9._]+", "-", text.lower())[:NAME_CHARS_MAX].strip("-.")
    return name or "job"


def chosen_name(app: Any) -> Optional[str]:
    """What `chronarch_app` says; None: nothing."""
    given = app.conf.get("chronarch_app")
    return None if given is None else str(given)


def app_label(app: Any) -> str:
    """What tells the jobs of this app from those of another one in the same namespace."""
    return legal_name(chosen_name(app) or str(app.main or NAMELESS))[:LABEL_CHARS_MAX]


def origins(app: Any) -> Tuple[str, ...]:
    """The modules that have the app, as labels, the one that has probably made it first; none where it is a global of
    none, as what a function has made may be."""
    if app not in _found:
        ranked = sorted((_rank(module), name) for name, module in list(sys.modules.items()) if _has(name, module, app))
        if not ranked:
            return ()
        _found[app] = tuple(legal_name(name)[-LABEL_CHARS_MAX:].strip("-.") for _, name in ranked)
    return _found[app]


def _has(name: str, module: Any, app: Any) -> bool:
    if name in _UNTOLD or not isinstance(module, types.ModuleType):
        return False
    # Another thread may import meanwhile.
    return any(value is app for value in list(vars(module).values()))


def _rank(module: Any) -> int:
    import celery

    values = list(vars(module).values())
    if any(isinstance(value, type) and issubclass(value, celery.Celery) for value in values):
        return 0
    return 1 if any(value is celery for value in values) else 2


def origin_for(app: Any, present: Optional[Job]) -> Optional[str]:
    """What a job of the app says of its origin; None: nothing. One that says what is right already goes on saying it,
    whichever modules this process has."""
    mine = origins(app)
    there = "" if present is None or present.spec is None else present.spec.labels.get(ORIGIN, "")
    if there and (not mine or there in mine):
        return there
    return mine[0] if mine else None


def check(app: Any, jobs: Sequence[Job], namespace: str) -> None:
    """Whether all of these jobs of the app's name are the app's own. Those that do not say where they are from, because
    they were made when no job did, are; so are all where `chronarch_app` names the app, for then it is no coincidence.

    Raises:
        ForeignJobs: some are not.
    """
    mine = origins(app)
    if chosen_name(app) is not None or not mine:
        return
    foreign: List[Tuple[str, str]] = []
    for job in jobs:
        labels: Mapping[str, str] = {} if job.spec is None else job.spec.labels
        if job.spec is not None and labels.get(ORIGIN, mine[0]) not in mine:
            foreign.append((labels[ORIGIN], job.spec.name))
    if not foreign:
        return
    name = app_label(app)
    theirs = ", ".join(sorted({origin for origin, _ in foreign}))
    names = ", ".join(job for _, job in foreign[:_NAMED_MAX]) + (", …" if len(foreign) > _NAMED_MAX else "")
    raise ForeignJobs(
        f"in namespace {namespace} the app {name} of {theirs} has jobs ({names}), and this is the app {name} of "
        f"{mine[0]}: each would change and delete the other's",
        f'give this one another name: chronarch_app = "{mine[0]}" in its configuration, or --app-name; if both are the '
        f'same app, chronarch_app = "{name}" says so',
    )
