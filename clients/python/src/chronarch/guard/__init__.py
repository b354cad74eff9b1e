"""Lets an attempt that is delivered twice run once, and a run whose effect is done not do it again.

Brokers deliver at least once, and a worker whose report was lost is ordered to try again: whoever carries out the work
has to recognise what it did. The cluster names each attempt by its run (`chronarch-run-id`) and its fence
(`chronarch-fence`, an integer that only grows); a guard writes both into a store that all workers share, atomically:

- a fence that has claimed the run is refused a second time: that is a second delivery of the same message;
- a smaller one is refused: the cluster has given that attempt up;
- a larger one takes the run over, whatever became of the older attempt, unless
- the run is done: then no attempt of it runs again.

So a claim has no time limit, and a worker that dies within one blocks nothing: the cluster starts another attempt,
whose fence is larger. What it does not do is make an effect and its mark one: a process that dies after the effect
and before the mark repeats it in the next attempt. Where the effect is in a SQL database, `SqlStore.claim_in` does:
claim and effect are one transaction.

    guard = Guard(RedisStore(redis.Redis()))

    def handle(message):
        with guard.claim(*named_by(message.headers)):
            charge(message.body)
"""

import functools
from contextlib import contextmanager
from typing import Any, Callable, Iterator, Mapping, Optional, Tuple, TypeVar, Union, cast

from ._redis import RedisStore
from ._sql import DjangoStore, SqlStore
from ._store import KEEP_DEFAULT, Duplicate, Store, Verdict, check

F = TypeVar("F", bound=Callable[..., Any])


class Guard:
    """Claims runs in a store: `RedisStore`, `SqlStore`, `DjangoStore`, or anything with its two methods."""

    def __init__(self, store: Store) -> None:
        self.store = store

    @contextmanager
    def claim(self, run_id: str, fence: int) -> Iterator[None]:
        """Runs its body if this attempt may begin; the run is done when the body returns, and not when it raises.

        Raises:
            Duplicate: it may not.
            ValueError: `run_id` or `fence` names no attempt.
        """
        check(run_id, fence)
        verdict = self.store.begin(run_id, fence)
        if verdict is not Verdict.CLAIMED:
            raise Duplicate(run_id, fence, verdict)
        done = False
        try:
            yield
            done = True
        finally:
            self.store.end(run_id, fence, done)

    def once(self, function: F) -> F:
        """Guards a function that a `chronarch.worker` calls: called in a run that is done it returns None without
        having run.

        Raises, when it is called:
            RuntimeError: it is not called within an attempt.
            Duplicate: another attempt of the run has begun.
        """

        @functools.wraps(function)
        def guarded(*args: Any, **kwargs: Any) -> Any:
            from ..worker import current

            request = current()
            if request is None:
                raise RuntimeError("it is guarded by its run, and is called outside of one")
            try:
                with self.claim(request.run_id, request.fence):
                    return function(*args, **kwargs)
            except Duplicate as duplicate:
                if duplicate.verdict is Verdict.DONE and duplicate.run_id == request.run_id:
                    return None
                raise

        return cast(F, guarded)


def named_by(headers: Mapping[str, Union[str, bytes]]) -> Tuple[str, int]:
    """The run id and the fence in the headers of a message or request, whatever the case of their names.

    Raises:
        ValueError: one of them is missing or has not its form.
    """
    found = {str(name).lower().replace("_", "-"): value for name, value in headers.items()}

    def text(name: str) -> str:
        value: Optional[Union[str, bytes]] = found.get(name)
        if value is None:
            raise ValueError(f"headers: there is no `{name}`")
        return value.decode() if isinstance(value, bytes) else str(value)

    fence = text("chronarch-fence")
    if not fence.isdigit():
        raise ValueError(f"headers: `chronarch-fence` is no number: {fence[:40]!r}")
    return text("chronarch-run-id"), int(fence)


__all__ = [
    "KEEP_DEFAULT",
    "DjangoStore",
    "Duplicate",
    "Guard",
    "RedisStore",
    "SqlStore",
    "Store",
    "Verdict",
    "named_by",
]
