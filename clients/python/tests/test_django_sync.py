"""`manage.py chronarch_sync`, and what rows are told of their runs, against real nodes."""

import io
import re
import time
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime, timedelta, timezone
from typing import List, Optional

import django_shop
import pytest
from cluster import eventually
from django_rows import IN_CHARGE, job, rare, run_once, state

from chronarch import Client

django_shop.set_up()

from django.core import management  # noqa: E402
from django.db import connections  # noqa: E402
from django_celery_beat.models import ClockedSchedule, IntervalSchedule, PeriodicTask  # noqa: E402

from chronarch.celery import adopt, sync  # noqa: E402
from chronarch.celery._beat_options import of_app  # noqa: E402
from chronarch.celery._reconcile import Reconciler  # noqa: E402
from chronarch.django import _checks, _connect, _mirror, _push  # noqa: E402

EPOCH = datetime(1970, 1, 1, tzinfo=timezone.utc)


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
    assert state(client, namespace) == "paused"
    PeriodicTask.objects.filter(name="b")._raw_delete("default")
    code, text = _sync()
    assert (code, job(client, namespace, "b") is not None) == (0, True)
    assert "--prune removes them: b" in text
    assert "- b\n" in _sync("--prune")[1]
    assert job(client, namespace, "b") is None
    assert job(client, namespace, "a") is not None


def test_an_entry_that_cannot_be_carried_is_named_and_holds_nothing_up(namespace: str, client: Client) -> None:
    with _push.muted():
        rare("bad", args="[1")
        rare("good")
    code, text = _sync()
    assert code == 1
    assert "bad: args: " in text
    assert job(client, namespace, "good") is not None


def test_a_task_that_is_not_registered_is_named_with_the_way_out(namespace: str, client: Client) -> None:
    _push.take_notes()
    row = rare("typo")
    assert _push.take_notes() == ()
    row.task = "shop.nohting"
    row.save()
    why = "is sent, but task: the app has not registered shop.nohting, so that its workers would drop it; correct the"
    (note,) = _push.take_notes()
    assert note.startswith(f"typo {why} name, import its module in the app")
    code, text = _sync()
    assert (code, f"WARNING: typo: {why} name, import its" in text) == (0, True), text
    PeriodicTask.objects.filter(name="typo").update(enabled=False)
    assert "WARNING" not in _sync()[1]


def test_a_row_that_is_disabled_and_cannot_be_carried_is_no_problem(
    namespace: str, client: Client, caplog: pytest.LogCaptureFixture
) -> None:
    rows = [rare("done", one_off=True), rare("bad")]
    PeriodicTask.objects.filter(name="done").update(enabled=False, total_run_count=1)
    _push.take_notes()
    rows[1].args, rows[1].enabled = "[1", False
    rows[1].save()
    assert _push.take_notes() == ()
    assert _reasons(client, namespace, "bad") == [sync.DISABLED]
    for argument in ("--hold", "--release"):
        code, text = _sync(argument)
        assert (code, "disabled, and not carried: done, bad\n" in text) == (0, True), text
    assert _reasons(client, namespace, "done", "bad") == [sync.DISABLED] * 2
    assert _sync("--check")[0] == 0
    app = _checks.celery_app(_connect.options())
    Reconciler(app, of_app(app), client).run()
    assert "not sent by the cluster" not in caplog.text


def test_a_command_says_that_the_cluster_does_not_answer(down: None) -> None:
    code, text = _sync("--check")
    assert code == 3
    assert "no endpoint answered" in text


@pytest.mark.parametrize("every", ["0", "nan", "inf"])
def test_a_command_says_that_its_pause_is_none(every: str) -> None:
    assert _sync("--watch", "--every", every) == (1, "--every: expected seconds above 0")


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
    row = rare("a")
    run_once(client, namespace, "a")
    _write_back(client, namespace)
    row.refresh_from_db()
    assert (row.last_run_at, row.total_run_count) == (None, 0)
    app = _checks.celery_app(_connect.options())
    done = adopt.back(client, app, sync.collect(app, ["django"]), namespace=namespace, prefix="")
    assert (done.held, done.written) == (["a", IN_CHARGE], [])
    row.refresh_from_db()
    assert row.last_run_at is None, "at the next adopt an interval would count from there"


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


