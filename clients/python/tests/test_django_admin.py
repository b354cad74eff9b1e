"""django-celery-beat's admin, with what real nodes know."""

import datetime
import re
from pathlib import Path
from typing import Any, Dict, List

import django_shop
import pytest
from django_rows import rare, run_once, state

from chronarch import Client, models

django_shop.set_up()

from django.test import Client as Browser  # noqa: E402
from django.test import override_settings  # noqa: E402
from django.urls import reverse  # noqa: E402
from django_celery_beat.models import PeriodicTask  # noqa: E402

from chronarch.django import _checks, _look, _push  # noqa: E402


@pytest.fixture
def browser() -> Browser:
    """Somebody who may do everything."""
    from django.contrib.auth.models import User

    user, _ = User.objects.get_or_create(username="ada", defaults={"is_staff": True, "is_superuser": True})
    browser = Browser()
    browser.force_login(user)
    return browser


def test_the_time_that_a_task_takes_is_no_lateness_of_its_run() -> None:
    due = datetime.datetime(2026, 1, 1, tzinfo=datetime.timezone.utc)
    left, ended = (due + datetime.timedelta(seconds=seconds) for seconds in (0.5, 90))
    waited = models.Attempt(number=1, finished_at=ended, task_id="a", handed_over_at=left)
    run = models.Run(state=models.RunState.SUCCEEDED, due_at=due, attempts=[waited])
    assert (_look.outcome(run), _look.lateness(run)) == ("succeeded", left - due)
    run.attempts = [models.Attempt(number=1, finished_at=left)]
    assert (_look.outcome(run), _look.lateness(run)) == ("sent", left - due)


def test_the_list_shows_what_the_cluster_knows_with_one_call(
    namespace: str, client: Client, browser: Browser, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("first row", "second row", "third row"):
        rare(name)
    with _push.muted():
        rare("never told")
    run_once(client, namespace, "first-row")
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
    row = rare("<b>bold</b>")
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

    row = rare("a")
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
    rows = [rare(name) for name in ("a", "b")]
    with _push.muted():
        rows.append(rare("c"))
    url = reverse("admin:django_celery_beat_periodictask_changelist")

    def act(action: str) -> str:
        chosen: Dict[str, Any] = {"action": action, "_selected_action": [row.pk for row in rows]}
        return str(browser.post(url, chosen, follow=True).content.decode())

    text = act("chronarch_run_now")
    assert "2 run(s) made" in text
    assert "Not in the cluster (yet): c" in text
    assert sorted(run.job for run in client.list_runs(namespace=namespace).runs) == ["a", "b"]
    act("disable_tasks")
    assert state(client, namespace) == "paused"
    act("enable_tasks")
    assert state(client, namespace) == "active"
    act("toggle_tasks")
    assert state(client, namespace) == "paused"


@pytest.mark.parametrize("name", _checks.OURS)
def test_a_scheduler_that_the_settings_name_is_one_for_beat(name: str) -> None:
    from celery import Celery
    from celery.beat import Service

    from chronarch.celery.scheduler import Scheduler

    app = Celery("x", broker="memory://", set_as_current=False)
    app.conf.beat_scheduler = name
    assert isinstance(Service(app, scheduler_cls=app.conf.beat_scheduler).get_scheduler(lazy=True), Scheduler)


def test_a_scheduler_that_the_settings_are_told_to_name_is_one_for_the_admin(namespace: str, browser: Browser) -> None:
    guide = Path(__file__).parent.parent / "docs" / "django.md"
    assert f'`CELERY_BEAT_SCHEDULER = "{_checks.SCHEDULER}"`' in guide.read_text()
    rare("a")
    with override_settings(CELERY_BEAT_SCHEDULER=_checks.SCHEDULER):
        page = browser.get(reverse("admin:django_celery_beat_periodictask_changelist"))
    assert page.status_code == 200
    assert "CELERY_BEAT_SCHEDULER" not in page.content.decode(), "no warning of another scheduler"


def test_pages_say_so_when_the_cluster_cannot_be_reached(down: None, browser: Browser) -> None:
    row = rare("a")
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


def test_who_saves_a_row_is_told_what_is_wrong_with_it(namespace: str, browser: Browser) -> None:
    row = rare("a")
    form = {"name": "a", "regtask": "", "task": "shop.gone", "interval": row.interval_id, "enabled": "on"}
    form.update(args="[1]", kwargs="{}", headers="{}", start_time_0="", start_time_1="", expires_0="", expires_1="")
    url = reverse("admin:django_celery_beat_periodictask_change", args=(row.pk,))
    page = browser.post(url, form, follow=True).content.decode()
    assert "The cluster: a is sent, but task: the app has not registered shop.gone" in page
    assert "the app has not registered" not in browser.get(url).content.decode(), "once"


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
