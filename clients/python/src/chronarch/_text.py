"""Spans of time and instants as text, by the rules of job files."""

import datetime
import re

# The units that the command line reads, in nanoseconds; months and years as it counts them.
_SECOND = 1_000_000_000
_UNITS = {
    "ns nsec": 1,
    "us µs usec": 1_000,
    "ms msec millis": 1_000_000,
    "s sec secs second seconds": _SECOND,
    "m min mins minute minutes": 60 * _SECOND,
    "h hr hrs hour hours": 3_600 * _SECOND,
    "d day days": 86_400 * _SECOND,
    "w wk wks week weeks": 7 * 86_400 * _SECOND,
    "M month months": 2_630_016 * _SECOND,
    "y yr yrs year years": 31_557_600 * _SECOND,
}
_NANOS = {name: nanos for names, nanos in _UNITS.items() for name in names.split()}
_PART = re.compile(r"(\d+)(?:\.(\d+))?\s*([A-Za-zµ]+)\s*")
_WRITTEN = (("d", 86_400_000_000), ("h", 3_600_000_000), ("m", 60_000_000), ("s", 1_000_000), ("ms", 1_000), ("us", 1))
_INSTANT = re.compile(r"(\d{4}-\d\d-\d\d)[Tt ](\d\d:\d\d:\d\d)(?:\.(\d+))?(Z|z|[+-]\d\d:\d\d)")


def parse_span(text: str) -> datetime.timedelta:
    """Reads `90s`, `1h30m`, `1.5h`, `250ms`.

    Raises:
        ValueError: it is no span of time; a number without a unit is none, but for `0`.
    """
    bare = text.strip()
    if bare == "0":
        return datetime.timedelta()
    if re.fullmatch(r"[\d.]+", bare):
        raise ValueError(f"a duration needs a unit, such as {bare}s or {bare}m")
    nanos, at = 0, 0
    while at < len(bare):
        part = _PART.match(bare, at)
        unit = _NANOS.get(part.group(3)) if part else None
        if part is None or unit is None:
            raise ValueError(f"expected a duration such as 90s or 1h30m, found `{bare[:60]}`")
        nanos += int(part.group(1)) * unit
        if part.group(2):
            nanos += int(part.group(2)) * unit // 10 ** len(part.group(2))
        at = part.end()
    if not bare:
        raise ValueError("expected a duration such as 90s or 1h30m, found ``")
    try:
        return datetime.timedelta(microseconds=nanos // 1_000)
    except OverflowError:
        raise ValueError(f"`{bare[:60]}` is longer than any duration") from None


def format_span(span: datetime.timedelta) -> str:
    """Writes days, hours, minutes, seconds and what is finer, without spaces; `0s` for no time."""
    micros = span // datetime.timedelta(microseconds=1)
    text = "-" if micros < 0 else ""
    micros = abs(micros)
    parts = ""
    for unit, length in _WRITTEN:
        count, micros = divmod(micros, length)
        parts += f"{count}{unit}" if count else ""
    return text + (parts or "0s")


def parse_instant(text: str) -> datetime.datetime:
    """Reads RFC 3339, such as `2026-03-29T01:00:00.000Z`; what is finer than a microsecond is cut off.

    Raises:
        ValueError: it is no instant.
    """
    found = _INSTANT.fullmatch(text.strip())
    if found is None:
        raise ValueError(f"expected an RFC 3339 instant such as 2026-03-29T01:00:00.000Z, found `{text[:60]}`")
    day, time, fraction, zone = found.groups()
    zone = "+00:00" if zone in "Zz" else zone
    return datetime.datetime.fromisoformat(f"{day}T{time}.{(fraction or '0')[:6]:0<6}{zone}")


def format_instant(at: datetime.datetime) -> str:
    """Writes RFC 3339 in UTC with milliseconds."""
    at = at.astimezone(datetime.timezone.utc)
    return at.strftime("%Y-%m-%dT%H:%M:%S.") + f"{at.microsecond // 1_000:03d}Z"