def test_a_row_whose_instant_is_over_runs_once_as_beat_runs_it(namespace: str, client: Client) -> None:
    clocked = ClockedSchedule.objects.create(clocked_time=datetime.now(timezone.utc) - timedelta(hours=1))
    row = PeriodicTask.objects.create(name="a", task="shop.nothing", clocked=clocked, one_off=True)
    eventually("a run", lambda: client.list_runs(namespace=namespace, job="a").runs)
    row.refresh_from_db()
    row.description = "saved again"
    row.save()
    with _push.muted():
        # One whose signals nobody heard.
        PeriodicTask.objects.create(name="b", task="shop.nothing", clocked=clocked, one_off=True)
        PeriodicTask.objects.create(name="off", task="shop.nothing", clocked=clocked, one_off=True, enabled=False)
    assert _sync()[0] == 0
    assert _sync()[0] == 0
    found = [len(client.list_runs(namespace=namespace, job=name).runs) for name in ("a", "b", "off")]
    assert found == [1, 1, 0]


def _due_while_held(namespace: str, client: Client) -> List[PeriodicTask]:
    """Two rows that run once, and whose instants pass while their jobs are held."""
    assert _sync("--hold")[0] == 0
    second, _ = IntervalSchedule.objects.get_or_create(every=1, period="seconds")
    clocked = ClockedSchedule.objects.create(clocked_time=datetime.now(timezone.utc) + timedelta(seconds=1))
    with _push.muted():
        rows = [
            PeriodicTask.objects.create(name="a", task="shop.nothing", interval=second, one_off=True),
            PeriodicTask.objects.create(name="b", task="shop.nothing", clocked=clocked, one_off=True),
        ]
    assert _sync()[0] == 0
    assert _reasons(client, namespace, "a", "b") == [sync.HELD] * 2
    time.sleep(2.1)
    assert _runs(client, namespace) == [0, 0]
    return rows


def _runs(client: Client, namespace: str) -> List[int]:
    return [len(client.list_runs(namespace=namespace, job=name).runs) for name in ("a", "b")]


def _enabled(rows: List[PeriodicTask]) -> List[bool]:
    for row in rows:
        row.refresh_from_db()
    return [row.enabled for row in rows]


def test_what_runs_once_and_was_due_while_it_was_held_runs_when_it_is_released(namespace: str, client: Client) -> None:
    rows = _due_while_held(namespace, client)
    code, text = _sync("--release")
    assert code == 0, text
    for name in ("a", "b"):
        assert re.search(f"^{name}: was due at .*: run now, once$", text, re.MULTILINE), text
    assert _runs(client, namespace) == [1, 1]
    assert _enabled(rows) == [False, False], "as a beat leaves them"
    for argument in ("--hold", "--release"):
        assert "was due" not in _sync(argument)[1]
    # Also where a row is enabled by those who do not know of it.
    PeriodicTask.objects.update(enabled=True)
    for argument in ("--hold", "--release"):
        assert "was due" not in _sync(argument)[1]
    assert _runs(client, namespace) == [1, 1]


def test_a_row_that_adopt_ran_late_is_not_left_to_the_old_beat(namespace: str, client: Client) -> None:
    rows = _due_while_held(namespace, client)
    app = _checks.celery_app(_connect.options())
    entries = sync.collect(app, ["django"])
    planned = sync.plan(client, app, entries, sources=["django"], namespace=namespace, hold=True, carry=True)
    done = adopt.forward(client, planned)
    assert sorted(done.run) == ["a", "b"], "they are lost otherwise, so nobody has to ask for it"
    assert _enabled(rows) == [True, True]
    # The way back, as it is documented.
    assert _sync("--hold")[0] == 0
    assert _enabled(rows) == [False, False]
    assert [(row.last_run_at, row.total_run_count) for row in rows] == [(None, 0)] * 2
    assert _runs(client, namespace) == [1, 1]


