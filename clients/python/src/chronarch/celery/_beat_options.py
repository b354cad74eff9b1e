"""What `celery beat -S chronarch` is told: by the app's configuration, by Django's settings, by the environment."""

from dataclasses import dataclass
from typing import Any, Callable, Dict, List, Mapping, Optional, Tuple

from .._options import Misconfigured, Options
from ._where import cluster_of, has_django
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
        Misconfigured: some make no sense; the message has each with its name.
    """
    problems: List[str] = []
    cluster = Options()
    try:
        cluster = cluster_of(app, environ=environ)
    except Misconfigured as error:
        problems += error.problems
    own: Dict[str, Any] = {}
    for name, reader in _READERS.items():
        value = app.conf.get(PREFIX + name)
        if value is not None:
            try:
                own[name] = reader(value)
            except ValueError as error:
                problems.append(f"{PREFIX}{name}: {error}")
    if problems:
        raise Misconfigured(problems)
    sources = own.pop("from", None) or _found_sources(app)
    return BeatOptions(cluster, sources, **own)


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
    return 0.0 if value == 0 and not isinstance(value, bool) else _seconds(value)


def _flag(value: Any) -> bool:
    if not isinstance(value, bool):
        raise ValueError(f"expected True or False, found {value!r}")
    return value


_READERS: Dict[str, Callable[[Any], Any]] = {
    "from": _sources,
    "sync_every": _seconds,
    "prune": _flag,
    "write_back": _flag,
    "reconcile_every": _seconds_or_never,
    "give_up_after": _seconds,
}

__all__ = ["BEAT_SCHEDULE", "DJANGO", "REDBEAT", "BeatOptions", "of_app"]
