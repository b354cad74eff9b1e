"""What `celery beat -S chronarch` is told: by the app's configuration, by Django's settings, by the environment."""

import difflib
from dataclasses import dataclass
from types import ModuleType
from typing import Any, Callable, Dict, List, Mapping, Optional, Tuple

from .._options import Misconfigured, Options
from . import _job_settings
from ._identity import LABEL_CHARS_MAX, legal_name
from ._where import SHARED, cluster_of, has_django
from .entries import BEAT_SCHEDULE, DJANGO, REDBEAT, SOURCES

PREFIX = "chronarch_"
# Seconds from one comparison with the cluster to the next, where nothing is known to have changed.
SYNC_EVERY_DEFAULT = 60.0
# Seconds from one look into the result backend to the next, for ends of tasks of which nobody told.
RECONCILE_EVERY_DEFAULT = 60.0


@dataclass(frozen=True)
class BeatOptions:
    """Checked options."""

    cluster: Options
    sources: Tuple[str, ...]
    """Where entries are taken from, of `entries.SOURCES`."""
    sync_every: float = SYNC_EVERY_DEFAULT
    """Seconds."""
    prune: bool = True
    """Whether jobs are removed whose entries are gone."""
    write_back: bool = True
    """Whether django-celery-beat's rows are told when they last ran, and how often."""
    reconcile_every: float = RECONCILE_EVERY_DEFAULT
    """Seconds from one look into the result backend to the next; 0: never."""
    give_up_after: Optional[float] = None
    """Seconds without an answer of the cluster after which beat ends; None: never."""


def of_app(app: Any, environ: Optional[Mapping[str, str]] = None) -> BeatOptions:
    """The options of an app: how it reaches the cluster as `cluster_of` says, the others as `app.conf` does.

    Raises:
        Misconfigured: some make no sense, or are none; the message has each with its name.
    """
    problems: List[str] = []
    cluster = Options()
    try:
        cluster = cluster_of(app, environ=environ)
    except Misconfigured as error:
        problems += error.problems
    own, wrong = _own(app)
    problems += wrong
    if problems:
        raise Misconfigured(problems)
    sources = own.pop("from", None) or _found_sources(app)
    return BeatOptions(cluster, sources, **own)


def problems_of(app: Any) -> List[str]:
    """What is wrong with what the app itself is told, each beginning with the name of the option; how the cluster is
    reached is left out, for commands are told that otherwise."""
    return _own(app)[1]


def _own(app: Any) -> Tuple[Dict[str, Any], List[str]]:
    """What the app alone says, as `BeatOptions` has it, and what is wrong with all that it says."""
    own: Dict[str, Any] = {}
    problems: List[str] = []
    for name, reader in {**_READERS, **_OF_OTHERS}.items():
        value = app.conf.get(PREFIX + name)
        if value is not None:
            try:
                own[name] = reader(value)
            except ValueError as error:
                problems.append(f"{PREFIX}{name}: {error}")
    problems += _job_settings.problems(app)
    known = [PREFIX + name for name in (*map(str.lower, SHARED), *_READERS, *_OF_OTHERS)]
    known += [_job_settings.DEFAULTS, _job_settings.JOBS]
    for given in _names(app):
        if given not in known:
            near = difflib.get_close_matches(given, known, 1)
            hint = f"did you mean {near[0]}?" if near else f"known are {', '.join(sorted(known))}"
            problems.append(f"{given}: unknown setting; {hint}")
    return {name: value for name, value in own.items() if name in _READERS}, problems


def _names(app: Any) -> List[str]:
    """The settings of the app that are meant for this, as Celery knows them. Without a namespace all of Django's are
    the app's too: there only lower case, which Celery's own have, is surely meant for this."""
    namespace = str(app.conf.prefix or "")
    found: Dict[str, None] = {}
    for mapping in app.conf.maps:
        for key in mapping:
            name = str(key)
            if namespace and name.lower().startswith(namespace.lower()):
                name = name[len(namespace) :].lower()
            # What a module of settings imports and defines is no setting.
            if name.startswith(PREFIX) and not callable(value := mapping[key]) and not isinstance(value, ModuleType):
                found[name] = None
    return list(found)


def _found_sources(app: Any) -> Tuple[str, ...]:
    """Beat's own schedule, and the tables of django-celery-beat where they are installed. RedBeat's keys are taken when
    they are named: that it is configured does not say that its entries are still wanted."""
    return (BEAT_SCHEDULE, DJANGO) if has_django("django_celery_beat") else (BEAT_SCHEDULE,)


def _sources(value: Any) -> Tuple[str, ...]:
    names = value.split(",") if isinstance(value, str) else value
    if not isinstance(names, (list, tuple)) or not names:
        raise ValueError(f"expected some of {', '.join(SOURCES)}, found {value!r}")
    stripped = [str(name).strip() for name in names]
    unknown = [name for name in stripped if name not in SOURCES]
    if unknown:
        raise ValueError(f"{', '.join(unknown)}: expected some of {', '.join(SOURCES)}")
    return tuple(dict.fromkeys(stripped))


def _seconds(value: Any) -> float:
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 < value < float("inf"):
        raise ValueError(f"expected seconds above 0, found {value!r}")
    return float(value)


def _seconds_or_never(value: Any) -> float:
    if value == 0 and not isinstance(value, bool):
        return 0.0
    try:
        return _seconds(value)
    except ValueError:
        raise ValueError(f"expected seconds above 0, or 0 for never, found {value!r}") from None


def _flag(value: Any) -> bool:
    if not isinstance(value, bool):
        raise ValueError(f"expected True or False, found {value!r}")
    return value


def _app(value: Any) -> str:
    if not isinstance(value, str) or legal_name(value)[:LABEL_CHARS_MAX] != value:
        raise ValueError(f"expected a name of a-z, 0-9, `.`, `_`, `-`, {LABEL_CHARS_MAX} at most, found {value!r}")
    return value


_READERS: Dict[str, Callable[[Any], Any]] = {
    "from": _sources,
    "sync_every": _seconds,
    "prune": _flag,
    "write_back": _flag,
    "reconcile_every": _seconds_or_never,
    "give_up_after": _seconds,
}
# What is read where it is needed.
_OF_OTHERS: Dict[str, Callable[[Any], Any]] = {"allow_pickle": _flag, "app": _app}

__all__ = ["BEAT_SCHEDULE", "DJANGO", "REDBEAT", "BeatOptions", "of_app", "problems_of"]
