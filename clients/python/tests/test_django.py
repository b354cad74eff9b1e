"""The Django app, with django-celery-beat's real tables and admin, against real nodes."""

import contextlib
import io
import logging
import multiprocessing
import os
import re
import time
import uuid
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime, timedelta, timezone
from typing import Any, Dict, Iterator, List, Optional

import django_shop
import pytest
from cluster import Cluster, eventually, free_ports

from chronarch import Client, NotFound, models

django_shop.set_up()

from django.core import checks, management  # noqa: E402
from django.db import connections, transaction  # noqa: E402
from django.test import Client as Browser  # noqa: E402
from django.test import override_settings  # noqa: E402
from django.urls import reverse  # noqa: E402
from django_celery_beat.models import (  # noqa: E402
    ClockedSchedule,
    CrontabSchedule,
    IntervalSchedule,
    PeriodicTask,
)

from chronarch.celery import sync  # noqa: E402
from chronarch.django import _checks, _mirror, _push  # noqa: E402
from chronarch.django import client as found_client  # noqa: E402

APP = "django_shop.celery:app"
IN_CHARGE = "in-charge"
EPOCH = datetime(1970, 1, 1, tzinfo=timezone.utc)


@pytest.fixture
def namespace(nodes: Cluster) -> Iterator[str]:
    """The settings name the cluster, which is in charge already, and a namespace of its own; the tables are empty."""
    name = f"django-{uuid.uuid4().hex[:8]}"
    # Of a source that nothing here compares.
    labels = {"managed-by": "chronarch-celery", "celery-app": "django-shop", "celery-source": "redbeat"}
    first = {"name": IN_CHARGE, "namespace": name, "labels": labels, "schedule": {"every": "36500d"}}
    with Client(nodes.endpoints) as client:
        client.apply_jobs([{**first, "target": {"queue": {"payload": "{}"}}}])
    given = {"ENDPOINTS": nodes.endpoints, "NAMESPACE": name, "CELERY_APP": APP}
    _push._Hold.until = 0.0
    with override_settings(CHRONARCH=given):
        yield name
        with _push.muted():
            for model in (PeriodicTask, CrontabSchedule, IntervalSchedule, ClockedSchedule):
                model.objects.all().delete()


@pytest.fixture
def down() -> Iterator[None]:
    """The settings name a cluster that is not there."""
    _push._Hold.until = 0.0
    with override_settings(CHRONARCH={"ENDPOINTS": [f"127.0.0.1:{free_ports(1)[0]}"], "CELERY_APP": APP}):
        yield
        _push._Hold.until = 0.0
        with _push.muted():
            PeriodicTask.objects.all().delete()


@pytest.fixture
def browser() -> Browser:
    """Somebody who may do everything."""
    from django.contrib.auth.models import User

    user, _ = User.objects.get_or_create(username="ada", defaults={"is_staff": True, "is_superuser": True})
    browser = Browser()
    browser.force_login(user)
    return browser


def hourly(name: str, **fields: Any) -> PeriodicTask:
    """A row that is not due while a test runs."""
    schedule, _ = IntervalSchedule.objects.get_or_create(every=36_500, period="days")
    return PeriodicTask.objects.create(name=name, task="shop.nothing", interval=schedule, **fields)


def job(client: Client, namespace: str, name: str) -> Optional[models.Job]:
    """The job of a row."""
    try:
        return client.get_job(name, namespace=namespace)
    except NotFound:
        return None


def test_settings_that_make_no_sense_are_named_all_at_once() -> None:
    wrong = {"ENDPOINT": ["a:1"], "TOKEN": 5, "TIMEOUT": -1, "NAMESPACE": "Shop!", "TLS": {"CA": "/no/such.pem"}}
    with override_settings(CHRONARCH=wrong):
        found: Dict[str, List[str]] = {one.id: [] for one in _checks.check_settings()}
        for one in _checks.check_settings():
            found[one.id].append(one.msg)
        texts = "\n".join(found["chronarch.E001"])
        assert 'CHRONARCH["ENDPOINT"]: unknown setting; did you mean ENDPOINTS?' in texts
        for name in ("TOKEN", "TIMEOUT", "NAMESPACE", "TLS"):
            assert f'CHRONARCH["{name}"]: ' in texts
        with pytest.raises(ValueError, match="did you mean ENDPOINTS"):
            found_client()
    with override_settings(CHRONARCH={"ENDPOINTS": ["10.0.0.1:7401"], "TOKEN": "secret"}):
        assert "plain text" in _checks.check_settings()[0].msg
    with override_settings(CHRONARCH=[]):
        assert "expected a dict" in _checks.check_settings()[0].msg


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
    with override_settings(CELERY_BEAT_SCHEDULER="chronarch"):
        assert _checks.check_schedulers() == []
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


