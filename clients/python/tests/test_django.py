"""The Django app: its settings and checks, and rows that are told to the cluster, against real nodes."""

import contextlib
import logging
import subprocess
import sys
from typing import Any, Dict, List

import django_shop
import pytest
from cluster import Cluster
from django_rows import IN_CHARGE, job, rare, state

from chronarch import Client

django_shop.set_up()

from django.core import checks  # noqa: E402
from django.db import transaction  # noqa: E402
from django.test import override_settings  # noqa: E402
from django_celery_beat.models import CrontabSchedule, PeriodicTask  # noqa: E402

from chronarch import _options  # noqa: E402
from chronarch.celery._beat_options import of_app  # noqa: E402
from chronarch.django import _checks, _push  # noqa: E402
from chronarch.django import client as found_client  # noqa: E402


def test_settings_that_make_no_sense_are_named_all_at_once() -> None:
    wrong = {"ENDPOINT": ["a:1"], "TOKEN": 5, "TIMEOUT": -1, "NAMESPACE": "Shop!", "TLS": {"CA": "/no/such.pem"}}
    with override_settings(CHRONARCH=wrong):
        found: Dict[str, List[str]] = {one.id: [] for one in _checks.check_settings()}
        for one in _checks.check_settings():
            found[one.id].append(one.msg)
        texts = "\n".join(found["chronarch.E001"])
        assert 'CHRONARCH["ENDPOINT"]: unknown setting; did you mean ENDPOINTS?' in texts
        for name in ("TOKEN", "TIMEOUT", "NAMESPACE"):
            assert f'CHRONARCH["{name}"]: ' in texts
        assert """CHRONARCH["TLS"]["CA"]: there is no file '/no/such.pem'""" in texts
        with pytest.raises(ValueError, match="did you mean ENDPOINTS"):
            found_client()
    with override_settings(CHRONARCH={"ENDPOINTS": ["10.0.0.1:7401"], "TOKEN": "secret"}):
        assert _checks.check_settings()[0].msg == (
            'CHRONARCH["TOKEN"]: 10.0.0.1:7401 would be sent it in plain text; '
            'give CHRONARCH["TLS"]["CA"], or CHRONARCH["INSECURE"]'
        )
    with override_settings(CHRONARCH=[]):
        assert "expected a dict" in _checks.check_settings()[0].msg
    # A beat, which has other layers as well, calls it by the same name.
    with override_settings(CHRONARCH={"TIMEOUT": "abc"}), pytest.raises(ValueError, match=r'^CHRONARCH\["TIMEOUT"\]: '):
        of_app(_checks.celery_app(_options.Options()))


