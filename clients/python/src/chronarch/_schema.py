"""The descriptors of the protocol, in a pool of their own.

A pool of its own, so that an application may have stubs of the same protocol files, of whatever release, beside this
package: in the default pool they would be refused as duplicates.
"""

import enum
import importlib.resources
from dataclasses import dataclass
from typing import Any, Callable, Dict

from google.protobuf import descriptor_pb2, descriptor_pool, message_factory

PACKAGE = "chronarch.v1"


class Kind(enum.Enum):
    """What may be done about a call whose answer was lost."""

    READ = "read"
    """Nothing is in doubt: it is asked again."""
    KEYED = "keyed"
    """A write with an operation id: repeated with the same id the cluster answers with the first result."""
    HARMLESS = "harmless"
    """A write that may be repeated, for doing it twice is doing it once."""
    ONCE = "once"
    """A write that is never repeated."""


# Everything else that has no operation id is written at most once.
_READ_VERBS = ("Get", "List", "Next", "Explain", "Watch", "Read", "Export")
_HARMLESS = ("DrainWorker", "ResumeWorker")


@dataclass(frozen=True)
class Method:
    """One call."""

    path: str
    kind: Kind
    request: Any
    answer: Any

    def decode(self) -> Callable[[bytes], Any]:
        """Reads the answer from its wire form."""
        decode: Callable[[bytes], Any] = self.answer.FromString
        return decode


def _load() -> Any:
    text = importlib.resources.files(__package__).joinpath("_schema.bin").read_bytes()
    pool = descriptor_pool.DescriptorPool()
    for file in descriptor_pb2.FileDescriptorSet.FromString(text).file:
        pool.AddSerializedFile(file.SerializeToString())
    return pool


_POOL = _load()
_CLASSES: Dict[str, Any] = {}
_METHODS: Dict[str, Method] = {}


def message_class(name: str) -> Any:
    """The class of a message by its name without the package."""
    if name not in _CLASSES:
        descriptor = _POOL.FindMessageTypeByName(f"{PACKAGE}.{name}")
        _CLASSES[name] = message_factory.GetMessageClass(descriptor)
    return _CLASSES[name]


def new(name: str, /, **fields: Any) -> Any:
    """A message in its wire form."""
    return message_class(name)(**fields)


def number(enum_name: str, value: str) -> int:
    """The number of an enum's value by the name that the protocol gives it."""
    return int(_POOL.FindEnumTypeByName(f"{PACKAGE}.{enum_name}").values_by_name[value].number)


def method(service: str, name: str) -> Method:
    """A call by its names in the protocol."""
    path = f"/{PACKAGE}.{service}/{name}"
    if path not in _METHODS:
        found = _POOL.FindServiceByName(f"{PACKAGE}.{service}").methods_by_name[name]
        _METHODS[path] = Method(
            path,
            _kind(name, found.input_type),
            message_class(found.input_type.name),
            message_class(found.output_type.name),
        )
    return _METHODS[path]


def _kind(name: str, request: Any) -> Kind:
    if "operation_id" in request.fields_by_name:
        return Kind.KEYED
    if name.startswith(_READ_VERBS):
        return Kind.READ
    return Kind.HARMLESS if name in _HARMLESS else Kind.ONCE