def test_a_project_goes_back_and_forth(namespace: str, client: Client) -> None:
    client.delete_job(IN_CHARGE, namespace=namespace)
    with _push.muted():
        rare("z")
    assert _sync("--hold")[0] == 0
    assert _reasons(client, namespace, "z") == [sync.HELD], "an old beat still sends it"
    with _push.muted():
        PeriodicTask.objects.all().delete()
    assert _sync("--prune")[0] == 0
    with _push.muted():
        rare("a")
    assert _sync("--release")[0] == 0
    rare("b", enabled=False)
    rare("c")
    client.pause_job("c", namespace=namespace, reason="by hand")
    code, text = _sync("--hold")
    assert (code, "1 job(s) did" in text) == (0, True), text
    assert _reasons(client, namespace, "a") == [sync.HELD]
    # What is made, or saved, while another beat sends is not sent twice.
    rare("d")
    _sync()
    rare("e").save()
    PeriodicTask.objects.get(name="a").save()
    assert _reasons(client, namespace, "a", "d", "e") == [sync.HELD] * 3
    code, text = _sync("--release")
    assert (code, "3 job(s) are let go" in text) == (0, True), text
    assert _reasons(client, namespace, "a", "d", "e") == [None] * 3
    assert _reasons(client, namespace, "b", "c") == [sync.DISABLED, "by hand"]
    assert _sync("--hold", "--check")[0] == 1


def test_one_job_that_stays_held_does_not_hold_new_ones(namespace: str, client: Client) -> None:
    for name in ("a", "b"):
        rare(name)
    # As one that adopt could not carry, while all others were let go.
    client.pause_job("a", namespace=namespace, reason=sync.HELD)
    off = rare("off", enabled=False)
    rare("c")
    off.enabled = True
    off.save()
    with _push.muted():
        rare("d")
    code, text = _sync()
    assert (code, "1 job(s) wait, " in text) == (0, True), text
    assert "--release lets them go: a\n" in text
    assert _reasons(client, namespace, "a", "c", "d", "off") == [sync.HELD, None, None, None]


def test_what_is_enabled_while_all_is_held_is_held_and_says_so(
    namespace: str, client: Client, caplog: pytest.LogCaptureFixture
) -> None:
    rows = [rare(name, enabled=False) for name in ("a", "b")]
    rare("stopped")
    client.pause_job("stopped", namespace=namespace, reason="by hand")
    assert _sync("--hold")[0] == 0
    for row in rows:
        row.enabled = True
    _push.take_notes()
    rows[0].save()
    with _push.muted():
        rows[1].save()
    _sync()
    rare("c")
    assert _reasons(client, namespace, "a", "b", "c", "stopped") == [*[sync.HELD] * 3, "by hand"]
    assert _push.take_notes() == tuple(
        f"{name} is held with all jobs of the app, and not sent by the cluster: `chronarch-celery adopt` or "
        "`chronarch_sync --release` lets them go"
        for name in ("a", "c")
    )
    assert "a is held with all jobs" in caplog.text


def _reasons(client: Client, namespace: str, *names: str) -> List[Optional[str]]:
    """Why jobs are paused."""
    found = [client.get_job(name, namespace=namespace).pause for name in names]
    return [None if pause is None else pause.reason for pause in found]


def test_an_interval_goes_on_whatever_becomes_of_its_row(namespace: str, client: Client) -> None:
    row = rare("a", last_run_at=datetime(2026, 1, 5, 12, 34, 56, tzinfo=timezone.utc))
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
    rare("a")
    assert job(client, namespace, "a") is None
    code, text = _sync()
    assert (code, "1 job(s) wait, for another beat may still send them" in text) == (0, True), text
    assert _reasons(client, namespace, "a") == [sync.HELD]
    rare("b")
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
