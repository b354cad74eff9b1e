"""Schedules of Celery as schedules of job files.

A crontab is the line that it says, with the days restricting each other (`day_rule: and`) and of wall times those that
Celery has: one that does not exist is later by the gap, one that comes twice runs once. An interval is a grid; Celery
counts it from each run as it went, so it falls back there bit by bit. What `chronarch import celery` makes of a
schedule is the same.
"""

import datetime
import math
import re
import zoneinfo
from typing import Any, Dict, List, Mapping, Optional, Sequence

from .._text import format_instant, format_span

FIELDS = ("minute", "hour", "day_of_month", "month_of_year", "day_of_week")
# As the cluster takes `every`.
EVERY_MIN = datetime.timedelta(milliseconds=100)
EVERY_MAX = datetime.timedelta(days=36_525)
_MONTHS = ("jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec")
_WEEKDAYS = ("sun", "mon", "tue", "wed", "thu", "fri", "sat")
_RANGES = {"minute": (0, 59), "hour": (0, 23), "day_of_month": (1, 31), "month_of_year": (1, 12), "day_of_week": (0, 6)}
# Names that are written as such, for they mean the same in a line.
_NAMES: Dict[str, Sequence[str]] = {"month_of_year": _MONTHS, "day_of_week": _WEEKDAYS}
_FREQUENCIES = ("YEARLY", "MONTHLY", "WEEKLY", "DAILY", "HOURLY", "MINUTELY", "SECONDLY")
_BY = ("bysetpos", "bymonth", "bymonthday", "byyearday", "byweekno", "byhour", "byminute", "bysecond")
_DAYS = ("MO", "TU", "WE", "TH", "FR", "SA", "SU")
_CLOCKED = "django_celery_beat.clockedschedule.clocked"
_EPOCH = datetime.datetime(1970, 1, 1, tzinfo=datetime.timezone.utc)
_MILLISECOND = datetime.timedelta(milliseconds=1)


class CannotCarry(Exception):
    """What an entry says cannot be said in a job."""

    def __init__(self, reason: str, way_out: str, only_python: bool = False) -> None:
        super().__init__(f"{reason}; {way_out}")
        self.only_python = only_python
        """Whether `celery beat -S chronarch` can carry it nevertheless, for it computes what only Python can."""


def crontab_line(fields: Mapping[str, Any]) -> str:
    """The five fields of a crontab as a line.

    Args:
        fields: by Celery's names; what is missing is `*`.

    Raises:
        CannotCarry: a field that Celery would refuse too, and why.
    """
    return " ".join(_field(name, fields.get(name, "*")) for name in FIELDS)


def _field(name: str, given: Any) -> str:
    # A list or a set of numbers, or its text in a table.
    text = ",".join(str(one) for one in given) if isinstance(given, (list, tuple, set, frozenset)) else str(given)
    return ",".join(_part(name, part.strip()) for part in text.strip().strip("{}[]()").split(","))


def _part(name: str, part: str) -> str:
    values, slash, step = part.partition("/")
    if slash and not (step.isascii() and step.isdigit() and int(step) > 0):
        raise _refusal(name, part, "a step of 1 at least")
    suffix = f"/{int(step)}" if slash else ""
    if values == "*":
        return f"*{suffix}"
    first, dash, last = values.partition("-")
    if dash:
        return f"{_value(name, first)}-{_value(name, last)}{suffix}"
    if suffix:
        raise _refusal(name, part, "a step behind `*` or a range")
    return _value(name, values)


def _value(name: str, text: str) -> str:
    text = text.strip()
    least, most = _RANGES[name]
    if text.isascii() and text.isdigit():
        number = int(text)
        if least <= number <= most:
            return str(number)
        hint = "; Sunday is 0" if name == "day_of_week" and number == 7 else ""
        raise _refusal(name, text, f"{least} to {most}{hint}")
    short = text[:3].lower()
    if short in _NAMES.get(name, ()):
        return short
    # Celery looks among the months first, whatever the field.
    for names, begin in ((_MONTHS, 1), (_WEEKDAYS, 0)):
        if short in names:
            number = names.index(short) + begin
            if least <= number <= most:
                return str(number)
            break
    raise _refusal(name, text, "a number, or a name of a month or weekday")


def _refusal(name: str, found: str, expected: str) -> CannotCarry:
    return CannotCarry(f'{name}: expected {expected}, found "{found[:40]}"', "Celery refuses it too: correct the entry")


def zone_name(zone: Any) -> str:
    """The IANA name of a time zone of Python's.

    Raises:
        CannotCarry: it has none.
    """
    name = getattr(zone, "key", None) or getattr(zone, "zone", None) or str(zone)
    if name in ("UTC", "Etc/UTC") or zone is datetime.timezone.utc:
        return "UTC"
    try:
        zoneinfo.ZoneInfo(name)
    except (zoneinfo.ZoneInfoNotFoundError, ValueError, OSError):
        raise CannotCarry(
            f"timezone: {name[:60]} has no IANA name, so that other machines cannot know it",
            "say it in the app: `timezone = 'Europe/Berlin'`",
        ) from None
    return str(name)


