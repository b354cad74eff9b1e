"""Claims in a SQL database: one row a run, through any driver of the DB-API (PEP 249), or through Django.

Only what all databases have: an UPDATE that names what it expects, an INSERT against the primary key, and the count of
rows. Two that claim at once are told apart by the database: one changes the row, or inserts it, and the other does not.
"""

import contextlib
import re
import time
from typing import Any, Callable, Iterator, List, Tuple

from ._store import KEEP_DEFAULT, Duplicate, Verdict, check

# Rounds in which another one claimed between two statements; a larger fence each, so that there are few.
_ROUNDS_MAX = 100


class SqlStore:
    """Claims in a table of a SQL database; `create_table` makes it.

    Args:
        connect: makes a connection, or takes one from a pool; it is closed (handed back) after each use.
        paramstyle: of the driver: `sqlite3.paramstyle`, `psycopg.paramstyle`, …
        table: its name.
    """

    def __init__(self, connect: Callable[[], Any], paramstyle: str, table: str = "chronarch_guard") -> None:
        if not re.fullmatch(r"[A-Za-z_][A-Za-z0-9_]*(\.[A-Za-z_][A-Za-z0-9_]*)?", table):
            raise ValueError(f"table: {table!r} is no name of a table")
        if paramstyle not in ("qmark", "format", "pyformat", "numeric", "named"):
            raise ValueError(f"paramstyle: {paramstyle!r} is none of PEP 249")
        self._connect, self._paramstyle, self._table = connect, paramstyle, table

    def create_table(self) -> None:
        """Makes the table, unless it is there."""
        with self._transaction() as cursor:
            cursor.execute(
                f"CREATE TABLE IF NOT EXISTS {self._table} (run_id VARCHAR(191) NOT NULL PRIMARY KEY, "
                "fence BIGINT NOT NULL, state VARCHAR(16) NOT NULL, claimed_at DOUBLE PRECISION NOT NULL)"
            )

    def forget(self, keep: float = KEEP_DEFAULT) -> int:
        """Removes runs whose last claim is more than `keep` seconds ago, and says how many; to be called at times."""
        with self._transaction() as cursor:
            return self._execute(cursor, f"DELETE FROM {self._table} WHERE claimed_at < ?", [time.time() - keep])

    def begin(self, run_id: str, fence: int) -> Verdict:
        """See `Store.begin`."""
        for _ in range(_ROUNDS_MAX):
            with self._transaction() as cursor:
                if self._update(cursor, run_id, fence, "running"):
                    return Verdict.CLAIMED
            try:
                with self._transaction() as cursor:
                    self._insert(cursor, run_id, fence, "running")
                    return Verdict.CLAIMED
            except Exception as error:
                if not _is_integrity_error(error):
                    raise
            with self._transaction() as cursor:
                verdict = self._look(cursor, run_id, fence)
            if verdict is not Verdict.CLAIMED:
                return verdict
        raise RuntimeError(f"{self._table}: run {run_id} is claimed again and again")

    def end(self, run_id: str, fence: int, done: bool) -> None:
        """See `Store.end`."""
        with self._transaction() as cursor:
            text = f"UPDATE {self._table} SET state = ? WHERE run_id = ? AND fence = ?"
            self._execute(cursor, text, ["done" if done else "failed", run_id, fence])

    def claim_in(self, connection: Any, run_id: str, fence: int) -> None:
        """Claims the run, and marks it as done, within the caller's own transaction: committed with the effect, or not
        at all. So the effect happens exactly once. Until then another one that claims the run waits for the database.

        Raises:
            Duplicate: the run is done, or its claim is a newer one's. The transaction is to be rolled back.
            ValueError: `run_id` or `fence` names no attempt.
        """
        check(run_id, fence)
        cursor = connection.cursor()
        try:
            verdict = self._look(cursor, run_id, fence)
            if verdict is Verdict.CLAIMED and not self._update(cursor, run_id, fence, "done"):
                try:
                    self._insert(cursor, run_id, fence, "done")
                except Exception as error:
                    if not _is_integrity_error(error):
                        raise
                    verdict = Verdict.DELIVERED_TWICE
        finally:
            cursor.close()
        if verdict is not Verdict.CLAIMED:
            raise Duplicate(run_id, fence, verdict)

    # Statements.

    def _update(self, cursor: Any, run_id: str, fence: int, state: str) -> bool:
        text = (
            f"UPDATE {self._table} SET fence = ?, state = ?, claimed_at = ? "
            "WHERE run_id = ? AND fence < ? AND state <> 'done'"
        )
        return self._execute(cursor, text, [fence, state, time.time(), run_id, fence]) == 1

    def _insert(self, cursor: Any, run_id: str, fence: int, state: str) -> None:
        text = f"INSERT INTO {self._table} (run_id, fence, state, claimed_at) VALUES (?, ?, ?, ?)"
        self._execute(cursor, text, [run_id, fence, state, time.time()])

    def _look(self, cursor: Any, run_id: str, fence: int) -> Verdict:
        self._execute(cursor, f"SELECT fence, state FROM {self._table} WHERE run_id = ?", [run_id])
        row = cursor.fetchone()
        if row is None:
            return Verdict.CLAIMED
        if row[1] == "done":
            return Verdict.DONE
        if row[0] == fence:
            return Verdict.DELIVERED_TWICE
        return Verdict.SUPERSEDED if row[0] > fence else Verdict.CLAIMED

    def _execute(self, cursor: Any, text: str, values: List[Any]) -> int:
        """Executes a statement that is written with `?`, and returns the count of rows."""
        parts = text.split("?")
        marks, given = _marks(self._paramstyle, values)
        cursor.execute("".join(part + mark for part, mark in zip(parts, [*marks, ""])), given)
        return int(cursor.rowcount)

    @contextlib.contextmanager
    def _transaction(self) -> Iterator[Any]:
        connection = self._connect()
        try:
            cursor = connection.cursor()
            try:
                yield cursor
            finally:
                cursor.close()
            connection.commit()
        except BaseException:
            connection.rollback()
            raise
        finally:
            connection.close()


class DjangoStore(SqlStore):
    """Claims in a database of a Django project, through Django's own connection. Within `transaction.atomic` a claim is
    rolled back with it.

    Args:
        using: the database's alias in `DATABASES`.
        table: the table's name.
    """

    def __init__(self, using: str = "default", table: str = "chronarch_guard") -> None:
        super().__init__(lambda: None, "format", table)
        self._using = using

    @contextlib.contextmanager
    def _transaction(self) -> Iterator[Any]:
        from django.db import connections, transaction

        with transaction.atomic(using=self._using), connections[self._using].cursor() as cursor:
            yield cursor


def _marks(paramstyle: str, values: List[Any]) -> Tuple[List[str], Any]:
    """How a driver wants its parameters, in the text and beside it."""
    if paramstyle == "named":
        names = [f"p{at}" for at in range(len(values))]
        return [f":{name}" for name in names], dict(zip(names, values))
    marks = {"qmark": "?", "format": "%s", "pyformat": "%s"}
    if paramstyle == "numeric":
        return [f":{at + 1}" for at in range(len(values))], values
    return [marks[paramstyle]] * len(values), values


def _is_integrity_error(error: Exception) -> bool:
    """Whether the primary key refused it. Each driver has a class of this name of its own, as PEP 249 wants."""
    return any(kind.__name__ == "IntegrityError" for kind in type(error).__mro__)
