"""`chronarch-celery reconcile`: ends that only the result backend knows, with real backends and a real cluster."""

import datetime
from pathlib import Path
from typing import Any, Iterator, List

import pytest
from celery import Celery
from celery_real import Place, place
from cluster import Cluster, eventually

from chronarch import Client, models
from chronarch.celery import ends

APP = """
import os
from celery import Celery
app = Celery("{module}", broker=os.environ["SHOP_BROKER"], backend="{backend}")
"""
NOW = datetime.timedelta(0)


@pytest.fixture
def shop(nodes: Cluster, tmp_path: Path) -> Iterator[Place]:
    """A place that sends tasks, where no Celery worker is: nobody tells how they end."""
    with place(tmp_path, nodes, "shop_ends") as made:
        made.cluster_worker()
        yield made


def left(client: Client, namespace: str, names: List[str]) -> List[models.Run]:
    """Runs of these jobs, once their tasks are with the broker."""
    for name in names:
        celery = {"broker": "celery", "task": "shop.run", "capture_result": name.startswith("kept")}
        client.apply_jobs([{"name": name, "namespace": namespace, "target": {"celery": celery}}])
    ids = [client.trigger_job(name, namespace=namespace).run_id for name in names]

    def all_left() -> Any:
        runs = [client.get_run(run_id) for run_id in ids]
        return runs if all(run.attempts and run.attempts[-1].task_id for run in runs) else None

    found: List[models.Run] = eventually("the tasks to be left", all_left)
    return found


@pytest.mark.parametrize("kind", ["redis", "database"])
def test_what_the_backend_knows_ends_the_runs_that_wait(shop: Place, client: Client, kind: str) -> None:
    backend = shop.url if kind == "redis" else f"db+sqlite:///{shop.folder}/results"
    names = [f"{name}-{kind}" for name in ("kept", "dropped", "failed", "revoked", "begun", "unknown")]
    kept, dropped, failed, revoked, begun, unknown = left(client, shop.namespace, names)
    shop.app(APP.format(module=shop.module, backend=backend))
    app = Celery("workers", backend=backend)

    def store(run: models.Run, result: Any, state: str) -> None:
        app.backend.store_result(run.attempts[-1].task_id, result, state)

    store(kept, {"rows": 3}, "SUCCESS")
    store(dropped, {"rows": 3}, "SUCCESS")
    store(failed, ValueError("boom"), "FAILURE")
    store(revoked, None, "REVOKED")
    store(begun, None, "STARTED")
    assert shop.say("reconcile").returncode == 0
    assert client.get_run(kept.run_id).state == "running", "it is not older than a minute"
    told = shop.say("reconcile", "--older-than", "0s")
    assert told.returncode == 0, told.stderr
    assert f"{kept.run_id}  {kept.attempts[0].task_id}  SUCCESS" in told.stdout
    assert "had ended" in told.stderr
    records = [client.get_run(run.run_id) for run in (kept, dropped, failed, revoked, begun, unknown)]
    states = [str(run.state.value) for run in records]
    assert states == ["succeeded", "succeeded", "failed", "failed", "running", "running"]
    assert [run.attempts[0].result for run in records[:2]] == ['{"rows":3}', ""]
    assert "ValueError" in records[2].attempts[0].error
    assert "boom" in records[2].attempts[0].error
    assert records[3].attempts[0].error == "the task was revoked, or had expired"
    # It is told again to no effect.
    assert ends.reconcile(client, app, older_than=NOW).ended == []
    for run in (begun, unknown):
        client.cancel_run(run.run_id)


@pytest.mark.parametrize(("backend", "says"), [("rpc://", "the result backend is rpc://"), (None, "no result backend")])
def test_a_backend_that_cannot_be_asked_is_named(backend: Any, says: str) -> None:
    with pytest.raises(ends.NoBackend, match=says):
        ends.check(Celery("shop", broker="memory://", backend=backend))


def test_a_backend_that_does_not_answer_is_named_and_changes_nothing(shop: Place, client: Client) -> None:
    (run,) = left(client, shop.namespace, ["away"])
    shop.app(
        APP.format(module=shop.module, backend="redis://127.0.0.1:1/0")
        + "app.conf.result_backend_transport_options = {'retry_policy': {'max_retries': 0}}\n"
    )
    told = shop.say("reconcile", "--older-than", "0s")
    assert told.returncode == 1
    assert "the backend cannot be read: " in told.stderr
    assert "Traceback" not in told.stderr
    assert client.get_run(run.run_id).state == "running"
    client.cancel_run(run.run_id)