def test_a_client_is_made_once_a_process_and_anew_after_a_fork(namespace: str) -> None:
    mine = found_client()
    assert mine is found_client()
    assert mine.get_status().leader_id
    receiver, sender = multiprocessing.get_context("fork").Pipe(duplex=False)
    child = os.fork()
    if child == 0:
        try:
            # The lock may be held by a thread that is not there any more.
            sender.send((found_client() is mine, bool(found_client().get_status().leader_id)))
        finally:
            os._exit(0)
    assert receiver.poll(30), "the child is stuck"
    assert receiver.recv() == (False, True)
    os.waitpid(child, 0)
    assert mine.get_status().leader_id


def test_a_row_is_told_when_its_transaction_commits(namespace: str, client: Client) -> None:
    with transaction.atomic():
        hourly("nightly report", args="[1]")
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
        hourly("a")
        raise _Back
    with transaction.atomic():
        with contextlib.suppress(_Back), transaction.atomic():
            hourly("b")
            raise _Back
        hourly("c")
    assert [one.spec.name for one in client.iter_jobs(namespace=namespace) if one.spec] == ["c", IN_CHARGE]


def test_rows_of_one_transaction_are_told_together(namespace: str, monkeypatch: pytest.MonkeyPatch) -> None:
    told: List[List[str]] = []
    monkeypatch.setattr(_push, "push", lambda names, using: told.append(list(names)))
    with transaction.atomic():
        hourly("a")
        with transaction.atomic():
            hourly("b")
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
    row = hourly("old name")
    row.name = "new name"
    row.save()
    assert job(client, namespace, "old-name") is None
    assert job(client, namespace, "new-name") is not None
    row.delete()
    assert job(client, namespace, "new-name") is None


def test_a_job_that_somebody_else_made_is_not_removed(namespace: str, client: Client) -> None:
    row = hourly("shared")
    client.apply_jobs([{"name": "shared", "namespace": namespace, "target": {"queue": {"payload": "{}"}}}])
    row.delete()
    assert job(client, namespace, "shared") is not None


def test_a_disabled_row_is_a_paused_job(namespace: str, client: Client) -> None:
    row = hourly("a", enabled=False)
    assert _state(client, namespace) == "paused"
    row.enabled = True
    row.save()
    assert _state(client, namespace) == "active"
    # What a person has paused stays so, whatever is saved.
    client.pause_job("a", namespace=namespace, reason="by hand")
    row.description = "x"
    row.save()
    assert _state(client, namespace) == "paused"


def _state(client: Client, namespace: str) -> str:
    found = job(client, namespace, "a")
    assert found is not None
    return str(found.state)


def test_a_cluster_that_is_down_fails_nothing_and_is_not_asked_for_each_row(
    down: None, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING, "chronarch.django"):
        for name in ("a", "b", "c"):
            hourly(name)
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
    hourly("a", args="[1]")
    made = job(client, namespace, "a")
    assert made is not None
    assert made.spec is not None
    assert made.spec.target is not None
    assert made.spec.target.celery is not None
    assert made.spec.target.celery.args == "[2]"


def _run(client: Client, namespace: str, name: str) -> models.Run:
    """Has a job run once, to its end: no worker has the connection, so that somebody has to cancel it."""
    run = client.trigger_job(name, namespace=namespace)
    client.cancel_run(run.run_id, reason="nobody sends it")
    return client.wait_for_run(run.run_id)


