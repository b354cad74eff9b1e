"""`chronarch-celery reconcile`: ends that only the result backend knows, with real backends and a real cluster."""

import datetime
import subprocess
import sys
import types
from pathlib import Path
from typing import Any, Dict, Iterator, List

import pytest
from celery import Celery
from celery_real import Place, place
from cluster import Cluster, eventually, free_ports

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


def test_a_run_that_cannot_be_judged_or_whose_job_is_gone_stops_no_other(shop: Place, client: Client) -> None:
    gone, spoilt, sound = left(client, shop.namespace, ["kept-gone", "kept-spoilt", "kept-sound"])
    client.delete_job("kept-gone", namespace=shop.namespace)
    app = Celery("workers", backend=shop.url)
    for run in (gone, spoilt, sound):
        app.backend.store_result(run.attempts[-1].task_id, {"rows": 3}, "SUCCESS")
    app.backend.set(app.backend.get_key_for_task(spoilt.attempts[-1].task_id), b"no result of Celery's")
    shop.app(APP.format(module=shop.module, backend=shop.url))
    told = shop.say("reconcile", "--older-than", "0s")
    assert told.returncode == 0, told.stderr
    assert f"! {spoilt.run_id}  {spoilt.attempts[0].task_id}: how it ended cannot be told: " in told.stderr
    assert [str(client.get_run(run.run_id).state.value) for run in (gone, spoilt, sound)] == [
        *("succeeded", "running", "succeeded")
    ]
    client.cancel_run(spoilt.run_id)


class Half:
    """A backend that is asked for one task at a time, and cannot read some of them, or any."""

    def __init__(self, is_away: bool) -> None:
        self.is_away = is_away

    def get_task_meta(self, task_id: str, cache: bool) -> Dict[str, Any]:
        """As of Celery's."""
        if self.is_away or task_id.startswith("spoilt"):
            raise OSError(task_id)
        return {"status": "SUCCESS"} if task_id == "sound" else {"status": "PENDING"}


def test_a_backend_that_is_away_is_told_from_a_result_that_cannot_be_read() -> None:
    tasks = [ends.Awaited(models.Run(run_id=name), name, "celery", 0) for name in ("spoilt-1", "spoilt-2", "sound")]
    found = ends.Found()
    app: Any = types.SimpleNamespace(backend=Half(is_away=False))
    assert [task.task_id for task, _ in ends.look(app, tasks, found)] == ["sound"]
    assert [task_id for _, task_id, _ in found.unjudged] == ["spoilt-1", "spoilt-2"]
    app.backend.is_away = True
    with pytest.raises(OSError, match="-"):
        list(ends.look(app, tasks, ends.Found()))


def test_an_unreachable_cluster_is_told_and_asked_again(shop: Place) -> None:
    shop.app(APP.format(module=shop.module, backend=shop.url))
    command = [sys.executable, "-m", "chronarch.celery.cli", "reconcile", "-A", shop.module, "--every", "100ms"]
    command += ["--endpoints", f"127.0.0.1:{free_ports(1)[0]}", "--timeout", "1"]
    log = shop.folder / "reconcile.log"
    with log.open("wb") as file:
        process = subprocess.Popen(command, cwd=shop.folder, env=shop.environment, stderr=file)
    try:
        eventually("two tries", lambda: log.read_text().count("next look in 100ms") >= 2 or process.poll() is not None)
        assert process.poll() is None, log.read_text()
    finally:
        process.kill()
        process.wait()


DJANGO = """
import os
os.environ.setdefault("DJANGO_SETTINGS_MODULE", "{module}_settings")
from celery import Celery
app = Celery("{module}")
app.config_from_object("django.conf:settings", namespace="CELERY")
"""
SETTINGS = """
SECRET_KEY = "x"
USE_TZ = True
INSTALLED_APPS = ["django_celery_results"]
DATABASES = {{"default": {{"ENGINE": "django.db.backends.sqlite3", "NAME": "{folder}/db"}}}}
CELERY_BROKER_URL = "{url}"
CELERY_RESULT_BACKEND = "django-db"
"""
STORE = """
import sys
from {module} import app
app.loader.import_default_modules()
from django.core.management import call_command
call_command("migrate", verbosity=0)
app.backend.store_result(sys.argv[1], 3, "SUCCESS")
"""


def test_results_in_the_database_of_a_django_project_are_read(shop: Place, client: Client) -> None:
    (run,) = left(client, shop.namespace, ["django"])
    shop.app(DJANGO.format(module=shop.module))
    settings = SETTINGS.format(folder=shop.folder, url=shop.url)
    (shop.folder / f"{shop.module}_settings.py").write_text(settings)
    environment = {key: value for key, value in shop.environment.items() if key != "DJANGO_SETTINGS_MODULE"}
    store = [sys.executable, "-c", STORE.format(module=shop.module), run.attempts[-1].task_id]
    subprocess.run(store, cwd=shop.folder, env=environment, check=True)
    shop.environment = environment
    told = shop.say("reconcile", "--older-than", "0s")
    assert told.returncode == 0, told.stderr
    assert f"{run.run_id}  {run.attempts[0].task_id}  SUCCESS" in told.stdout
    assert client.get_run(run.run_id).state == "succeeded"
    assert "ok    results: DatabaseBackend answers" in shop.say("doctor", "--watch", "0").stdout


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
