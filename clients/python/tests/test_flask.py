"""The Flask extension, against real nodes."""

import flask
import pytest
from cluster import Cluster
from conftest import Staff

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