def schedule_of(schedule: Any, last_run_at: Optional[datetime.datetime], notes: List[str]) -> Dict[str, Any]:
    """A schedule of Celery, django-celery-beat or RedBeat as one of a job file, without its bounds.

    Args:
        schedule: the object; its class decides.
        last_run_at: what an interval is counted from, where that is known.
        notes: what is not quite the same is told there.

    Raises:
        CannotCarry: why it is none that can be carried.
    """
    kind = f"{type(schedule).__module__}.{type(schedule).__name__}"
    if kind in ("celery.schedules.crontab", "django_celery_beat.tzcrontab.TzAwareCrontab"):
        return _crontab(schedule, kind == "celery.schedules.crontab", notes)
    if kind == "celery.schedules.schedule":
        return _interval(schedule, last_run_at, notes)
    if kind == "celery.schedules.solar":
        return {"solar": {"event": schedule.event, "latitude": float(schedule.lat), "longitude": float(schedule.lon)}}
    if kind == _CLOCKED:
        return {"at": [format_instant(schedule.clocked_time)]}
    if kind == "redbeat.schedules.rrule":
        return _recurrence(schedule, notes)
    raise CannotCarry(
        f"schedule: {type(schedule).__name__} is a class of the app's own, and when it is due only Python knows",
        "`celery beat -S chronarch` pushes each of its instants as a job",
        only_python=True,
    )


def clocked_at(schedule: Any) -> Optional[datetime.datetime]:
    """When a clocked schedule is due, once; None: it is of another kind."""
    if f"{type(schedule).__module__}.{type(schedule).__name__}" != _CLOCKED:
        return None
    at: datetime.datetime = schedule.clocked_time
    return at


def _crontab(schedule: Any, has_zone_of_app: bool, notes: List[str]) -> Dict[str, Any]:
    if has_zone_of_app and schedule.nowfun is not None:
        raise CannotCarry(
            "schedule: a crontab with a `nowfun` has a clock of its own, which only Python knows",
            "where it stands for a time zone, use `celery beat -S chronarch`, or a job with `timezone`",
            only_python=True,
        )
    fields = {name: getattr(schedule, f"_orig_{name}") for name in FIELDS}
    made: Dict[str, Any] = {"cron": crontab_line(fields)}
    if "*" not in (str(fields["day_of_month"]).strip(), str(fields["day_of_week"]).strip()):
        made["day_rule"] = "and"
    zone = zone_name(schedule.tz)
    if zone != "UTC":
        made["timezone"] = zone
        made["dst"] = {"gap": "shift", "fold": "first"}
        if any(field.startswith("*") for field in made["cron"].split(" ")[:2]):
            notes.append("dst: in the hour that comes twice it runs in both passes, where beat pauses")
    return made


def _interval(schedule: Any, last_run_at: Optional[datetime.datetime], notes: List[str]) -> Dict[str, Any]:
    period: datetime.timedelta = schedule.run_every
    if not EVERY_MIN <= period <= EVERY_MAX:
        raise CannotCarry(
            f"schedule: every {period.total_seconds():g} s is not within 100 ms and 36,525 days",
            "give it another period",
        )
    made = {"every": format_span(period)}
    if schedule.relative:
        if period >= datetime.timedelta(days=1):
            notes.append("relative: days begin at midnight of the app's zone there, and at that of UTC here")
        return made
    if last_run_at is not None:
        offset = (last_run_at - _EPOCH) % period // _MILLISECOND * _MILLISECOND
        if offset:
            made["offset"] = format_span(offset)
    begin = "its last run" if last_run_at is not None else "the epoch"
    notes.append(f"every: counts from each run as it went there, and falls back bit by bit; here from {begin}")
    return made


def _recurrence(rule: Any, notes: List[str]) -> Dict[str, Any]:
    if rule.byeaster is not None:
        raise CannotCarry("schedule.byeaster: RFC 5545 has no Easter", "use a job with `at`", only_python=True)
    parts = [f"FREQ={_FREQUENCIES[rule.freq]}"]
    parts += [f"{name.upper()}={getattr(rule, name)}" for name in ("interval", "count") if getattr(rule, name)]
    if rule.wkst is not None:
        parts.append(f"WKST={_day(rule.wkst)}")
    for name in _BY:
        values = _listed(getattr(rule, name))
        if values:
            parts.append(f"{name.upper()}={','.join(str(value) for value in values)}")
    days = [_day(day) for day in _listed(rule.byweekday)]
    if days:
        parts.append(f"BYDAY={','.join(days)}")
    # RedBeat keeps the offset of the beginning, not its zone, so the rule goes on in that offset.
    offset = rule.dtstart.utcoffset() or datetime.timedelta()
    zone = datetime.timezone(offset)
    end = "" if offset else "Z"
    if rule.until is not None:
        parts.append(f"UNTIL={_stamp(rule.until, zone)}{end}")
    made = {"rrule": f"DTSTART:{_stamp(rule.dtstart, zone)}{end} RRULE:{';'.join(parts)}"}
    if offset:
        minutes = math.trunc(abs(offset).total_seconds() / 60)
        made["timezone"] = f"fixed:{'-' if offset < datetime.timedelta() else '+'}{minutes // 60:02}:{minutes % 60:02}"
        notes.append(
            "schedule: RedBeat keeps the offset of its rule and not the zone; wall times do not follow the summer"
        )
    return made


def _listed(value: Any) -> List[Any]:
    if value is None:
        return []
    return list(value) if isinstance(value, (list, tuple, set, frozenset)) else [value]


def _day(day: Any) -> str:
    if isinstance(day, int):
        return _DAYS[day]
    # Of dateutil: `FR(+2)` is the second one.
    found = re.fullmatch(r"([A-Z]{2})(?:\(([+-]?\d+)\))?", str(day))
    if found is None:
        raise CannotCarry(f"schedule.byweekday: {day!r} is no weekday", "use those of dateutil")
    return f"{int(found.group(2)) if found.group(2) else ''}{found.group(1)}"


def _stamp(at: datetime.datetime, zone: datetime.timezone) -> str:
    return at.astimezone(zone).strftime("%Y%m%dT%H%M%S")
