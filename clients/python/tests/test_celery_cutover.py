"""`chronarch-celery doctor`, `shadow` and `adopt`: with a real Redis, Celery worker and beat, and a real cluster."""

import datetime
import json
from pathlib import Path
from typing import Iterator, List

import pytest
from celery_real import Place, place
from cluster import Cluster, eventually

from chronarch import Client
from chronarch.celery import shadow

APP = """
import os
from celery import Celery
from celery.schedules import crontab
app = Celery("{module}", broker=os.environ["SHOP_BROKER"])
app.conf.update(broker_connection_retry_on_startup=True, beat_max_loop_interval=1, result_expires=None)

@app.task(name="shop.run", ignore_result=True)
def run(*args): pass

app.conf.beat_schedule = {{
    "often": {{"task": "shop.run", "schedule": 2.0, "args": ["often"]}},
    "nightly": {{"task": "shop.run", "schedule": crontab("30", "2"), "args": ["nightly"]}},
    {more}
}}
"""


@pytest.fixture
def shop(nodes: Cluster, tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[Place]:
    """A place with the app above."""
    module = f"shop_{request.node.name[5:30]}"
    with place(tmp_path, nodes, module) as made:
        made.app(APP.format(module=module, more=""))
        yield made


def test_doctor_names_what_is_wrong_and_what_is_right(shop: Place) -> None:
    told = shop.say("doctor", "--watch", "0")
    assert told.returncode == 1, told.stdout + told.stderr
    assert "ok    broker: redis://" in told.stdout
    assert "fail  cluster: none of its workers has a connection celery" in told.stdout
    assert "warn  workers: no Celery worker answers" in told.stdout
    shop.worker()
    shop.cluster_worker()
    told = shop.say("doctor", "--watch", "0")
    assert told.returncode == 0, told.stdout + told.stderr
    assert "ok    cluster: 1 of its workers have the connection celery" in told.stdout
    assert "ok    workers: 1 answer, and know the tasks" in told.stdout
    assert "ok    queues: celery: each is read by a worker" in told.stdout
    assert "ok    clock: the broker's is within" in told.stdout
    more = """
        "gone": {"task": "shop.gone", "schedule": 5},
        "weekly": {"task": "shop.run", "schedule": 604800},
        "elsewhere": {"task": "shop.run", "schedule": 60, "options": {"queue": "nobodys"}},
    """
    shop.app(APP.format(module=shop.module, more=more) + "\napp.conf.result_backend = 'redis://127.0.0.1:1/0'\n")
    told = shop.say("doctor", "--watch", "0")
    assert told.returncode == 1
    assert "fail  tasks: the app has not registered shop.gone" in told.stdout
    assert "fail  queues: no worker reads nobodys" in told.stdout
    assert "fail  results: result_backend cannot be read" in told.stdout
    assert "warn  intervals: a day or longer: weekly" in told.stdout


def test_doctor_sees_two_schedulers_at_once(shop: Place, client: Client) -> None:
    shop.worker()
    shop.cluster_worker()
    beat = shop.beat()
    assert "ok    scheduler: a beat runs: shop.run was sent at" in shop.say("doctor").stdout
    assert shop.say("sync", "--active").returncode == 0
    told = shop.say("doctor")
    assert told.returncode == 1
    assert "fail  scheduler: a beat and 2 jobs of the cluster run at once" in told.stdout
    shop.end(beat)
    eventually("a run of the cluster", lambda: list(client.iter_runs(namespace=shop.namespace, states=["succeeded"])))
    told = shop.say("doctor")
    assert "ok    scheduler: the cluster: 2 jobs are active, and no beat was seen" in told.stdout
    assert told.returncode == 0, told.stdout


def at(seconds: float) -> datetime.datetime:
    return datetime.datetime(2026, 1, 1, tzinfo=datetime.timezone.utc) + datetime.timedelta(seconds=seconds)


@pytest.mark.parametrize(
    ("due", "sent", "found"),
    [
        ([0, 60, 120], [0.1, 60.2, 119.9], shadow.Count(on_time=3)),
        ([0, 60, 120], [0.1, 120.1], shadow.Count(on_time=2, missed=1)),
        ([0, 60], [0.1, 0.2, 60.1], shadow.Count(on_time=2, doubled=1)),
        ([0, 60], [0.1, 80], shadow.Count(on_time=1, late=1)),
        ([60], [10, 60], shadow.Count(on_time=1, extra=1)),
        ([0, 0], [0.1, 0.2], shadow.Count(on_time=2)),
        ([0, 0], [0.1], shadow.Count(on_time=1, missed=1)),
        ([], [], shadow.Count()),
    ],
)
def test_messages_are_counted_beside_instants(due: List[float], sent: List[float], found: shadow.Count) -> None:
    told: List[str] = []
    tolerance = datetime.timedelta(seconds=5)
    assert shadow.instants([at(one) for one in due], [at(one) for one in sent], tolerance, told) == found
    assert bool(told) == found.differs


@pytest.mark.parametrize(
    ("sent", "found"),
    [
        ([3, 13, 23.5, 33], shadow.Count(on_time=4)),
        ([3, 13, 33], shadow.Count(on_time=3, missed=1)),
        ([3, 13, 14, 23, 33], shadow.Count(on_time=4, doubled=1)),
        ([3, 13, 27, 36], shadow.Count(on_time=3, late=1)),
        ([], shadow.Count(missed=4)),
        ([3], shadow.Count(on_time=1, missed=3)),
    ],
)
def test_messages_of_an_interval_are_counted_by_their_distances(sent: List[float], found: shadow.Count) -> None:
    told: List[str] = []
    window = (at(0), at(40), datetime.timedelta(seconds=2))
    assert shadow.distances([at(one) for one in sent], datetime.timedelta(seconds=10), window, told) == found
    assert bool(told) == found.differs


def test_shadow_sees_a_beat_that_is_right_and_one_that_sends_twice(shop: Place) -> None:
    shop.worker()
    blind = shop.say("shadow", "--for", "1s", "--tolerance", "0s")
    assert "! often: not compared: it has no job" in blind.stderr
    assert shop.say("sync").returncode == 0
    shop.beat()
    told = shop.say("shadow", "--for", "5s", "--tolerance", "1s", "--json")
    assert told.returncode == 0, told.stdout + told.stderr
    report = json.loads(told.stdout)
    lines = {line["names"][0]: line for line in report["entries"]}
    assert report["workers"] == 1
    assert lines["often"]["beat"]["on_time"] >= 2
    assert lines["nightly"]["due"] == 0
    assert lines["often"]["cluster"] is None, "its job is held"
    # Another one, with a state of its own.
    shop.beat("-s", "another", "--pidfile=")
    told = shop.say("shadow", "--for", "5s", "--tolerance", "1s")
    assert told.returncode == 1
    assert "doubled" in told.stdout
    assert "s after the one before" in told.stdout


def test_shadow_says_that_it_sees_nothing(shop: Place) -> None:
    told = shop.say("shadow", "--for", "1s", "--tolerance", "0s")
    assert told.returncode == 1
    assert "nobody told of any message" in told.stderr
