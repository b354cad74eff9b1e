"""The Flask extension, against real nodes."""

import flask
import pytest
from celery import Celery, Task
from click.testing import Result
from cluster import Cluster
from conftest import Staff

from chronarch import Client
from chronarch.flask import Chronarch
from chronarch.worker import _loading


def test_the_client_is_the_application_s(nodes: Cluster) -> None:
    app, chronarch = flask.Flask("shop"), Chronarch()
    with pytest.raises(RuntimeError, match="init_app was not called"), app.app_context():
        _ = chronarch.client
    app.config["CHRONARCH_ENDPOINTS"] = nodes.endpoints
    chronarch.init_app(app)
    with app.app_context():
        assert chronarch.client.get_status().leader_id
        assert chronarch.client is chronarch.client
    wrong = flask.Flask("wrong")
    wrong.config["CHRONARCH_ENDPOINTS"] = "here"
    chronarch.init_app(wrong)
    with wrong.app_context(), pytest.raises(ValueError, match="endpoints: `here`"):
        _ = chronarch.client
    with pytest.raises(RuntimeError, match="context"):
        _ = chronarch.client


def test_status_tells_what_each_node_says(cluster: Cluster) -> None:
    app = flask.Flask("shop")
    app.config.update(CHRONARCH_ENDPOINTS=",".join(cluster.endpoints))
    Chronarch(app)
    leader = cluster.leader()
    told = app.test_cli_runner().invoke(args=["chronarch", "status"])
    assert told.exit_code == 0, told.output
    heading, *lines = told.output.splitlines()
    assert heading.split()[:4] == ["ENDPOINT", "NODE", "ROLE", "TERM"]
    roles = {line.split()[0]: line.split()[2] for line in lines}
    assert roles[cluster.addresses[leader]] == "leader"
    assert sorted(roles.values()) == ["leader", "voter", "voter"]
    for node in cluster.addresses:
        cluster.kill(node)
    told = app.test_cli_runner().invoke(args=["chronarch", "status"])
    assert told.exit_code == 3
    assert "no endpoint answered" in told.output


def test_a_task_runs_within_the_application(staff: Staff) -> None:
    app = _loading.load("jobs:in_flask.tasks")
    assert list(app.tasks) == ["in-flask"]
    staff.start("--pool", "threads", module="jobs:in_flask.tasks")
    assert staff.carry_out("in-flask", 2).attempts[0].result == '["shop", 2]'


def celery_init_app(app: flask.Flask) -> Celery:
    """As Flask's documentation has it."""

    class FlaskTask(Task):  # type: ignore[misc]
        def __call__(self, *args: object, **kwargs: object) -> object:
            with app.app_context():
                return self.run(*args, **kwargs)

    celery_app = Celery(app.name, task_cls=FlaskTask)
    celery_app.config_from_object(app.config["CELERY"])
    celery_app.set_default()
    app.extensions["celery"] = celery_app
    return celery_app


def test_sync_makes_jobs_of_the_application_s_celery(nodes: Cluster, client: Client) -> None:
    app = flask.Flask("flask-shop")
    schedule = {"nightly": {"task": "flask-shop.run", "schedule": 3600.0}}
    app.config.update(CHRONARCH_ENDPOINTS=nodes.endpoints, CHRONARCH_NAMESPACE="flask", CHRONARCH_BROKER="main")
    app.config["CELERY"] = {"broker_url": "memory://", "beat_schedule": schedule, "result_expires": None}
    chronarch = Chronarch(app)

    def say(*arguments: str) -> Result:
        return app.test_cli_runner().invoke(args=["chronarch", "sync", *arguments])

    without = say()
    assert without.exit_code == 1
    assert 'neither app.extensions["celery"] nor' in without.output
    celery_init_app(app).task(name="flask-shop.run")(run_in_celery)
    assert say("--check").exit_code == 2
    told = say()
    assert told.exit_code == 0, told.output
    assert '+ nightly  (beat_schedule "nightly"): held until adopt' in told.output
    job = client.get_job("nightly", namespace="flask")
    assert job.spec is not None
    assert job.spec.target is not None
    assert job.spec.target.celery is not None
    assert job.spec.target.celery.broker == "main"
    assert say("--check").exit_code == 0
    other = Celery("given", broker="memory://", set_as_current=False)
    chronarch.init_app(app, celery=other)
    with app.app_context():
        assert chronarch.celery is other


def run_in_celery() -> None:
    """A task."""
