"""What the generated dataclasses have in common."""

import dataclasses
import enum
from typing import Any, Dict, Type, TypeVar

W = TypeVar("W", bound="Word")


class Word(str, enum.Enum):
    """A word of a closed list. Equal to its text: `run.state == "succeeded"`."""

    def __str__(self) -> str:
        return str(self.value)

    def __format__(self, form: str) -> str:
        return format(str(self.value), form)

    @classmethod
    def unrecognized(cls: Type[W], number: int) -> W:
        """Stands for a value of a later release: a word like no other, such as `unrecognized_9`."""
        text = f"unrecognized_{number}"
        known: Dict[str, W] = cls._value2member_map_  # type: ignore[assignment]
        if text not in known:
            word = str.__new__(cls, text)
            word._name_, word._value_ = text.upper(), text
            known[text] = word
        return known[text]


@dataclasses.dataclass
class Model:
    """A message of the API."""

    def to_dict(self) -> Dict[str, Any]:
        """The message as a job file and `-o json` write it: without unset fields."""
        from ._convert import to_dict

        return to_dict(self)
