"""What the tests of the Django app share: rows, and the jobs that are made of them."""

import uuid
from typing import Any, Iterator, Optional

import django_shop
import pytest
from cluster import Cluster, free_ports

from chronarch import Client, NotFound, models

APP = "django_shop.celery:app"
# The job that says that the cluster is in charge of the app; of a source that nothing here compares.
IN_CHARGE = "in-charge"


@pytest.fixture
def namespace(nodes: Cluster) -> Iterator[str]:
    """The settings name the cluster, which is in charge already, and a namespace of its own; the tables are empty."""
    django_shop.set_up()
    from django.test import override_settings

    from chronarch.django import _push

    name = f"django-{uuid.uuid4().hex[:8]}"
    labels = {"managed-by": "chronarch-celery", "celery-app": "django-shop", "celery-source": "redbeat"}
    first = {"name": IN_CHARGE, "namespace": name, "labels": labels, "schedule": {"every": "36500d"}}
    with Client(nodes.endpoints) as client:
        client.apply_jobs([{**first, "target": {"queue": {"payload": "{}"}}}])
    _push._Hold.until = 0.0
    with override_settings(CHRONARCH={"ENDPOINTS": nodes.endpoints, "NAMESPACE": name, "CELERY_APP": APP}):
        yield name
        _empty()


@pytest.fixture
def down() -> Iterator[None]:
    """The settings name a cluster that is not there."""
    django_shop.set_up()
    from django.test import override_settings

    from chronarch.django import _push

    _push._Hold.until = 0.0
    with override_settings(CHRONARCH={"ENDPOINTS": [f"127.0.0.1:{free_ports(1)[0]}"], "CELERY_APP": APP}):
        yield
        _push._Hold.until = 0.0
        _empty()


def _empty() -> None:
    from django_celery_beat import models as tables

    from chronarch.django import _push

    with _push.muted():
        for model in (tables.PeriodicTask, tables.CrontabSchedule, tables.IntervalSchedule, tables.ClockedSchedule):
            model.objects.all().delete()


def rare(name: str, **fields: Any) -> Any:
    """A row that is not due while a test runs."""
    from django_celery_beat.models import IntervalSchedule, PeriodicTask

    schedule, _ = IntervalSchedule.objects.get_or_create(every=36_500, period="days")
    return PeriodicTask.objects.create(name=name, task="shop.nothing", interval=schedule, **fields)


def job(client: Client, namespace: str, name: str) -> Optional[models.Job]:
    """The job of a row."""
    try:
        return client.get_job(name, namespace=namespace)
    except NotFound:
        return None


def state(client: Client, namespace: str) -> str:
    """Of the job `a`."""
    found = job(client, namespace, "a")
    assert found is not None
    return str(found.state)


def run_once(client: Client, namespace: str, name: str) -> models.Run:
    """Has a job run once, to its end: no worker has the connection, so that somebody has to cancel it."""
    run = client.trigger_job(name, namespace=namespace)
    client.cancel_run(run.run_id, reason="nobody sends it")
    return client.wait_for_run(run.run_id)
