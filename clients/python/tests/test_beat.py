"""`celery beat -S chronarch`: real beats, a real worker, a real Redis, real nodes."""

import contextlib
import dataclasses
import datetime
import json
import os
import shutil
import signal
import subprocess
import sys
import time
import uuid
from pathlib import Path
from typing import Any, Dict, Iterator, List, Optional

import django_shop
import pytest
from cluster import Cluster, binary, eventually, free_ports

from chronarch import Client, models
from chronarch.celery import _once
from chronarch.celery._once import Once
from chronarch.celery._reconcile import Reconciler
from chronarch.celery.entries import Entry

HERE = Path(__file__).parent
# The connection of the cluster's worker; other tests have other ones.
BROKER = "beats"
PYTHON_ONLY = {"managed-by": "chronarch-beat"}


@pytest.fixture(scope="module")
def broker(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The URL of a Redis."""
    import redis

    server = shutil.which("redis-server")
    assert server, "redis-server is not installed"
    folder = tmp_path_factory.mktemp("redis")
    (port,) = free_ports(1)
    process = subprocess.Popen(
        [server, "--port", str(port), "--bind", "127.0.0.1", "--save", "", "--dir", str(folder)],
        stdout=subprocess.DEVNULL,
    )
    try:
        client = redis.Redis(port=port)

        def answers() -> bool:
            try:
                return bool(client.ping())
            except redis.ConnectionError:
                return False

        eventually("redis to answer", answers)
        yield f"redis://127.0.0.1:{port}/0"
    finally:
        process.kill()
        process.wait()


@pytest.fixture(scope="module")
def sends(nodes: Cluster, broker: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """A worker of the cluster that sends to the Redis."""
    folder = tmp_path_factory.mktemp("worker")
    (folder / "connections.toml").write_text(f'[connections.{BROKER}]\nurl = "{broker}"\n')
    command = [binary(), "worker", "--queue", "default", "--connections", str(folder / "connections.toml")]
    command += ["--data-dir", str(folder / "data"), "--endpoints", ",".join(nodes.endpoints)]
    with (folder / "log").open("ab") as log:
        process = subprocess.Popen(command, stdout=log, stderr=log)
    try:
        with Client(nodes.endpoints) as client:
            kind = f"celery:{BROKER}"
            eventually("the worker", lambda: any(kind in one.kinds for one in client.list_workers().workers))
        yield
    finally:
        process.kill()
        process.wait()


class Shop:
    """Processes of the app, in a namespace of its own."""

    def __init__(self, nodes: Cluster, client: Client, broker: str, folder: Path) -> None:
        self.namespace = f"beat-{uuid.uuid4().hex[:8]}"
        self.client, self.folder = client, folder
        self.marks = folder / "marks"
        self.marks.mkdir()
        self._processes: List[subprocess.Popen[bytes]] = []
        self.environment = {
            **os.environ,
            "MARKS": str(self.marks),
            "SHOP_BROKER": broker,
            "SHOP_NAMESPACE": self.namespace,
            "CHRONARCH_ENDPOINTS": ",".join(nodes.endpoints),
            "CHRONARCH_NAMESPACE": self.namespace,
            "CHRONARCH_BROKER": BROKER,
        }

    def start(
        self, name: str, *arguments: str, app: str = "beat_shop", **environment: str
    ) -> "subprocess.Popen[bytes]":
        """`celery -A app …`; what it says goes to a file."""
        command = [sys.executable, "-m", "celery", "-A", app, *arguments]
        with (self.folder / f"{name}.log").open("ab") as log:
            process = subprocess.Popen(
                command, env={**self.environment, **environment}, cwd=HERE, stdout=log, stderr=log
            )
        self._processes.append(process)
        return process

    def worker(self) -> None:
        """A Celery worker, whose tasks leave marks."""
        self.start("worker", "worker", "-P", "solo", "--without-gossip", "--without-mingle", "-Q", "celery")

    def beat(
        self, schedule: Dict[str, Any], name: str = "beat", conf: Optional[Dict[str, Any]] = None, **environment: str
    ) -> "subprocess.Popen[bytes]":
        """A beat with a schedule."""
        given = {"SHOP_SCHEDULE": json.dumps(schedule), "SHOP_CONF": json.dumps(conf or {})}
        arguments = ("beat", "-S", "chronarch", "-l", "INFO", "--pidfile", str(self.folder / f"{name}.pid"))
        return self.start(name, *arguments, **given, **environment)

    def said(self, text: str, name: str = "beat") -> bool:
        """Whether a process has said it."""
        path = self.folder / f"{name}.log"
        return path.exists() and text in path.read_text()

    def runs(self, name: str) -> List[str]:
        """The lines that the task left for an entry."""
        path = self.marks / name
        return path.read_text().splitlines() if path.exists() else []

    def ran(self, name: str, times: int) -> None:
        """Waits until an entry has run so often."""
        eventually(f"{times} runs of {name}; see {self.folder}", lambda: len(self.runs(name)) >= times)

    def jobs(self, **labels: str) -> List[models.JobSpec]:
        """The definitions in the cluster."""
        found = self.client.iter_jobs(namespace=self.namespace, labels=labels)
        return [job.spec for job in found if job.spec is not None]

    def names(self) -> List[str]:
        """Of the jobs that entries have."""
        return [spec.name for spec in self.jobs(**{"managed-by": "chronarch-celery"})]

    def stop(self) -> None:
        """Ends all, and removes the jobs, which would go on."""
        for process in self._processes:
            process.kill()
        for process in self._processes:
            process.wait()
        for spec in self.jobs():
            with contextlib.suppress(LookupError):
                self.client.delete_job(spec.name, namespace=self.namespace)


@pytest.fixture
def shop(nodes: Cluster, client: Client, broker: str, tmp_path: Path) -> Iterator[Shop]:
    """Nothing started yet."""
    import redis

    redis.Redis.from_url(broker).flushall()
    shop = Shop(nodes, client, broker, tmp_path)
    yield shop
    shop.stop()


def test_what_two_beats_hand_over_runs_once_and_goes_on_without_them(shop: Shop, sends: None) -> None:
    shop.worker()
    schedule = {"plain": 1, "moon": "moon", "lazy": "lazy"}
    beats = [shop.beat(schedule, name) for name in ("first", "second")]
    for name in schedule:
        shop.ran(name, 3)
    # In the middle of whatever they are at.
    beats[0].send_signal(signal.SIGKILL)
    for name in schedule:
        shop.ran(name, len(shop.runs(name)) + 3)
    beats[1].send_signal(signal.SIGKILL)
    for beat in beats:
        beat.wait()
    shop.ran("plain", len(shop.runs("plain")) + 3)
    due = [line.split()[0] for line in shop.runs("plain")]
    assert len(set(due)) == len(due), "an occurrence was sent twice"
    instants = sorted(datetime.datetime.fromisoformat(text.replace("Z", "+00:00")) for text in due)
    gaps = {(then - before).total_seconds() for before, then in zip(instants, instants[1:])}
    assert gaps == {1.0}, "an occurrence is missing"
    for name in ("moon", "lazy"):
        lines = shop.runs(name)
        assert len({line.split()[1] for line in lines}) == len(lines)
        # Each occurrence is one job, which ran once, and they follow one another by a second and not less.
        once = [spec for spec in shop.jobs(**PYTHON_ONLY) if spec.labels["celery-entry"] == name]
        sent = [shop.client.list_runs(namespace=shop.namespace, job=spec.name).runs for spec in once]
        assert max(len(runs) for runs in sent) == 1
        assert sum(len(runs) for runs in sent) >= len(lines)
        since = sorted(spec.labels["celery-due"] for spec in once)
        starts = [datetime.datetime.fromisoformat(text.replace("Z", "+00:00")) for text in since]
        assert min((then - before).total_seconds() for before, then in zip(starts, starts[1:])) >= 0.99
        assert all(spec.name.startswith(f"{name}-after-") for spec in once)


def test_a_changed_schedule_arrives_and_what_is_gone_is_removed(shop: Shop) -> None:
    other = {"name": "other", "namespace": shop.namespace, "target": {"queue": {"payload": "{}"}}}
    shop.client.apply_jobs([other])
    beat = shop.beat({"a": 1000, "b": 1000, "now-plain": "lazy", "x": "impossible", "y": "malformed"})
    eventually("the jobs", lambda: shop.names() == ["a", "b"])
    eventually("the lazy one", lambda: shop.jobs(**PYTHON_ONLY))
    eventually("what cannot be carried to be named", lambda: shop.said("x is not sent by the cluster: args: "))
    assert shop.said("y is not sent by the cluster: schedule: expected seconds, a timedelta, ")
    beat.terminate()
    assert beat.wait(30) == 0
    assert shop.names() == ["a", "b"], "without a beat the cluster goes on"
    shop.beat({"b": 2000, "c": 1000, "now-plain": 3000})
    eventually("the new schedule", lambda: shop.names() == ["b", "c", "now-plain"])
    (changed,) = [spec for spec in shop.jobs() if spec.name == "b"]
    assert changed.schedule[0].every == datetime.timedelta(seconds=2000)
    assert "other" in [spec.name for spec in shop.jobs()], "what somebody else made stays"
    due = [
        spec for spec in shop.jobs(**PYTHON_ONLY) if shop.client.get_job(spec.name, namespace=shop.namespace).next_at
    ]
    assert due == []


def test_jobs_that_wait_to_be_adopted_wait_on_and_new_ones_with_them(shop: Shop) -> None:
    given = {"SHOP_SCHEDULE": json.dumps({"a": 1000})}
    command = [sys.executable, "-m", "chronarch.celery.cli", "sync", "-A", "beat_shop"]
    subprocess.run(command, env={**shop.environment, **given}, cwd=HERE, check=True, capture_output=True)
    shop.beat({"a": 1000, "b": 1000})
    eventually("the new job", lambda: shop.names() == ["a", "b"])
    eventually("the word", lambda: shop.said("jobs are held and send nothing"))
    found = [shop.client.get_job(name, namespace=shop.namespace).pause for name in ("a", "b")]
    assert [pause is not None and pause.reason for pause in found] == ["chronarch-celery: held until adopt"] * 2


def test_a_beat_outlives_a_cluster_that_is_down(shop: Shop, cluster: Cluster) -> None:
    beat = shop.beat({"a": 1000}, conf={"chronarch_sync_every": 0.5, "chronarch_timeout": 2})
    eventually("the job", lambda: shop.names() == ["a"])
    for node in list(cluster.addresses):
        cluster.kill(node)
    eventually("the beat to notice", lambda: shop.said("next try in"))
    assert beat.poll() is None
    cluster.restore()
    eventually("the beat to find it again", lambda: shop.said("the cluster answers again"))
    beat.terminate()
    assert beat.wait(30) == 0


def test_a_beat_that_nobody_answers_gives_up_when_it_is_told_to(shop: Shop) -> None:
    nowhere = f"127.0.0.1:{free_ports(1)[0]}"
    conf = {"chronarch_give_up_after": 1, "chronarch_endpoints": [nowhere], "chronarch_timeout": 1}
    assert shop.beat({"a": 1000}, conf=conf).wait(60) == 1
    assert shop.said("no endpoint answered")


def test_options_that_make_no_sense_end_a_beat_at_once(shop: Shop) -> None:
    conf = {"chronarch_endpoints": "here", "chronarch_sync_every": -1, "chronarch_from": "cron"}
    assert shop.beat({"a": 1000}, conf=conf).wait(60) == 1
    for text in ("chronarch_endpoints: `here` is not HOST:PORT", "chronarch_sync_every: ", "chronarch_from: cron: "):
        assert shop.said(text), text
    assert not shop.said("Traceback"), "what is wrong is the last that it says"
    # Quiet, it asks for the scheduler elsewhere.
    given = {"SHOP_CONF": json.dumps({"chronarch_endpoint": "127.0.0.1:7401"})}
    assert shop.start("quiet", "-q", "beat", "-S", "chronarch", "--pidfile=", **given).wait(60) == 1
    assert shop.said("chronarch_endpoint: unknown setting; did you mean chronarch_endpoints?", "quiet")
    assert not shop.said("Traceback", "quiet")


def test_rows_that_are_edited_arrive_and_are_told_when_they_ran(shop: Shop, sends: None) -> None:
    django_shop.set_up()
    from django_celery_beat.models import IntervalSchedule, PeriodicTask, PeriodicTasks

    from chronarch.django import _push

    environment = {"DJANGO_SETTINGS_MODULE": "django_shop.settings", "CELERY_SYNC_EVERY": "1", "SHOP_STATIC": "static"}
    environment["SHOP_DATABASE"] = os.environ["SHOP_DATABASE"]
    with _push.muted():
        schedule = IntervalSchedule.objects.create(every=1, period="seconds")
        row = PeriodicTask.objects.create(name="a", task="shop.mark", interval=schedule, args='["a"]')
        try:
            shop.start("worker", "worker", "-P", "solo", "-Q", "celery", app="django_shop", **environment)
            shop.start("beat", "beat", "-S", "chronarch", "-l", "INFO", app="django_shop", **environment)
            shop.ran("a", 2)

            def told() -> bool:
                row.refresh_from_db()
                return row.total_run_count >= 2 and row.last_run_at is not None

            eventually("the row to be told", told)
            assert "static" in shop.names(), "beat_schedule is in the tables"
            assert PeriodicTask.objects.get(name="static").expire_seconds == 60
            # Without signals, as the admin's actions change rows.
            PeriodicTask.objects.filter(pk=row.pk).update(args='["b"]')
            PeriodicTasks.update_changed()
            shop.ran("b", 1)
            PeriodicTask.objects.filter(pk=row.pk).update(enabled=False)
            eventually("the job to be paused", lambda: shop.client.get_job("a", namespace=shop.namespace).pause)
            PeriodicTask.objects.filter(pk=row.pk)._raw_delete("default")
            eventually("the job to be removed", lambda: "a" not in shop.names())
        finally:
            shop.stop()
            PeriodicTask.objects.all().delete()
            IntervalSchedule.objects.all().delete()


def test_ends_that_cannot_be_looked_up_are_told_as_such_and_hold_nothing_up(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    from celery import Celery

    from chronarch import errors
    from chronarch.celery import ends, scheduler

    reasons = [
        errors.Unreachable([]),
        errors.PermissionDenied("not you"),
        OSError("the backend is away"),
    ]
    unjudged = ends.Found(unjudged=[("run-1", "task-1", "it cannot be read")])

    def reconcile(*_: Any) -> ends.Found:
        if reasons:
            raise reasons.pop(0)
        return unjudged

    monkeypatch.setattr(ends, "reconcile", reconcile)
    app = Celery("shop", broker="memory://", backend="cache+memory://", set_as_current=False)
    app.conf.update(chronarch_reconcile_every=0.000001, chronarch_sync_every=1000)
    beat = scheduler.Scheduler(app)
    monkeypatch.setattr(Reconciler, "run", lambda _: None)
    monkeypatch.setattr(Reconciler, "advance", lambda _: 1000.0)
    monkeypatch.setattr(Reconciler, "client", None)
    for _ in range(5):
        beat.tick()
    told = [record.getMessage() for record in caplog.records]
    assert len([text for text in told if "the ends of tasks were not reconciled" in text]) == 2, told
    assert [text for text in told if "the result backend cannot be read: OSError" in text]
    assert not [text for text in told if "was not compared with the cluster" in text]
    assert len([text for text in told if "how task task-1 of run run-1 ended cannot be told" in text]) == 1


def test_celery_finds_the_scheduler_by_its_name() -> None:
    from celery import Celery
    from celery.beat import Service

    from chronarch.celery.scheduler import Scheduler

    found = Service(Celery("x", broker="memory://"), scheduler_cls="chronarch").get_scheduler(lazy=True)
    assert isinstance(found, Scheduler)
    assert "cluster -> " in found.info


class _Due(Once):
    """What only Python can evaluate, of one entry that is due each second; the app sends nothing."""

    def __init__(self, client: Client, namespace: str) -> None:
        from celery import Celery
        from celery.schedules import schedule

        super().__init__(Celery("once"), broker="nobody", namespace=namespace)
        self.client = client
        entry = Entry("e", "e", "t", schedule(1.0), "beat_schedule", only_python=True, problem="-")
        # So it is due at once.
        since = datetime.datetime.now(datetime.timezone.utc) - datetime.timedelta(seconds=10)
        self.wanted = {"e": dataclasses.replace(entry, last_run_at=since)}

    def begun(self) -> None:
        """Notes since when the entry is there, and no more."""
        self._begin(self.client, "e", self.read()._states["e"])

    def read(self) -> "_Due":
        """As each comparison does."""
        self.refresh(self.client, self.wanted)
        return self


def _occurrences(client: Client, namespace: str) -> Dict[str, int]:
    """The jobs, each with how often it ran."""
    runs = [run.job for run in client.iter_runs(namespace=namespace)]
    return {job.spec.name: runs.count(job.spec.name) for job in client.iter_jobs(namespace=namespace) if job.spec}


@pytest.fixture
def namespace(client: Client) -> Iterator[str]:
    """One of its own."""
    name = f"once-{uuid.uuid4().hex[:8]}"
    yield name
    for job in list(client.iter_jobs(namespace=name)):
        if job.spec is not None:
            client.delete_job(job.spec.name, namespace=name, cancel_runs=True)


def test_what_only_python_can_evaluate_is_not_sent_while_the_app_is_held(client: Client, namespace: str) -> None:
    from celery import Celery
    from celery.beat import BeatLazyFunc

    from chronarch.celery._beat_options import of_app

    app = Celery("held", broker="memory://", set_as_current=False)
    lazy = {"task": "t", "schedule": 1.0, "args": [BeatLazyFunc(os.getpid)]}
    app.conf.update(result_expires=None, beat_schedule={"plain": {"task": "t", "schedule": 10_000.0}, "lazy": lazy})
    beat = Reconciler(app, of_app(app, {"CHRONARCH_NAMESPACE": namespace}), client)

    def occurrences() -> List[str]:
        found = client.iter_jobs(namespace=namespace, labels=PYTHON_ONLY)
        return [job.spec.name for job in found if job.spec and "first" not in job.spec.name]

    def looked() -> bool:
        beat.run()
        beat.advance()
        return bool(occurrences())

    eventually("an occurrence", looked)
    beat.hold()
    beat.run()
    before = occurrences()
    time.sleep(1.5)
    assert beat.advance() > 1
    assert occurrences() == before, "the other beat sends it"
    beat._holds = False
    beat.release([])
    eventually("another one", lambda: looked() and len(occurrences()) > len(before))


def test_a_beat_that_missed_what_another_one_did_makes_no_second_occurrence(
    client: Client, namespace: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    _Due(client, namespace).begun()
    first, second = (_Due(client, namespace).read() for _ in range(2))
    first.advance(client)
    eventually("the run", lambda: sum(_occurrences(client, namespace).values()))
    find, missed = Once._find, [True]

    def looked_before(self: Once, client: Client, name: str) -> Optional[models.Job]:
        # The other one had not made it yet, when this one looked.
        return None if missed and missed.pop() else find(self, client, name)

    monkeypatch.setattr(Once, "_find", looked_before)
    second.advance(client)
    (made,) = [job for job in client.iter_jobs(namespace=namespace) if job.spec and "first" not in job.spec.name]
    assert not missed
    assert made.version == 1, "it was changed, and would run again"
    assert made.next_at is None
    assert first._states["e"].last == second._states["e"].last


def test_an_occurrence_that_came_too_late_is_made_again_and_runs_once(
    client: Client, namespace: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    beat = _Due(client, namespace).read()
    armed, leads = _once._armed, [-5.0]
    monkeypatch.setattr(_once, "_armed", lambda job, lead: armed(job, leads.pop() if leads else lead))

    def ran() -> bool:
        beat.advance(client)
        return any(times for name, times in _occurrences(client, namespace).items() if name.endswith("-2"))

    eventually("the run", ran)
    found = _occurrences(client, namespace)
    (second,) = [name for name in found if name.endswith("-2")]
    assert (found[second[:-2]], found[second]) == (0, 1)


def test_a_beat_that_was_stopped_for_long_reads_before_it_adds(client: Client, namespace: str) -> None:
    beat = _Due(client, namespace)
    beat.begun()
    beat.read()._read_at -= _once.STALE
    assert beat.is_stale()
    beat.advance(client)
    assert len(_occurrences(client, namespace)) == 1
    beat.read().advance(client)
    assert len(_occurrences(client, namespace)) == 2


def test_old_occurrences_are_removed_and_the_newest_is_kept(
    client: Client, namespace: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    beat = _Due(client, namespace).read()

    def three() -> bool:
        beat.advance(client)
        return len(_occurrences(client, namespace)) >= 3

    eventually("some occurrences", three)
    assert len(_occurrences(beat.read().client, namespace)) >= 3, "a late beat could make them anew"
    newest = max(name for name in _occurrences(client, namespace) if "first" not in name)
    monkeypatch.setattr(_once, "KEPT", datetime.timedelta(0))
    beat.read()
    assert list(_occurrences(client, namespace)) == [newest]
    beat.wanted = {}
    beat.read()
    assert _occurrences(client, namespace) == {}


def test_an_entry_that_fails_holds_up_no_other_one(client: Client, namespace: str) -> None:
    from celery.beat import BeatLazyFunc

    beat = _Due(client, namespace)
    good = beat.wanted["e"]

    def fails() -> None:
        raise RuntimeError("no")

    beat.wanted = {
        "a": dataclasses.replace(good, name="a", args=[BeatLazyFunc(fails)]),
        "b": dataclasses.replace(good, name="b", args=[BeatLazyFunc(object)]),
        "c": dataclasses.replace(good, name="c", args=["x" * 70_000]),
        "e": good,
    }
    beat.read()

    def ran() -> bool:
        beat.advance(client)
        return any(name.startswith("e-after-2") for name in _occurrences(client, namespace))

    eventually("the good one", ran)
    assert not any(name.startswith(("a-after-2", "b-after-2")) for name in _occurrences(client, namespace))
