"""The Flask extension, against real nodes."""

import os
import re
import subprocess
import sys
from pathlib import Path

import flask
import pytest
from celery import Celery, Task
from click.testing import Result
from cluster import Cluster
from conftest import Staff

from chronarch import Client
from chronarch.celery._where import cluster_of
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
    with wrong.app_context(), pytest.raises(ValueError, match=r"^CHRONARCH_ENDPOINTS: `here` is not HOST:PORT"):
        _ = chronarch.client
    with pytest.raises(RuntimeError, match="context"):
        _ = chronarch.client


@pytest.mark.parametrize(
    ("option", "value", "told"),
    [
        ("CHRONARCH_TIMEOUT", "abc", ""),
        ("CHRONARCH_TIMEOUT", 0, "expected seconds above 0, found 0"),
        ("CHRONARCH_TIMEOUT", float("nan"), "expected seconds above 0, found nan"),
        ("CHRONARCH_ENDPOINTS", 7401, "expected a list of HOST:PORT, or a text with commas, found 7401"),
        ("CHRONARCH_ENDPOINTS", [], "0 given, expected 1 to 64"),
        ("CHRONARCH_TOKEN", 5, "expected a text, found 5"),
        ("CHRONARCH_TOKEN", "säcret", "only printable ASCII characters can be sent"),
        ("CHRONARCH_TLS_CA", "/no/such.pem", "there is no file '/no/such.pem'"),
        ("CHRONARCH_TLS_CERT", __file__, "CERT and KEY need one another"),
        ("CHRONARCH_TLS_KEY", 5, "expected a text, found 5"),
        ("CHRONARCH_INSECURE", "perhaps", "expected true or false, found 'perhaps'"),
        ("CHRONARCH_ENDPOINT", "127.0.0.1:7401", "unknown option; did you mean CHRONARCH_ENDPOINTS?"),
    ],
)
def test_an_option_that_makes_no_sense_is_told_by_its_name(option: str, value: object, told: str) -> None:
    app = flask.Flask("wrong")
    app.config[option] = value
    chronarch = Chronarch(app)
    with app.app_context(), pytest.raises(ValueError, match=f"^{option}: {re.escape(told)}"):
        _ = chronarch.client
    app.extensions["celery"] = Celery("wrong", set_as_current=False)
    for command in ("status", "sync", "adopt"):
        said = app.test_cli_runner().invoke(args=["chronarch", command])
        assert said.exit_code == 2
        assert f"Error: {option}: {told}" in said.output


def test_what_is_false_as_text_is_false_and_the_ways_out_are_options(monkeypatch: pytest.MonkeyPatch) -> None:
    app = flask.Flask("wrong")
    app.config.update(CHRONARCH_ENDPOINTS="10.0.0.1:7401", CHRONARCH_TOKEN="secret", CHRONARCH_INSECURE="false")
    # The environment is below the configuration.
    monkeypatch.setenv("CHRONARCH_INSECURE", "1")
    told = "^CHRONARCH_TOKEN: 10.0.0.1:7401 would be sent .* give CHRONARCH_TLS_CA, or CHRONARCH_INSECURE$"
    chronarch = Chronarch(app)
    with app.app_context(), pytest.raises(ValueError, match=told):
        _ = chronarch.client
    app.config["CHRONARCH_INSECURE"] = None
    with app.app_context():
        chronarch.client.close()


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
    assert "1 held: the cluster sends nothing of them until `flask chronarch adopt`" in told.output
    job = client.get_job("nightly", namespace="flask")
    assert job.spec is not None
    assert job.spec.target is not None
    assert job.spec.target.celery is not None
    assert job.spec.target.celery.broker == "main"
    assert say("--check").exit_code == 0
    told = say("--active")
    assert "1 as they are" in told.output
    assert "until `flask chronarch adopt`, once no beat runs; --active is of new jobs alone" in told.output
    other = Celery("given", broker="memory://", set_as_current=False)
    chronarch.init_app(app, celery=other)
    with app.app_context():
        assert chronarch.celery is other