def test_endpoints_that_nobody_named_are_a_warning(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("CHRONARCH_ENDPOINTS", raising=False)
    with override_settings(CHRONARCH={}):
        assert [one.id for one in _checks.check_settings()] == ["chronarch.W001"]
        monkeypatch.setenv("CHRONARCH_ENDPOINTS", "10.0.0.1:7401")
        assert _checks.check_settings() == []


def test_two_schedulers_at_once_are_a_warning() -> None:
    with override_settings(CELERY_BEAT_SCHEDULER="django_celery_beat.schedulers:DatabaseScheduler"):
        (found,) = _checks.check_schedulers()
        assert found.id == "chronarch.W002"
        assert "sent twice" in found.msg
        assert "-S chronarch" in found.hint
    with override_settings(CELERY_BEAT_SCHEDULER="redbeat.RedBeatScheduler"):
        assert [one.id for one in _checks.check_schedulers()] == ["chronarch.W002"]
        assert f"set beat_scheduler to '{_checks.SCHEDULER}'" in _checks.check_schedulers()[0].hint
    with override_settings(CELERY_BEAT_SCHEDULER=_checks.SCHEDULER):
        assert _checks.check_schedulers() == []
    with override_settings(CELERY_BEAT_SCHEDULER="chronarch"):
        (found,) = _checks.check_schedulers()
        assert found.id == "chronarch.W005"
        assert _checks.SCHEDULER in found.hint
    with override_settings(CHRONARCH={"CELERY_APP": "shop.nowhere:app"}):
        assert [one.id for one in _checks.check_schedulers()] == ["chronarch.E002"]


def test_only_the_checks_of_a_deployment_ask_the_cluster(namespace: str, down: None) -> None:
    assert "chronarch.W003" not in [one.id for one in checks.run_checks()]
    (found,) = [one for one in checks.run_checks(include_deployment_checks=True) if one.id.startswith("chronarch")]
    assert found.id == "chronarch.W003"
    assert "does not answer" in found.msg


def test_a_deployment_is_told_that_no_worker_has_the_connection(namespace: str) -> None:
    (found,) = _checks.check_cluster()
    assert found.id == "chronarch.W004"
    assert "[connections.celery]" in found.hint


# As a web process is: with neither a gRPC server nor an asyncio client beside it, which gRPC does not let fork.
FORKS = """
import multiprocessing, os, sys
from django.conf import settings
settings.configure(CHRONARCH={"ENDPOINTS": sys.argv[1]})
from chronarch.django import client

mine = client()
assert mine is client()
assert mine.get_status().leader_id
receiver, sender = multiprocessing.get_context("fork").Pipe(duplex=False)
child = os.fork()
if child == 0:
    try:
        # The lock may be held by a thread that is not there any more.
        sender.send((client() is mine, bool(client().get_status().leader_id)))
    finally:
        os._exit(0)
assert receiver.poll(30), "the child is stuck"
assert receiver.recv() == (False, True)
os.waitpid(child, 0)
assert mine.get_status().leader_id
"""


def test_a_client_is_made_once_a_process_and_anew_after_a_fork(nodes: Cluster) -> None:
    command = [sys.executable, "-c", FORKS, ",".join(nodes.endpoints)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr


def test_a_row_is_told_when_its_transaction_commits(namespace: str, client: Client) -> None:
    with transaction.atomic():
        rare("nightly report", args="[1]")
        assert job(client, namespace, "nightly-report") is None
    made = job(client, namespace, "nightly-report")
    assert made is not None
    assert made.spec is not None
    assert made.spec.target is not None
    assert made.spec.target.celery is not None
    assert made.spec.target.celery.args == "[1]"
    assert made.spec.labels["celery-source"] == "django"


class _Back(Exception):
    pass


def test_what_is_rolled_back_is_not_told(namespace: str, client: Client) -> None:
    with contextlib.suppress(_Back), transaction.atomic():
        rare("a")
        raise _Back
    with transaction.atomic():
        with contextlib.suppress(_Back), transaction.atomic():
            rare("b")
            raise _Back
        rare("c")
    assert [one.spec.name for one in client.iter_jobs(namespace=namespace) if one.spec] == ["c", IN_CHARGE]


def test_rows_of_one_transaction_are_told_together(namespace: str, monkeypatch: pytest.MonkeyPatch) -> None:
    told: List[List[str]] = []
    monkeypatch.setattr(_push, "push", lambda names, using: told.append(list(names)))
    with transaction.atomic():
        rare("a")
        with transaction.atomic():
            rare("b")
    assert told == [["a", "b"]]


def test_a_changed_schedule_changes_the_jobs_that_use_it(namespace: str, client: Client) -> None:
    crontab = CrontabSchedule.objects.create(minute="0", hour="3", timezone="Europe/Berlin")
    PeriodicTask.objects.create(name="nightly", task="shop.nothing", crontab=crontab)
    crontab.hour = "4"
    crontab.save()
    made = job(client, namespace, "nightly")
    assert made is not None
    assert made.spec is not None
    assert made.spec.schedule[0].cron == "0 4 * * *"
    crontab.delete()
    assert job(client, namespace, "nightly") is None


def test_a_row_that_is_renamed_or_deleted_leaves_no_job(namespace: str, client: Client) -> None:
    row = rare("old name")
    row.name = "new name"
    row.save()
    assert job(client, namespace, "old-name") is None
    assert job(client, namespace, "new-name") is not None
    row.delete()
    assert job(client, namespace, "new-name") is None


def test_a_job_that_somebody_else_made_is_not_removed(namespace: str, client: Client) -> None:
    row = rare("shared")
    client.apply_jobs([{"name": "shared", "namespace": namespace, "target": {"queue": {"payload": "{}"}}}])
    row.delete()
    assert job(client, namespace, "shared") is not None


def test_a_disabled_row_is_a_paused_job(namespace: str, client: Client) -> None:
    row = rare("a", enabled=False)
    assert state(client, namespace) == "paused"
    row.enabled = True
    row.save()
    assert state(client, namespace) == "active"
    # What a person has paused stays so, whatever is saved.
    client.pause_job("a", namespace=namespace, reason="by hand")
    row.description = "x"
    row.save()
    assert state(client, namespace) == "paused"


def test_a_cluster_that_is_down_fails_nothing_and_is_not_asked_for_each_row(
    down: None, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING, "chronarch.django"):
        for name in ("a", "b", "c"):
            rare(name)
    assert PeriodicTask.objects.count() == 3
    texts = [record.getMessage() for record in caplog.records]
    assert len(texts) == 3
    assert "no endpoint answered" in texts[0]
    assert all("a moment ago no node answered" in text for text in texts[1:])


def test_a_row_that_changes_while_it_is_told_is_told_again(
    namespace: str, client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    from chronarch.django import _rows

    tell = _rows.Target.tell
    saved: List[int] = []

    def meanwhile(self: Any, name: str, row: Any, deadline: float) -> None:
        if not saved:
            # Another process saves and tells it, between our reading and our telling.
            saved.append(PeriodicTask.objects.filter(name=name).update(args="[2]"))
        tell(self, name, row, deadline)

    monkeypatch.setattr(_rows.Target, "tell", meanwhile)
    rare("a", args="[1]")
    made = job(client, namespace, "a")
    assert made is not None
    assert made.spec is not None
    assert made.spec.target is not None
    assert made.spec.target.celery is not None
    assert made.spec.target.celery.args == "[2]"
