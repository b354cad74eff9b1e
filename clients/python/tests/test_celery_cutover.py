"""`chronarch-celery doctor`, `shadow` and `adopt`: with a real Redis, Celery worker and beat, and a real cluster."""

from pathlib import Path
from typing import Iterator

import pytest
from celery_real import Place, place
from cluster import Cluster, eventually

from chronarch import Client

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
