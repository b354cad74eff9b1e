"""With the Celery that is installed, whatever its release: how its workers' tasks end on Redis and RabbitMQ, and what
`doctor` says of a RabbitMQ."""

from pathlib import Path
from typing import Iterator

import pytest
import rabbit
from celery_real import Place, place
from cluster import Cluster, eventually

from chronarch import Client, models


@pytest.fixture(scope="module")
def server() -> Iterator[rabbit.Rabbit]:
    """A RabbitMQ; it takes seconds to start."""
    with rabbit.running() as running:
        yield running


APP = """
import os
from celery import Celery
from kombu import Queue
app = Celery("{module}", broker=os.environ["SHOP_BROKER"])
app.conf.update(broker_connection_retry_on_startup=True, result_expires=None, task_create_missing_queues=False)
app.conf.task_queues = [Queue("{module}")]
app.conf.task_default_queue = "{module}"

@app.task(name="shop.run")
def run(*args): pass

@app.task(name="shop.fail")
def fail(*args): raise ValueError("boom")

@app.task(name="shop.again", bind=True, max_retries=1, default_retry_delay=0)
def again(self, *args):
    if not self.request.retries:
        raise self.retry()
"""


@pytest.fixture(params=["redis", "rabbitmq"])
def shop(nodes: Cluster, tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[Place]:
    """A place with the app above, its Celery worker, and a worker of the cluster."""
    url = None if request.param == "redis" else request.getfixturevalue("server").url
    with place(tmp_path, nodes, f"shop_ends_{request.param}", url) as made:
        made.app(APP.format(module=made.module))
        made.worker()
        made.cluster_worker()
        yield made


def test_a_run_ends_as_the_task_of_the_installed_celery_does(shop: Place, client: Client) -> None:
    def end(task: str) -> models.Run:
        target = {"broker": "celery", "task": task, "queue": shop.module, "args": "[1]"}
        spec = {"name": task, "namespace": shop.namespace, "target": {"celery": target}, "retry": {"max_attempts": 1}}
        client.apply_jobs([spec])
        return client.wait_for_run(client.trigger_job(task, namespace=shop.namespace).run_id)

    def told() -> bool:
        run = end("shop.run")
        assert run.state == "succeeded", run
        return "run by celery@" in (run.attempts[0].error or "")

    # Once it says who ran it, the workers' events are heard as well: they were asked to send them.
    eventually("Celery to say who runs what", told)
    assert end("shop.again").state == "succeeded"
    failed = end("shop.fail")
    assert failed.state == "failed"
    assert "ValueError('boom')" in (failed.attempts[0].error or "")
    unknown = end("shop.nothing")
    assert unknown.state == "failed"
    assert "NotRegistered" in (unknown.attempts[0].error or "")


QUEUES = """
import os
from celery import Celery
from kombu import Queue
app = Celery("{module}", broker=os.environ["SHOP_BROKER"])
app.conf.result_expires = None
app.conf.task_queues = [
    Queue("celery"),
    Queue("quorum", queue_arguments={{"x-queue-type": "quorum"}}),
    Queue("steps", max_priority=10),
    Queue("flat"),
    Queue("absent"),
]

@app.task(name="shop.run", ignore_result=True)
def run(*args): pass

app.conf.beat_schedule = {{
    "steep": {{"task": "shop.run", "schedule": 60, "options": {{"queue": "steps", "priority": 9}}}},
    "level": {{"task": "shop.run", "schedule": 60, "options": {{"queue": "flat", "priority": 9}}}},
}}
"""


def test_doctor_names_the_queues_of_a_rabbitmq_that_are_not_as_declared(
    server: rabbit.Rabbit, nodes: Cluster, tmp_path: Path
) -> None:
    with place(tmp_path, nodes, "shop_queues", server.url) as shop:
        shop.app(QUEUES.format(module=shop.module))
        server.declare("celery")
        server.declare("quorum")
        server.declare("steps")
        server.declare("flat", {"x-max-priority": 5})
        told = shop.say("doctor", "--watch", "0")
        assert told.returncode == 1, told.stdout + told.stderr
        assert "ok    broker: amqp://guest:**@" in told.stdout
        lines = {line.split(":")[1].strip(): line for line in told.stdout.splitlines() if line[6:14] == "queues: "}
        assert set(lines) == {"quorum", "steps", "flat", "not there yet"}
        assert "inequivalent arg 'x-queue-type' for queue 'quorum'" in lines["quorum"]
        assert "inequivalent arg 'x-max-priority'" in lines["steps"]
        assert "inequivalent arg 'x-max-priority'" in lines["flat"]
        assert lines["not there yet"] == "warn  queues: not there yet: absent"
        assert "hint: make task_queues say what is there, or delete the queue" in told.stdout
        assert server.queues("celery", "absent") == {"celery"}, "looking makes none"
        assert "warn  priorities: of level: the queue has no x-max-priority" in told.stdout

        for name, arguments in (("quorum", {"x-queue-type": "quorum"}), ("steps", {"x-max-priority": 10})):
            server.delete(name)
            server.declare(name, arguments)
        server.delete("flat")
        server.declare("flat")
        server.declare("absent")
        told = shop.say("doctor", "--watch", "0")
        assert "ok    queues: are as the app declares them" in told.stdout, told.stdout


def test_doctor_says_why_a_rabbitmq_cannot_be_used(server: rabbit.Rabbit, nodes: Cluster, tmp_path: Path) -> None:
    wrong = server.url.replace("guest:guest", "guest:secret")
    with place(tmp_path, nodes, "shop_refused", wrong) as shop:
        shop.app(QUEUES.format(module=shop.module))
        told = shop.say("doctor", "--watch", "0")
        assert told.returncode == 1
        assert "ACCESS_REFUSED" in told.stdout
        assert "hint: correct broker_url of the app, or start the broker" in told.stdout
        assert "secret" not in told.stdout + told.stderr
        told = shop.say("doctor", "--watch", "0", SHOP_BROKER=f"{server.url[:-1]}nowhere")
        assert "vhost nowhere not found" in told.stdout
        told = shop.say("adopt", "--watch", "0")
        assert told.returncode == 1
        assert "no messages can be watched, so nothing was changed: AccessRefused" in told.stderr