def test_adopt_lets_go_what_sync_holds_and_takes_it_back(nodes: Cluster, client: Client) -> None:
    app = flask.Flask("flask-adopts")
    schedule = {"nightly": {"task": "flask-adopts.run", "schedule": 3600.0}}
    app.config.update(CHRONARCH_ENDPOINTS=nodes.endpoints, CHRONARCH_NAMESPACE="flask-adopts")
    app.config["CELERY"] = {"broker_url": "memory://", "beat_schedule": schedule, "result_expires": None}
    celery_init_app(app).task(name="flask-adopts.run")(run_in_celery)
    Chronarch(app)

    def say(*arguments: str) -> Result:
        return app.test_cli_runner().invoke(args=["chronarch", *arguments])

    def is_held() -> bool:
        return client.get_job("nightly", namespace="flask-adopts").pause is not None

    assert say("sync").exit_code == 0
    assert "1 of 1 jobs of the Celery app are held until `flask chronarch adopt`" in say("status").output
    # Nobody answers over this broker, so that no beat could be seen.
    told = say("adopt", "--watch", "0")
    assert told.exit_code == 1
    assert "no Celery worker answers" in told.output
    assert is_held()
    told = say("adopt", "--force")
    assert told.exit_code == 0, told.output
    assert "1 jobs run now" in told.output
    assert not is_held()
    assert "held" not in say("sync").output + say("status").output
    told = say("adopt", "--back")
    assert told.exit_code == 0, told.output
    assert "1 jobs are held; start the beat" in told.output
    assert is_held()


HELLO = """
import flask
from celery import Celery
from chronarch.flask import Chronarch

app = flask.Flask("hello")
chronarch = Chronarch(app)  # before there is a Celery app, and before the configuration is read
app.config.from_prefixed_env()
celery_app = Celery("hello", broker="memory://")
celery_app.conf.update(beat_schedule={"nightly": {"task": "hello.run", "schedule": 3600.0}}, result_expires=None)
@celery_app.task(name="hello.run")
def run(): pass
app.extensions["celery"] = celery_app
"""


def test_commands_of_celery_go_by_the_configuration_of_the_application(
    nodes: Cluster, client: Client, tmp_path: Path
) -> None:
    (tmp_path / "hello.py").write_text(HELLO)
    environment = {key: value for key, value in os.environ.items() if not key.startswith("CHRONARCH_")}
    environment["FLASK_CHRONARCH_ENDPOINTS"] = ",".join(nodes.endpoints)
    environment.update(FLASK_CHRONARCH_NAMESPACE="flask-hello", FLASK_CHRONARCH_BROKER="main")

    def say(*arguments: str, app: str = "hello:celery_app") -> "subprocess.CompletedProcess[str]":
        command = [sys.executable, "-m", "chronarch.celery.cli", *arguments, "-A", app]
        return subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=60)

    told = say("sync")
    assert told.returncode == 0, told.stderr
    assert "1 held: the cluster sends nothing of them until `chronarch-celery adopt`" in told.stderr
    job = client.get_job("nightly", namespace="flask-hello")
    assert job.spec is not None
    assert job.spec.target is not None
    assert job.spec.target.celery is not None
    assert job.spec.target.celery.broker == "main"
    # What is said on the command line goes before it.
    told = say("sync", "--check", "--broker", "celery")
    assert told.returncode == 2
    assert "target.celery.broker" in told.stdout
    told = say("sync", app="hello")
    assert told.returncode == 2
    assert "Flask is no Celery app" in told.stderr
    environment["FLASK_CHRONARCH_TIMEOUT"] = "abc"
    told = say("sync")
    assert told.returncode == 2
    assert "Error: CHRONARCH_TIMEOUT: " in told.stderr


def test_the_newest_application_of_a_celery_app_counts_unless_another_one_is_current() -> None:
    celery = Celery("shared", set_as_current=False)
    apps = [flask.Flask(name) for name in ("first", "second")]
    for app in apps:
        app.config["CHRONARCH_NAMESPACE"] = app.name
        Chronarch(app, celery=celery)
    assert cluster_of(celery, environ={}).namespace == "second"
    with apps[0].app_context():
        assert cluster_of(celery, environ={}).namespace == "first"
    celery.conf.chronarch_namespace = "its-own"
    assert cluster_of(celery, environ={}).namespace == "its-own"
    assert cluster_of(Celery("other", set_as_current=False), environ={}).namespace == "default"


def run_in_celery() -> None:
    """A task."""
