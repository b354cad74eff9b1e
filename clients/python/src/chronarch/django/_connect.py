"""The settings, and one client a process."""

import dataclasses
import os
import threading
from typing import Any, Optional

from django.conf import settings
from django.core.signals import setting_changed

from .._options import Layer, Misconfigured, Options, in_django, read
from ..client import Client

SETTING = "CHRONARCH"
ACTOR = "django"


class _Held:
    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.client: Optional[Client] = None
        self.hasty: Optional[Client] = None


_held = _Held()


def options() -> Options:
    """What the settings say.

    Raises:
        Misconfigured: they make no sense.
    """
    given = getattr(settings, SETTING, {})
    if not isinstance(given, dict):
        raise Misconfigured([f"{SETTING}: expected a dict, found {given!r}"])
    return read([Layer(given, in_django)])


def client() -> Client:
    """See `chronarch.django.client`."""
    held = _held
    with held.lock:
        if held.client is None:
            held.client = options().client(ACTOR)
        return held.client


def hasty_client(timeout: float) -> Client:
    """One whose calls take so many seconds at most: for what somebody waits for."""
    held = _held
    with held.lock:
        if held.hasty is None:
            mine = options()
            held.hasty = dataclasses.replace(mine, timeout=min(timeout, mine.timeout)).client(ACTOR)
        return held.hasty


def _forget() -> None:
    # The lock as well: another thread of the parent may hold it for ever in the child. The parent's connections stay
    # its own; they are not closed here.
    global _held
    _held = _Held()


def _changed(*, setting: str, **_: Any) -> None:
    if setting == SETTING:
        old = (_held.client, _held.hasty)
        _forget()
        for client in old:
            if client is not None:
                client.close()


os.register_at_fork(after_in_child=_forget)
setting_changed.connect(_changed)
