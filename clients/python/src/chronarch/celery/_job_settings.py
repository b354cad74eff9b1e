"""What an app says of its jobs beside its entries: `chronarch_job_defaults` for all of them, `chronarch_jobs` by entry.

    app.conf.chronarch_job_defaults = {"timeout": "1h", "target": {"celery": {"lost_after": "5m"}}}
    app.conf.chronarch_jobs = {"nightly": {"breaker": {"consecutive_failures": 3}, "retry": {"max_attempts": 5}}}

Keys and values are those of a job file. A key takes the place of what would stand there otherwise, as a whole; those of
`target.celery` each by itself. None says as much as nothing, so that an entry can do without a default. What an entry
says itself is not said here. Names, types and words are looked at here, so that a problem has the name of the setting;
what a value means is the cluster's to judge.
"""

import difflib
import weakref
from typing import Any, Dict, List, Mapping, NamedTuple, Sequence, Tuple

from .. import _convert
from ..errors import InvalidArgument
from ._schedules import CannotCarry

DEFAULTS, JOBS = "chronarch_job_defaults", "chronarch_jobs"
KEYS = (
    *("breaker", "timeout", "retry", "start_within", "catch_up", "overlap", "on_lost", "retention", "priority"),
    *("limits", "target"),
)
TARGET_KEYS = ("lost_after", "capture_result", "wait_for_completion", "on_ambiguous")
_OF_ENTRIES = {
    *("name", "namespace", "description", "labels", "schedule", "params", "queue", "task", "args", "kwargs", "options"),
    *("enabled",),
}
_OF_ENTRIES_TARGET = {
    *("broker", "task", "args", "kwargs", "queue", "exchange", "routing_key", "headers", "priority", "expires"),
    *("expires_at", "time_limit", "soft_time_limit", "ignore_result", "shadow", "reply_to", "transient", "template"),
    "template_ids",
}
# Where a key of a job was said; what is said further to the right counts.
_DERIVED, _OF_DEFAULTS, _OF_ENTRY = range(3)


class _Said(NamedTuple):
    """One of the dicts, looked at."""

    job: Dict[str, Any]
    target: Dict[str, Any]
    problems: Tuple[str, ...]


_NOTHING = _Said({}, {}, ())


class _Settings:
    """Both settings of an app, each dict of them looked at once."""

    def __init__(self, defaults: Any, jobs: Any) -> None:
        self.given = (defaults, jobs)
        self.defaults = _read(DEFAULTS, defaults)
        self.problems = list(self.defaults.problems)
        if jobs is not None and not isinstance(jobs, Mapping):
            self.problems.append(f"{JOBS}: expected a dict of entry names, found {type(jobs).__name__}")
        self.jobs: Mapping[str, Any] = jobs if isinstance(jobs, Mapping) else {}
        self._read: Dict[str, _Said] = {}

    def of_entry(self, name: str) -> _Said:
        """What is said of one entry."""
        if name not in self.jobs:
            return _NOTHING
        if name not in self._read:
            self._read[name] = _read(f'{JOBS}["{name}"]', self.jobs[name])
        return self._read[name]


_read_of: "weakref.WeakKeyDictionary[Any, _Settings]" = weakref.WeakKeyDictionary()


def _of(app: Any) -> _Settings:
    given = (app.conf.get(DEFAULTS), app.conf.get(JOBS))
    known = _read_of.get(app)
    if known is None or any(one is not other for one, other in zip(known.given, given)):
        known = _read_of[app] = _Settings(*given)
    return known


def problems(app: Any) -> List[str]:
    """What is wrong with them for all entries, each beginning with the name of the setting."""
    return list(_of(app).problems)


def strangers(app: Any, names: Sequence[str]) -> Dict[str, str]:
    """Names in `chronarch_jobs` that no entry has, with what is to be said of each.

    Args:
        app: the app.
        names: those of all entries.
    """
    known = set(names)
    found = {}
    for name in _of(app).jobs:
        if name not in known:
            near = difflib.get_close_matches(str(name), names, 1)
            hint = f'; did you mean "{near[0]}"?' if near else ""
            found[str(name)] = f"{JOBS} names it, and there is no such entry{hint}"
    return found


