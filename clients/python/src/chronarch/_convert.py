"""Between Python values and messages in their wire form, by the descriptors.

What a caller hands in is checked for its form alone (names, types, words), all of it at once, each problem with the
path of its field as in a job file; what it means is the server's answer. Mappings and dataclasses may be mixed at any
depth, and the short forms of job files hold: `catch_up: latest`, `overlap: skip`, `after: [load]`, one value where a
list is meant.
"""

import dataclasses
import datetime
import difflib
from typing import Any, Dict, List, Mapping, Sequence

from . import _text, models
from ._model import Model, Word
from ._schema import message_class
from .errors import InvalidArgument, Problem

# Problems that one refusal lists; of further ones only the number is told.
PROBLEMS_MAX = 100
_EPOCH = datetime.datetime(1970, 1, 1, tzinfo=datetime.timezone.utc)
_MICROSECOND = datetime.timedelta(microseconds=1)
# Seconds that a Duration may hold: 10,000 years, as its documentation says.
_SPAN_MAX = 315_576_000_000
# The field that one word, or a list of names, stands for.
_SHORT = {"CatchUp": "runs", "Overlap": "policy", "After": "jobs"}
_TIMESTAMP, _DURATION = "google.protobuf.Timestamp", "google.protobuf.Duration"


class _Wrong(Exception):
    """A value has not the form of its field."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


class _Problems:
    def __init__(self) -> None:
        self.found: List[Problem] = []
        self.omitted = 0

    def add(self, path: str, reason: str, hint: "str | None" = None) -> None:
        if len(self.found) < PROBLEMS_MAX:
            self.found.append(Problem(path, reason, hint))
        else:
            self.omitted += 1


def to_message(name: str, fields: Mapping[str, Any]) -> Any:
    """The message `name` with these fields.

    Raises:
        InvalidArgument: some of them have not the form that they need.
    """
    problems = _Problems()
    message = message_class(name)()
    _fill(message, fields, "", problems)
    if problems.found:
        raise InvalidArgument(problems.found, problems.omitted)
    return message


def _fill(message: Any, fields: Mapping[str, Any], path: str, problems: _Problems) -> None:
    known = message.DESCRIPTOR.fields_by_name
    for key, value in fields.items():
        name = key[:-1] if isinstance(key, str) and key.endswith("_") and key[:-1] in known else key
        place = f"{path}.{name}" if path else str(name)
        if name not in known:
            near = difflib.get_close_matches(str(name), known, 1)
            problems.add(place, "unknown field", f"did you mean `{near[0]}`?" if near else None)
        elif value is not None:
            _set(message, known[name], value, place, problems)


def _set(message: Any, field: Any, value: Any, path: str, problems: _Problems) -> None:
    if _is_map(field):
        _set_map(message, field, value, path, problems)
        return
    if _is_repeated(field):
        # One value stands for a list of one, as in a job file.
        items = value if isinstance(value, Sequence) and not isinstance(value, (str, bytes)) else [value]
        target = getattr(message, field.name)
        for at, item in enumerate(items):
            place = f"{path}[{at}]" if len(items) > 1 or items is value else path
            if field.message_type is not None:
                _read_message(target.add(), item, place, problems)
            else:
                _guarded(lambda item=item: target.append(_scalar(field, item)), place, problems)
    elif field.message_type is not None:
        part = getattr(message, field.name)
        part.SetInParent()
        _read_message(part, value, path, problems)
    else:
        _guarded(lambda: setattr(message, field.name, _scalar(field, value)), path, problems)


def _guarded(act: Any, path: str, problems: _Problems) -> None:
    try:
        act()
    except _Wrong as wrong:
        problems.add(path, wrong.reason)
    except (TypeError, ValueError) as error:
        # What the protobuf runtime alone knows: ranges of numbers, text that is no UTF-8.
        problems.add(path, str(error))


def _set_map(message: Any, field: Any, value: Any, path: str, problems: _Problems) -> None:
    if not isinstance(value, Mapping):
        problems.add(path, f"expected a mapping, found {_found(value)}")
        return
    target = getattr(message, field.name)
    kinds = field.message_type.fields_by_name
    for key, item in value.items():

        def put(key: Any = key, item: Any = item) -> None:
            target[_scalar(kinds["key"], key)] = _scalar(kinds["value"], item)

        _guarded(put, f"{path}.{key}", problems)


def _read_message(message: Any, value: Any, path: str, problems: _Problems) -> None:
    descriptor = message.DESCRIPTOR
    if descriptor.full_name == _TIMESTAMP:
        _guarded(lambda: _read_instant(message, value), path, problems)
    elif descriptor.full_name == _DURATION:
        _guarded(lambda: _read_span(message, value), path, problems)
    elif isinstance(value, Model):
        if type(value).__name__ != descriptor.name:
            problems.add(path, f"expected {descriptor.name}, found {type(value).__name__}")
        else:
            _fill(message, _set_fields(value), path, problems)
    elif isinstance(value, Mapping):
        _fill(message, value, path, problems)
    elif descriptor.name in _SHORT and isinstance(value, (str, list, tuple)):
        _fill(message, {_SHORT[descriptor.name]: value}, path, problems)
    else:
        problems.add(path, f"expected a mapping or {descriptor.name}, found {_found(value)}")


def _set_fields(model: Model) -> Dict[str, Any]:
    """What a dataclass says; what is at its default is not said."""
    said = {}
    for field in dataclasses.fields(model):
        value = getattr(model, field.name)
        unset = field.default if field.default_factory is dataclasses.MISSING else field.default_factory()
        if value is not None and value != unset:
            said[field.name] = value
    return said


def _scalar(field: Any, value: Any) -> Any:
    if field.enum_type is not None:
        return _number(field.enum_type, value)
    expected = {"string": str, "bytes": bytes, "bool": bool, "double": float, "int": int}[_kind(field)]
    if expected is float and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    if not isinstance(value, expected) or (expected is int and isinstance(value, bool)):
        names = {str: "text", bytes: "bytes", bool: "true or false", float: "a number", int: "a whole number"}
        raise _Wrong(f"expected {names[expected]}, found {_found(value)}")
    return str(value) if expected is str else value


def _kind(field: Any) -> str:
    if field.type == field.TYPE_STRING:
        return "string"
    if field.type == field.TYPE_BYTES:
        return "bytes"
    if field.type == field.TYPE_BOOL:
        return "bool"
    return "double" if field.type in (field.TYPE_DOUBLE, field.TYPE_FLOAT) else "int"


def _number(enum_type: Any, value: Any) -> int:
    words = {str(word): number for number, word in _words(enum_type).items()}
    if not isinstance(value, str) or str(value) not in words:
        choices = ", ".join(f"`{word}`" for word in words if word)
        raise _Wrong(f"expected one of {choices}, found {_found(value)}")
    return int(words[str(value)])


def _words(enum_type: Any) -> Dict[int, Word]:
    known: Any = getattr(models, enum_type.name)
    # Both are in the order of the protocol file.
    return dict(zip((value.number for value in enum_type.values), known))


def _read_instant(message: Any, value: Any) -> None:
    if isinstance(value, str):
        value = _text.parse_instant(value)
    if not isinstance(value, datetime.datetime):
        raise _Wrong(f"expected a datetime or an RFC 3339 instant, found {_found(value)}")
    if value.tzinfo is None:
        raise _Wrong("the datetime has no time zone: which instant it is cannot be told")
    micros = (value - _EPOCH) // _MICROSECOND
    message.seconds, message.nanos = micros // 1_000_000, micros % 1_000_000 * 1_000


def _read_span(message: Any, value: Any) -> None:
    if isinstance(value, str):
        value = _text.parse_span(value)
    if not isinstance(value, datetime.timedelta):
        if isinstance(value, (int, float)) and not isinstance(value, bool):
            raise _Wrong(f'a duration needs a unit, such as "{value}s", or is a timedelta')
        raise _Wrong(f"expected a timedelta or text such as 90s, found {_found(value)}")
    if value < datetime.timedelta():
        raise _Wrong("a duration cannot be negative")
    micros = value // _MICROSECOND
    if micros // 1_000_000 > _SPAN_MAX:
        raise _Wrong("a duration cannot be longer than 10,000 years")
    message.seconds, message.nanos = micros // 1_000_000, micros % 1_000_000 * 1_000


def _found(value: Any) -> str:
    if isinstance(value, str):
        return f"`{value[:60]}`"
    if isinstance(value, Mapping):
        return "a mapping"
    return f"{type(value).__name__} {repr(value)[:60]}"


def _is_map(field: Any) -> bool:
    return field.message_type is not None and bool(field.message_type.GetOptions().map_entry)


def _is_repeated(field: Any) -> bool:
    # `is_repeated` is of protobuf 6, where `label` warns.
    repeated = getattr(field, "is_repeated", None)
    return bool(field.label == field.LABEL_REPEATED if repeated is None else repeated)


# From the wire.


def from_message(message: Any) -> Any:
    """The dataclass of a message; a datetime or timedelta of those two."""
    descriptor = message.DESCRIPTOR
    if descriptor.full_name == _TIMESTAMP:
        return instant(message)
    if descriptor.full_name == _DURATION:
        return span(message)
    fields = {}
    for field in descriptor.fields:
        if _is_map(field):
            value: Any = dict(getattr(message, field.name))
        elif _is_repeated(field):
            value = [_value(field, item) for item in getattr(message, field.name)]
        elif field.has_presence and not message.HasField(field.name):
            continue
        else:
            value = _value(field, getattr(message, field.name))
        fields[field.name if field.name in _names(descriptor.name) else f"{field.name}_"] = value
    return getattr(models, descriptor.name)(**fields)


_NAMES: Dict[str, "frozenset[str]"] = {}


def _names(model: str) -> "frozenset[str]":
    if model not in _NAMES:
        _NAMES[model] = frozenset(field.name for field in dataclasses.fields(getattr(models, model)))
    return _NAMES[model]


def _value(field: Any, value: Any) -> Any:
    if field.enum_type is not None:
        word = _words(field.enum_type).get(value)
        return getattr(models, field.enum_type.name).unrecognized(value) if word is None else word
    return value if field.message_type is None else from_message(value)


def instant(message: Any) -> datetime.datetime:
    """The instant of a Timestamp, in UTC; what Python cannot name becomes the nearest that it can."""
    try:
        return _EPOCH + datetime.timedelta(seconds=message.seconds, microseconds=message.nanos // 1_000)
    except OverflowError:
        edge = datetime.datetime.max if message.seconds > 0 else datetime.datetime.min
        return edge.replace(tzinfo=datetime.timezone.utc)


def span(message: Any) -> datetime.timedelta:
    """The span of a Duration."""
    try:
        return datetime.timedelta(seconds=message.seconds, microseconds=message.nanos // 1_000)
    except OverflowError:
        return datetime.timedelta.max


def to_dict(model: Model) -> Dict[str, Any]:
    """See `Model.to_dict`."""
    return {(key[:-1] if key.endswith("_") else key): _plain(value) for key, value in _set_fields(model).items()}


def _plain(value: Any) -> Any:
    if isinstance(value, Model):
        return to_dict(value)
    if isinstance(value, list):
        return [_plain(item) for item in value]
    if isinstance(value, datetime.datetime):
        return _text.format_instant(value)
    if isinstance(value, datetime.timedelta):
        return _text.format_span(value)
    return str(value) if isinstance(value, Word) else value
