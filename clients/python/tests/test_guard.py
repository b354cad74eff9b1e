"""Guards over each store: Redis, SQL, Django."""

import shutil
import sqlite3
import subprocess
import threading
from contextlib import closing
from pathlib import Path
from typing import Any, Callable, Iterator, List

import django_shop
import pytest
from cluster import eventually

from chronarch.guard import DjangoStore, Duplicate, Guard, RedisStore, SqlStore, Verdict, named_by
from chronarch.guard._sql import _marks
from chronarch.worker import Request, _task


@pytest.fixture(scope="module")
def redis_client(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    import redis

    server = shutil.which("redis-server")
    assert server, "redis-server is not installed"
    folder = tmp_path_factory.mktemp("redis")
    # A socket in a folder of its own: no port that something else may have.
    command = [server, "--port", "0", "--unixsocket", str(folder / "socket"), "--save", "", "--dir", str(folder)]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
    try:
        client = redis.Redis(unix_socket_path=str(folder / "socket"))

        def answers() -> bool:
            try:
                return bool(client.ping())
            except redis.ConnectionError:
                return False

        eventually("redis to answer", answers)
        yield client
        client.close()
    finally:
        process.kill()
        process.wait()


@pytest.fixture(scope="module")
def django_database() -> str:
    # The same project as in the other tests, for a process has one.
    return django_shop.set_up()


@pytest.fixture(params=["redis", "sql", "django"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Any:
    """A store without a claim."""
    if request.param == "redis":
        client = request.getfixturevalue("redis_client")
        client.flushall()
        return RedisStore(client)
    if request.param == "sql":
        made = SqlStore(lambda: sqlite3.connect(tmp_path / "db", timeout=20), sqlite3.paramstyle)
    else:
        made = DjangoStore(request.getfixturevalue("django_database"), f"guard_{abs(hash(tmp_path))}")
    made.create_table()
    made.create_table()
    return made


def test_each_attempt_begins_once(store: Any) -> None:
    assert store.begin("r", 5) is Verdict.CLAIMED
    assert store.begin("r", 5) is Verdict.DELIVERED_TWICE
    assert store.begin("r", 4) is Verdict.SUPERSEDED
    assert store.begin("other", 5) is Verdict.CLAIMED


def test_a_newer_attempt_takes_over_whatever_became_of_the_older_one(store: Any) -> None:
    store.begin("r", 5)
    assert store.begin("r", 9) is Verdict.CLAIMED
    store.end("r", 5, done=True)
    assert store.begin("r", 10) is Verdict.CLAIMED, "what the older one says later counts for nothing"
    store.end("r", 10, done=False)
    assert store.begin("r", 10) is Verdict.DELIVERED_TWICE
    assert store.begin("r", 11) is Verdict.CLAIMED


def test_a_run_that_is_done_does_not_run_again(store: Any) -> None:
    store.begin("r", 5)
    store.end("r", 5, done=True)
    assert {store.begin("r", fence) for fence in (4, 5, 6)} == {Verdict.DONE}


def test_of_many_that_claim_at_once_one_begins(store: Any) -> None:
    for fence in range(1, 6):
        verdicts: List[Verdict] = []
        together = threading.Barrier(8)

        def claim(fence: int = fence, verdicts: List[Verdict] = verdicts, together: Any = together) -> None:
            together.wait()
            verdicts.append(store.begin("r", fence))
            if isinstance(store, DjangoStore):
                from django.db import connections

                connections.close_all()

        threads = [threading.Thread(target=claim) for _ in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert sorted(verdict.value for verdict in verdicts) == ["claimed"] + ["delivered_twice"] * 7


def test_a_body_that_raises_leaves_the_run_to_the_next_attempt(store: Any) -> None:
    guard = Guard(store)
    with pytest.raises(ZeroDivisionError), guard.claim("r", 1):
        raise ZeroDivisionError
    with pytest.raises(Duplicate) as again, guard.claim("r", 1):
        pass
    assert again.value.verdict is Verdict.DELIVERED_TWICE
    with guard.claim("r", 2):
        pass
    with pytest.raises(Duplicate, match="run r, fence 3: the run is done"), guard.claim("r", 3):
        pass


def test_a_guarded_task_runs_once_in_a_run(store: Any) -> None:
    ran: List[int] = []

    @Guard(store).once
    def charge(amount: int) -> int:
        ran.append(amount)
        return amount

    def within(attempt: int, fence: int, call: Callable[[], Any]) -> Any:
        token = _task._current.set(Request("r", fence, attempt, "default", "job", "charge"))
        try:
            return call()
        finally:
            _task._current.reset(token)

    assert within(1, 7, lambda: charge(3)) == 3
    assert within(2, 8, lambda: charge(3)) is None
    assert ran == [3]
    with pytest.raises(RuntimeError, match="outside of one"):
        charge(3)


def test_a_claim_within_a_transaction_is_one_with_its_effect(tmp_path: Path) -> None:
    def connect() -> sqlite3.Connection:
        return sqlite3.connect(tmp_path / "db", timeout=20)

    store = SqlStore(connect, sqlite3.paramstyle)
    store.create_table()
    with closing(connect()) as connection:
        connection.execute("CREATE TABLE charged (amount INT)")

        def charge(fence: int) -> None:
            store.claim_in(connection, "r", fence)
            connection.execute("INSERT INTO charged VALUES (3)")

        charge(1)
        connection.rollback()
        charge(1)
        connection.commit()
        for fence in (1, 2):
            with pytest.raises(Duplicate):
                charge(fence)
            connection.rollback()
        assert connection.execute("SELECT count(*) FROM charged").fetchone() == (1,)
    assert store.begin("r", 9) is Verdict.DONE


@pytest.mark.parametrize("style", ["qmark", "named"])
def test_each_paramstyle_says_the_same(tmp_path: Path, style: str) -> None:
    store = SqlStore(lambda: sqlite3.connect(tmp_path / "db"), style)
    store.create_table()
    assert [store.begin("r", 5), store.begin("r", 5)] == [Verdict.CLAIMED, Verdict.DELIVERED_TWICE]


def test_parameters_are_handed_over_as_the_driver_wants_them() -> None:
    assert _marks("numeric", ["a", "b"]) == ([":1", ":2"], ["a", "b"])
    assert _marks("pyformat", ["a", "b"]) == (["%s", "%s"], ["a", "b"])
    with pytest.raises(ValueError, match="paramstyle"):
        SqlStore(lambda: None, "dollar")
    with pytest.raises(ValueError, match="no name of a table"):
        SqlStore(lambda: None, "qmark", "guard; DROP TABLE x")


def test_old_claims_are_forgotten(store: Any) -> None:
    if isinstance(store, RedisStore):
        store._client.flushall()
        short = RedisStore(store._client, keep=0.05)
        short.begin("r", 5)
        eventually("the claim to be forgotten", lambda: short.begin("r", 5) is Verdict.CLAIMED)
        return
    store.begin("r", 5)
    assert store.forget(keep=60) == 0
    assert store.forget(keep=-1) == 1
    assert store.begin("r", 5) is Verdict.CLAIMED


def test_an_attempt_is_named_by_its_headers() -> None:
    assert named_by({"Chronarch-Run-Id": b"r", "chronarch_fence": "12"}) == ("r", 12)
    for headers, missing in (({"chronarch-fence": "1"}, "run-id"), ({"chronarch-run-id": "r"}, "fence")):
        with pytest.raises(ValueError, match=missing):
            named_by(headers)
    with pytest.raises(ValueError, match="is no number: '-1'"):
        named_by({"chronarch-run-id": "r", "chronarch-fence": "-1"})
    with pytest.raises(ValueError, match="fence"), Guard(None).claim("r", 0):  # type: ignore[arg-type]
        pass