def lay_over(app: Any, name: str, job: Dict[str, Any], notes: List[str]) -> None:
    """Puts into the job of an entry what the settings say.

    Raises:
        CannotCarry: they make no sense.
    """
    settings = _of(app)
    own = settings.of_entry(name)
    wrong = [*settings.problems, *own.problems]
    if wrong:
        raise CannotCarry(" / ".join(wrong), f"correct {DEFAULTS if settings.problems else JOBS}")
    target = job["target"]["celery"]
    level: Dict[str, int] = dict.fromkeys(target, _DERIVED)
    for number, said in ((_OF_DEFAULTS, settings.defaults), (_OF_ENTRY, own)):
        job.update(_left(said.job, own.job))
        for key, value in _left(said.target, own.target).items():
            if key == "lost_after" and number == _OF_DEFAULTS and key in target:
                # The broker delivers such a task again; told lost as well, it would run twice.
                continue
            target[key], level[key] = value, number
    _fit(target, level, notes)


def _left(said: Mapping[str, Any], own: Mapping[str, Any]) -> Dict[str, Any]:
    """What is said, without what the entry does without."""
    return {key: value for key, value in said.items() if value is not None and own.get(key, value) is not None}


def _fit(target: Dict[str, Any], level: Mapping[str, int], notes: List[str]) -> None:
    """Leaves out what was said of many jobs and does not go with what is said of this one."""
    unfit = []
    if target.get("wait_for_completion") is False:
        unfit = [key for key in ("lost_after", "capture_result") if level.get(key, 9) < level["wait_for_completion"]]
    if "template" in target and level.get("capture_result") == _OF_DEFAULTS:
        unfit.append("capture_result")
        notes.append(f"{DEFAULTS}.target.celery.capture_result: left out; its message is one that the app has built")
    for key in unfit:
        target.pop(key, None)


def _read(place: str, given: Any) -> _Said:
    if given is None:
        return _NOTHING
    if not isinstance(given, Mapping):
        return _Said({}, {}, (f"{place}: expected a dict of keys of a job, found {type(given).__name__}",))
    found: List[str] = []
    job = _taken(place, given, KEYS, _OF_ENTRIES, found)
    target: Dict[str, Any] = {}
    kinds = job.pop("target", None)
    if kinds is not None and not (isinstance(kinds, Mapping) and set(kinds) <= {"celery"}):
        found.append(f'{place}.target: expected {{"celery": {{…}}}}, found {kinds!r:.60}')
    elif kinds and kinds["celery"] is not None:
        if isinstance(kinds["celery"], Mapping):
            target = _taken(f"{place}.target.celery", kinds["celery"], TARGET_KEYS, _OF_ENTRIES_TARGET, found)
        else:
            found.append(f"{place}.target.celery: expected a dict, found {type(kinds['celery']).__name__}")
    try:
        _convert.to_message("JobSpec", {**job, "target": {"celery": target}})
    except InvalidArgument as error:
        hints = [f"; {problem.hint}" if problem.hint else "" for problem in error.problems]
        found += [f"{place}.{one.path}: {one.reason}{hint}" for one, hint in zip(error.problems, hints)]
    return _Said(job, target, tuple(found))


def _taken(
    place: str, given: Mapping[str, Any], known: Sequence[str], of_entries: "set[str]", found: List[str]
) -> Dict[str, Any]:
    """The keys that may be said here."""
    taken = {}
    for key, value in given.items():
        if key in known:
            taken[key] = value
        elif key in of_entries:
            found.append(f"{place}.{key}: is the entry's own, and said there")
        else:
            near = difflib.get_close_matches(str(key), known, 1)
            hint = f"did you mean {near[0]}?" if near else f"known are {', '.join(known)}"
            found.append(f"{place}.{key}: unknown key; {hint}")
    return taken


__all__ = ["DEFAULTS", "JOBS", "KEYS", "TARGET_KEYS", "lay_over", "problems", "strangers"]