def test_the_list_shows_what_the_cluster_knows_with_one_call(
    namespace: str, client: Client, browser: Browser, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("first row", "second row", "third row"):
        hourly(name)
    with _push.muted():
        hourly("never told")
    _run(client, namespace, "first-row")
    calls: List[str] = []
    unary = Client._unary

    def noted(self: Client, *given: Any) -> Any:
        calls.append(given[1])
        return unary(self, *given)

    monkeypatch.setattr(Client, "_unary", noted)
    page = browser.get(reverse("admin:django_celery_beat_periodictask_changelist"))
    assert page.status_code == 200
    assert calls == ["ListJobs"]
    rows = {
        _cell(row, "name"): row
        for row in re.findall(r"<tr>.*?</tr>", page.content.decode(), re.DOTALL)
        if "field-" in row
    }
    assert _cell(rows["first row"], "chronarch_outcome").startswith("cancelled")
    assert re.search(r"\d{4}", _cell(rows["second row"], "chronarch_next_run"))
    assert _cell(rows["second row"], "chronarch_outcome") == "–"
    assert _cell(rows["never told"], "chronarch_next_run") == "not in the cluster"


def _cell(row: str, name: str) -> str:
    found = re.search(rf'class="field-{name}[^"]*">(.*?)</t[dh]>', row, re.DOTALL)
    return re.sub(r"<[^>]*>", "", found.group(1)).strip() if found else ""


def test_the_page_of_a_row_shows_its_runs_and_runs_it_once(namespace: str, client: Client, browser: Browser) -> None:
    row = hourly("<b>bold</b>")
    url = reverse("admin:django_celery_beat_periodictask_change", args=(row.pk,))
    page = browser.get(url).content.decode()
    assert "<b>bold</b>" not in page
    operation = re.search(r'name="operation_id" value="(\w+)"', page)
    assert operation
    action = re.search(r'action="([^"]+/chronarch/run/)"', page)
    assert action
    for _ in range(2):
        # The second time is a second click on the same page.
        answer = browser.post(action.group(1), {"operation_id": operation.group(1)}, follow=True)
        assert answer.redirect_chain == [(url, 302)]
        assert "1 run(s) made" in answer.content.decode()
    runs = client.list_runs(namespace=namespace).runs
    assert len(runs) == 1
    assert runs[0].actor == "django:ada"
    assert runs[0].run_id in browser.get(url).content.decode()
    assert browser.get(action.group(1)).status_code == 403


def test_only_who_may_change_a_row_may_run_it(namespace: str, client: Client) -> None:
    from django.contrib.auth.models import Permission, User

    row = hourly("a")
    viewer, _ = User.objects.get_or_create(username="viewer", defaults={"is_staff": True})
    viewer.user_permissions.add(Permission.objects.get(codename="view_periodictask"))
    browser = Browser()
    browser.force_login(viewer)
    page = browser.get(reverse("admin:django_celery_beat_periodictask_change", args=(row.pk,)))
    assert page.status_code == 200
    assert "chronarch-run" not in page.content.decode()
    url = reverse("admin:django_celery_beat_periodictask_chronarch_run", args=(row.pk,))
    assert browser.post(url, {"operation_id": "x"}).status_code == 403
    assert client.list_runs(namespace=namespace).runs == []


def test_selected_rows_are_run_and_switched(namespace: str, client: Client, browser: Browser) -> None:
    rows = [hourly(name) for name in ("a", "b")]
    with _push.muted():
        rows.append(hourly("c"))
    url = reverse("admin:django_celery_beat_periodictask_changelist")

    def act(action: str) -> str:
        chosen: Dict[str, Any] = {"action": action, "_selected_action": [row.pk for row in rows]}
        return str(browser.post(url, chosen, follow=True).content.decode())

    text = act("chronarch_run_now")
    assert "2 run(s) made" in text
    assert "Not in the cluster (yet): c" in text
    assert sorted(run.job for run in client.list_runs(namespace=namespace).runs) == ["a", "b"]
    act("disable_tasks")
    assert _state(client, namespace) == "paused"
    act("enable_tasks")
    assert _state(client, namespace) == "active"
    act("toggle_tasks")
    assert _state(client, namespace) == "paused"


def test_pages_say_so_when_the_cluster_cannot_be_reached(down: None, browser: Browser) -> None:
    row = hourly("a")
    page = browser.get(reverse("admin:django_celery_beat_periodictask_changelist"))
    assert page.status_code == 200
    assert "The cluster cannot be reached" in page.content.decode()
    url = reverse("admin:django_celery_beat_periodictask_change", args=(row.pk,))
    page = browser.get(url)
    assert "The cluster cannot be reached" in page.content.decode()
    form = {
        "name": "a",
        "task": "shop.nothing",
        "interval": row.interval_id,
        "enabled": "on",
        "args": "[3]",
        "kwargs": "{}",
    }
    form.update({"headers": "{}", "start_time_0": "", "start_time_1": "", "expires_0": "", "expires_1": ""})
    page = browser.post(url, form, follow=True)
    row.refresh_from_db()
    assert row.args == "[3]", page.content.decode()
    assert "the cluster could not be told" in page.content.decode()


def test_a_class_of_the_project_s_own_is_extended() -> None:
    from django.contrib.admin import AdminSite, ModelAdmin

    from chronarch.django.admin import PeriodicTaskMixin, extend

    class Mine(ModelAdmin):  # type: ignore[misc]
        list_display = ("name",)

    site = AdminSite()
    extend(site)
    assert not site.is_registered(PeriodicTask)
    site.register(PeriodicTask, Mine)
    extend(site)
    extend(site)
    made = type(site._registry[PeriodicTask])
    assert issubclass(made, PeriodicTaskMixin)
    assert issubclass(made, Mine)
    assert made.__mro__.count(PeriodicTaskMixin) == 1


def _sync(*arguments: str) -> "tuple[int, str]":
    """The exit code and the output of `manage.py chronarch_sync`."""
    out = io.StringIO()
    try:
        management.call_command("chronarch_sync", *arguments, stdout=out, stderr=out)
    except management.CommandError as error:
        return error.returncode, out.getvalue() + str(error)
    return 0, out.getvalue()


def test_bulk_changes_are_caught_by_a_comparison(namespace: str, client: Client) -> None:
    code, text = _sync()
    assert code == 0, text
    schedule, _ = IntervalSchedule.objects.get_or_create(every=36_500, period="days")
    rows = [PeriodicTask(name=name, task="shop.nothing", interval=schedule) for name in ("a", "b")]
    PeriodicTask.objects.bulk_create(rows)
    assert job(client, namespace, "a") is None
    code, text = _sync("--check")
    assert code == 2
    assert "+ a\n+ b\n" in text
    assert job(client, namespace, "a") is None, "a check changes nothing"
    assert _sync()[0] == 0
    assert _sync("--check")[0] == 0
    PeriodicTask.objects.filter(name="a").update(args="[7]", enabled=False)
    code, text = _sync("--check")
    assert code == 2
    assert "target.celery.args: (unset) -> [7]" in text
    assert "paused: chronarch-celery: disabled at its source" in text
    assert _sync()[0] == 0
    assert _state(client, namespace) == "paused"
    PeriodicTask.objects.filter(name="b")._raw_delete("default")
    code, text = _sync()
    assert (code, job(client, namespace, "b") is not None) == (0, True)
    assert "--prune removes them: b" in text
    assert "- b\n" in _sync("--prune")[1]
    assert job(client, namespace, "b") is None
    assert job(client, namespace, "a") is not None


def test_an_entry_that_cannot_be_carried_is_named_and_holds_nothing_up(namespace: str, client: Client) -> None:
    with _push.muted():
        hourly("bad", args="[1")
        hourly("good")
    code, text = _sync()
    assert code == 1
    assert "bad: args: " in text
    assert job(client, namespace, "good") is not None


def test_a_command_says_that_the_cluster_does_not_answer(down: None) -> None:
    code, text = _sync("--check")
    assert code == 3
    assert "no endpoint answered" in text


def test_rows_are_told_when_they_ran_and_how_often(namespace: str, client: Client) -> None:
    schedule = IntervalSchedule.objects.create(every=1, period="seconds")
    row = PeriodicTask.objects.create(name="a", task="shop.nothing", interval=schedule)
    changed, definition = row.date_changed, job(client, namespace, "a")
    assert definition is not None

    def told() -> bool:
        # As two beats at once do it.
        with ThreadPoolExecutor(2) as pool:
            for done in [pool.submit(_write_back, client, namespace) for _ in range(2)]:
                done.result()
        row.refresh_from_db()
        return bool(row.total_run_count >= 4)

    eventually("four runs to be counted", told)
    runs = client.list_runs(namespace=namespace, job="a", to=row.last_run_at + timedelta(milliseconds=1)).runs
    assert row.last_run_at == max(run.scheduled_at for run in runs if run.scheduled_at)
    assert row.total_run_count == len(runs)
    assert row.date_changed == changed, "no signals, and no change that anybody would push"
    # What is told does not change the job: the interval goes on in its phase.
    assert _sync()[0] == 0
    again = job(client, namespace, "a")
    assert again is not None
    first, then = (one.spec.schedule[0] for one in (definition, again) if one.spec is not None)
    assert (then.every, then.offset or timedelta()) == (first.every, (row.last_run_at - EPOCH) % first.every)
    assert _sync("--check")[0] == 0


def _write_back(client: Client, namespace: str) -> None:
    try:
        _mirror.write_back(client, namespace, deadline=time.monotonic() + 20)
    finally:
        connections.close_all()


def test_runs_by_hand_are_not_counted(namespace: str, client: Client) -> None:
    row = hourly("a")
    _run(client, namespace, "a")
    _write_back(client, namespace)
    row.refresh_from_db()
    assert (row.last_run_at, row.total_run_count) == (None, 0)


def test_a_row_that_runs_once_is_disabled_when_it_has_run(namespace: str, client: Client) -> None:
    at = datetime.now(timezone.utc) + timedelta(seconds=1)
    clocked = ClockedSchedule.objects.create(clocked_time=at)
    row = PeriodicTask.objects.create(name="a", task="shop.nothing", clocked=clocked, one_off=True)

    def told() -> bool:
        _write_back(client, namespace)
        row.refresh_from_db()
        return not row.enabled

    eventually("the row to be disabled", told)
    assert (row.last_run_at, row.total_run_count) == (None, 0)
    assert _sync()[0] == 0
    assert len(client.list_runs(namespace=namespace, job="a").runs) == 1


def test_a_project_goes_back_and_forth(namespace: str, client: Client) -> None:
    client.delete_job(IN_CHARGE, namespace=namespace)
    with _push.muted():
        hourly("z")
    assert _sync("--hold")[0] == 0
    assert _reasons(client, namespace, "z") == [sync.HELD], "an old beat still sends it"
    with _push.muted():
        PeriodicTask.objects.all().delete()
    assert _sync("--prune")[0] == 0
    with _push.muted():
        hourly("a")
    assert _sync("--release")[0] == 0
    hourly("b", enabled=False)
    hourly("c")
    client.pause_job("c", namespace=namespace, reason="by hand")
    code, text = _sync("--hold")
    assert (code, "1 job(s) did" in text) == (0, True), text
    assert _reasons(client, namespace, "a") == [sync.HELD]
    # What is made, or saved, while another beat sends is not sent twice.
    hourly("d")
    _sync()
    hourly("e").save()
    PeriodicTask.objects.get(name="a").save()
    assert _reasons(client, namespace, "a", "d", "e") == [sync.HELD] * 3
    code, text = _sync("--release")
    assert (code, "3 job(s) are let go" in text) == (0, True), text
    assert _reasons(client, namespace, "a", "d", "e") == [None] * 3
    assert _reasons(client, namespace, "b", "c") == [sync.DISABLED, "by hand"]
    assert _sync("--hold", "--check")[0] == 1


def _reasons(client: Client, namespace: str, *names: str) -> List[Optional[str]]:
    """Why jobs are paused."""
    found = [client.get_job(name, namespace=namespace).pause for name in names]
    return [None if pause is None else pause.reason for pause in found]


def test_an_interval_goes_on_whatever_becomes_of_its_row(namespace: str, client: Client) -> None:
    row = hourly("a", last_run_at=datetime(2026, 1, 5, 12, 34, 56, tzinfo=timezone.utc))
    before = job(client, namespace, "a")
    row.enabled = False
    row.save()
    assert row.last_run_at is None
    row.enabled = True
    row.save()
    after = job(client, namespace, "a")
    assert before is not None
    assert after is not None
    assert after.next_at == before.next_at
    assert _sync("--check")[0] == 0


def test_before_the_cluster_is_in_charge_nothing_is_sent_that_the_old_beat_sends(
    namespace: str, client: Client
) -> None:
    client.delete_job(IN_CHARGE, namespace=namespace)
    # The old beat, and the web, save rows all the time.
    hourly("a")
    assert job(client, namespace, "a") is None
    code, text = _sync()
    assert (code, "1 job(s) wait, for another beat may still send them" in text) == (0, True), text
    assert _reasons(client, namespace, "a") == [sync.HELD]
    hourly("b")
    assert _reasons(client, namespace, "b") == [sync.HELD]
    _sync("--release")
    assert _reasons(client, namespace, "a", "b") == [None, None]


def test_what_the_cluster_writes_back_is_not_taken_for_a_beat(namespace: str, client: Client) -> None:
    from chronarch.celery._watch import is_the_cluster_s

    schedule = IntervalSchedule.objects.create(every=1, period="seconds")
    row = PeriodicTask.objects.create(
        name="a",
        task="shop.nothing",
        interval=schedule,
        last_run_at=datetime(2026, 1, 5, 0, 0, 0, 123_456, timezone.utc),
    )
    assert not is_the_cluster_s(row.last_run_at)

    def told() -> bool:
        _write_back(client, namespace)
        row.refresh_from_db()
        return bool(row.total_run_count)

    eventually("a run to be counted", told)
    assert is_the_cluster_s(row.last_run_at)
