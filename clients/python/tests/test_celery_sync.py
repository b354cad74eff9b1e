"""`chronarch-celery sync`, against real nodes."""

import dataclasses
import datetime
import os
import subprocess
import sys
import textwrap
from pathlib import Path
from typing import Any, Dict, List

import pytest
from celery import Celery
from celery.schedules import crontab, schedule
from cluster import Cluster

from chronarch import Client, models
from chronarch.celery import _late, adopt, doctor, sync
from chronarch.celery._telling import tell
from chronarch.celery.entries import BEAT_SCHEDULE, DJANGO, Entry

SOURCES = [BEAT_SCHEDULE, DJANGO]
UTC = datetime.timezone.utc


def made(name: str) -> Celery:
    app = Celery(name, broker="memory://", set_as_current=False, autofinalize=False)
    app.task(name="shop.run")(run)
    app.finalize()
    return app


def run() -> None:
    """A task."""


@pytest.fixture
def app(request: pytest.FixtureRequest) -> Celery:
    """An app of the test's own, so that no other one's jobs are its own."""
    return made(request.node.name.replace("_", "-")[:60])


def every(app: Celery, name: str, seconds: float = 3600, **more: Any) -> Entry:
    return Entry(name, name, "shop.run", schedule(seconds, app=app), DJANGO, **more)


def signs(planned: sync.Plan) -> Dict[str, str]:
    return {step.name: step.sign for step in planned.steps}


def carry(client: Client, app: Celery, entries: List[Entry], **how: Any) -> sync.Plan:
    planned = sync.plan(client, app, entries, sources=SOURCES, namespace=app.main.replace("_", "-"), **how)
    sync.apply(client, planned)
    return planned


def test_a_sync_is_idempotent_and_tells_each_field(client: Client, app: Celery) -> None:
    nightly = Entry(
        "n", "n", "shop.run", crontab("30", "2", app=app), BEAT_SCHEDULE, kwargs={"b": 1, "a": {"z": 0, "c": 1}}
    )
    first = carry(client, app, [nightly, every(app, "poll")])
    assert signs(first) == {"n": "+", "poll": "+"}
    again = carry(client, app, [nightly, every(app, "poll")])
    assert not again.changes
    later = dataclasses.replace(nightly, schedule=crontab("45", "2", app=app), args=[7])
    changed = carry(client, app, [later, every(app, "poll")]).changes
    assert [(step.sign, step.name) for step in changed] == [("~", "n")]
    told = {field.path: (field.from_, field.to) for field in changed[0].fields}
    assert told == {
        "schedule.cron": ("30 2 * * *", "45 2 * * *"),
        "target.celery.args": (None, "[7]"),
    }
    versions = client.list_versions("n", namespace=app.main).versions
    assert len(versions) == 3, "without its schedule, as it was, and as it is"


def test_first_jobs_are_held_and_later_ones_are_as_the_others(client: Client, app: Celery) -> None:
    one, two, off = every(app, "one", 1), every(app, "two"), every(app, "off", enabled=False)
    carry(client, app, [one, off])
    jobs = {job.spec.name: job for job in client.iter_jobs(namespace=app.main) if job.spec}
    assert {name: job.pause.reason for name, job in jobs.items() if job.pause} == {
        "one": sync.HELD,
        "off": sync.DISABLED,
    }
    assert list(client.iter_runs(namespace=app.main)) == [], "it is due each second, and was held before it could fire"
    carry(client, app, [one, two, off])
    assert client.get_job("two", namespace=app.main).pause, "as the others"
    client.resume_job("one", namespace=app.main)
    planned = carry(client, app, [one, two, every(app, "three"), dataclasses.replace(off, enabled=True)])
    assert signs(planned) == {"one": "=", "two": "=", "three": "+", "off": "~"}
    states = {job.spec.name: str(job.state) for job in client.iter_jobs(namespace=app.main) if job.spec}
    assert states == {"one": "active", "two": "paused", "three": "active", "off": "active"}
    client.pause_job("three", namespace=app.main, reason="an incident")
    carry(client, app, [dataclasses.replace(one, enabled=False), two, every(app, "three"), off])
    jobs = {job.spec.name: job for job in client.iter_jobs(namespace=app.main) if job.spec}
    reasons = {name: job.pause.reason for name, job in jobs.items() if job.pause}
    assert reasons == {"one": sync.DISABLED, "two": sync.HELD, "three": "an incident", "off": sync.DISABLED}


def test_new_jobs_are_held_while_all_that_could_run_are(client: Client, app: Celery) -> None:
    carry(client, app, [every(app, "a"), every(app, "b")], hold=False)
    client.pause_job("a", namespace=app.main, reason="an incident")
    carry(client, app, [every(app, "a"), every(app, "b"), every(app, "c")])
    assert client.get_job("c", namespace=app.main).pause is None
    adopt.back(client, app, [], namespace=app.main, prefix="")
    carry(client, app, [every(app, "a"), every(app, "b"), every(app, "c"), every(app, "d")])
    pause = client.get_job("d", namespace=app.main).pause
    assert pause is not None, "a beat sends it"
    assert pause.reason == sync.HELD


def test_a_held_job_that_is_disabled_stays_so_when_the_others_are_adopted(client: Client, app: Celery) -> None:
    entry = every(app, "it", 1)
    carry(client, app, [entry])
    carry(client, app, [dataclasses.replace(entry, enabled=False)])
    job = client.get_job("it", namespace=app.main)
    assert job.pause is not None
    assert job.pause.reason == sync.DISABLED
    assert job.spec is not None
    assert job.spec.schedule, "it has its schedule again"
    assert list(client.iter_runs(namespace=app.main)) == []


def test_neither_a_sync_nor_an_edit_runs_anything(client: Client, app: Celery) -> None:
    ago = datetime.datetime.now(UTC) - datetime.timedelta(minutes=50)
    entry = every(app, "it", 3600, last_run_at=ago)
    carry(client, app, [entry], hold=False)
    job = client.get_job("it", namespace=app.main)
    assert job.next_at is not None
    assert abs(job.next_at - ago - datetime.timedelta(hours=1)) < datetime.timedelta(seconds=1)
    moved = dataclasses.replace(entry, last_run_at=ago + datetime.timedelta(minutes=7))
    assert not carry(client, app, [moved]).changes, "what ran at the source meanwhile moves nothing"
    assert [step.sign for step in carry(client, app, [moved], carry=True).changes] == ["~"], "unless it is asked for"
    carry(client, app, [dataclasses.replace(entry, schedule=schedule(600, app=app))])
    next_at = client.get_job("it", namespace=app.main).next_at
    assert next_at is not None
    assert next_at > datetime.datetime.now(UTC)
    assert list(client.iter_runs(namespace=app.main)) == []


def test_prune_removes_what_sync_made_and_nothing_else(client: Client, app: Celery) -> None:
    space, other = app.main, made("another")
    target = {"queue": {"payload": "{}"}}
    client.apply_jobs([{"name": name, "namespace": space, "target": target} for name in ("by-hand", "taken")])
    sync.apply(client, sync.plan(client, other, [every(other, "theirs")], sources=SOURCES, namespace=space))
    static = Entry("static", "static", "shop.run", crontab(app=app), BEAT_SCHEDULE)
    bad = every(app, "bad")
    carry(client, app, [every(app, "stays"), every(app, "goes"), bad, static])
    spoilt = dataclasses.replace(bad, kwargs={"it": object()})
    left = [every(app, "stays"), spoilt, every(app, "taken")]
    kept = sync.plan(client, app, left, sources=[DJANGO], namespace=space)
    assert (kept.orphans, kept.count("-")) == (("goes",), 0)
    planned = sync.plan(client, app, left, sources=[DJANGO], namespace=space, prune=True)
    sync.apply(client, planned)
    names = {job.spec.name for job in client.iter_jobs(namespace=space) if job.spec}
    assert names == {"by-hand", "taken", "theirs", "stays", "bad", "static"}
    told = {problem.name: problem.reason for problem in planned.problems}
    assert "not JSON serializable" in told["bad"], "its job stays as it is"
    assert "not made for this app; give the app a namespace of its own" in told["taken"]


def test_a_task_that_is_confirmed_late_is_not_lost_with_its_worker(client: Client, app: Celery) -> None:
    app.task(name="shop.late", acks_late=True)(made)

    entries = [every(app, "early"), dataclasses.replace(every(app, "late"), task="shop.late")]
    carry(client, app, entries)

    def lost_after(name: str) -> Any:
        spec = client.get_job(name, namespace=app.main.replace("_", "-")).spec
        assert spec is not None
        assert spec.target is not None
        assert spec.target.celery is not None
        return spec.target.celery.lost_after

    assert (lost_after("early"), lost_after("late")) == (None, datetime.timedelta(0))
    assert not carry(client, app, entries).changes


def test_what_the_cluster_refuses_is_named_and_blocks_nothing(client: Client, app: Celery) -> None:
    bad = [every(app, f"bad-{at}", options={"headers": {"lang": "x"}}) for at in range(3)]
    limits = every(app, "limits", options={"time_limit": 5, "soft_time_limit": 10})
    gone = dataclasses.replace(every(app, "gone"), task="shop.gone")
    planned = carry(client, app, [*bad, every(app, "good"), limits, gone])
    assert signs(planned) == {"good": "+"}
    told = {problem.name: problem.reason for problem in planned.problems}
    assert set(told) == {"bad-0", "bad-1", "bad-2", "limits", "gone"}
    assert told["bad-2"].startswith("target.celery.headers"), told
    assert told["limits"].startswith("target.celery.soft_time_limit"), told
    assert "has not registered shop.gone" in told["gone"]
    assert signs(carry(client, app, [gone], allow_unknown=True))["gone"] == "+"


def test_what_is_disabled_and_cannot_be_carried_is_no_problem(
    client: Client, app: Celery, capsys: pytest.CaptureFixture[str]
) -> None:
    off, held = every(app, "off"), every(app, "held")
    carry(client, app, [off], hold=False)
    carry(client, app, [off, held], hold=True)
    spoilt: Dict[str, Any] = {"enabled": False, "kwargs": {"it": object()}}
    done = every(app, "done", one_off=True, total_run_count=1, enabled=False)
    entries = [dataclasses.replace(off, **spoilt), dataclasses.replace(held, **spoilt), done]
    planned = carry(client, app, entries)
    assert planned.problems == ()
    assert [one.name for one in planned.idle] == ["off", "held", "done"]
    tell(planned)
    told = capsys.readouterr()
    assert '~ off  (django "off"): paused, for it is disabled there' in told.out
    assert "  disabled, and not carried: off, held, done\n" in told.err
    assert "!" not in told.err
    for name in ("off", "held"):
        job = client.get_job(name, namespace=app.main)
        assert job.pause is not None, "what it was made of before is not sent either"
        assert job.pause.reason == sync.DISABLED
        assert job.spec is not None
        assert job.spec.schedule, "it has its schedule again"
    assert carry(client, app, entries, prune=True).changes == ()
    problems = [dataclasses.replace(one, problem="it cannot be said") for one in (entries[0], off)]
    found = list(doctor._entries(app, problems, [], doctor.Wanted(None)))
    assert [finding.about for finding in found if finding.level == doctor.FAIL] == ["entry off"], (
        "the one that is enabled"
    )


SHOP = """
from celery import Celery
from celery.schedules import crontab
app = Celery("command", broker="memory://")
app.conf.result_expires = None

@app.task(name="shop.run")
def run(*args): pass

app.conf.beat_schedule = {
    "Nightly": {"task": "shop.run", "schedule": crontab("30", "2")},
    "poll": {"task": "shop.run", "schedule": 60.0, "args": [1]},
    %s
}
"""


def test_the_command_says_by_its_exit_code_what_is(nodes: Cluster, tmp_path: Path) -> None:
    def say(*arguments: str, extra: str = "") -> "subprocess.CompletedProcess[str]":
        (tmp_path / "shop_command.py").write_text(textwrap.dedent(SHOP) % extra)
        command = [
            sys.executable,
            "-m",
            "chronarch.celery.cli",
            "sync",
            "-A",
            "shop_command",
            "-n",
            "command",
            *arguments,
        ]
        environment = {**os.environ, "CHRONARCH_ENDPOINTS": ",".join(nodes.endpoints)}
        return subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, env=environment)

    dry = say("--dry-run")
    assert dry.returncode == 0, dry.stderr
    assert [line for line in dry.stdout.splitlines() if line[0] in "+~-"] == [
        '+ nightly  (beat_schedule "Nightly"): held until adopt',
        '+ poll  (beat_schedule "poll"): held until adopt',
    ]
    assert say("--check").returncode == 2
    more = '"poll-2": {"task": "shop.run", "schedule": 30.0}, "poll-3": {"task": "shop.run", "schedule": 90.0},'
    noted = say("--dry-run", extra=more).stdout
    assert noted.count("note: every: counts from") == 0
    assert "note, of 3 jobs: every: counts from each run" in noted, "once, and not under each"
    assert "    note: every: counts from each run" in dry.stdout, "one that is alone is told with its job"
    unheard_of = say("--dry-run", "--broker", "nope").stdout
    assert 'note, of 2 jobs: at present no worker has a connection "nope" for celery targets' in unheard_of
    assert say().returncode == 0
    assert say("--check").returncode == 0
    broken = say(extra='"bad": {"task": "shop.run", "schedule": 5, "kwargs": {"it": {1, 2}}},')
    assert broken.returncode == 1
    assert "! bad (beat_schedule): kwargs: Object of type set is not JSON serializable; pass what" in broken.stderr
    assert (
        say("--ignore", "bad", extra='"bad": {"task": "shop.run", "schedule": 5, "kwargs": {1: {2}}},').returncode == 0
    )
    changed = say("--check", extra='"poll": {"task": "shop.run", "schedule": 120.0, "args": [1]},')
    assert changed.returncode == 2
    assert "    schedule.every: 1m -> 2m" in changed.stdout
    both = '"poll": {"task": "shop.run", "schedule": 120.0}, "bad": {"task": "shop.run", "schedule": 5, "args": [{1}]},'
    assert say("--check", extra=both).returncode == 2, "a difference is told, whatever else is"
    assert say("--endpoints", "127.0.0.1:1", "--timeout", "1").returncode == 3
    assert "expected beat_schedule, django, redbeat, found 'x'" in say("--from", "x").stderr


def test_what_was_due_while_a_beat_was_looked_for_is_told_and_caught_up_with(client: Client, app: Celery) -> None:
    minutely = Entry("m", "m", "shop.run", crontab(app=app), BEAT_SCHEDULE)
    rare = Entry("r", "r", "shop.run", crontab("0", "0", day_of_month="29", month_of_year="2", app=app), BEAT_SCHEDULE)
    namespace = app.main.replace("_", "-")
    planned = sync.plan(client, app, [minutely, rare], sources=SOURCES, namespace=namespace, hold=True, carry=True)
    began = datetime.datetime.now(datetime.timezone.utc) - datetime.timedelta(seconds=90)
    done = adopt.forward(client, planned, catch_up=True, since=began)
    assert [name for name, _ in done.due_meanwhile] == ["m"], "its source knows no last run"
    assert began < done.due_meanwhile[0][1] <= began + datetime.timedelta(minutes=1)
    assert done.run == ["m"]
    assert [run.cause for run in client.iter_runs(namespace=namespace, job="m")].count(models.Cause.MANUAL) == 1


def test_what_runs_once_runs_late_but_not_twice(client: Client, app: Celery) -> None:
    ago = datetime.datetime.now(UTC) - datetime.timedelta(minutes=5)
    once = every(app, "once", 60, one_off=True, changed_at=ago)
    later = every(app, "later", 86_400, one_off=True, changed_at=ago)
    over = every(app, "over", 60, one_off=True, changed_at=ago, expires=ago + datetime.timedelta(minutes=3))
    entries = [once, later, over]
    carry(client, app, entries)
    for run_now in (["once"], []):
        planned = carry(client, app, entries, hold=True, carry=True)
        done = adopt.forward(client, planned)
        assert done.run == run_now
        assert [name for name, _ in done.due_meanwhile] == run_now
        client.pause_jobs(namespace=app.main, labels={"celery-app": app.main}, reason=sync.HELD)
    assert [run.job for run in client.iter_runs(namespace=app.main)] == ["once"]
    # One that is saved just before its beat is stopped, and needs no adopting.
    saved = every(app, "saved", 60, one_off=True, changed_at=ago)
    for _ in range(2):
        carry(client, app, [*entries, saved], hold=False)
        saved = dataclasses.replace(saved, description="x")
    assert [run.job for run in client.iter_runs(namespace=app.main, job="saved")] == ["saved"]
    # What somebody runs by hand is not its run.
    client.pause_job("later", namespace=app.main, reason=sync.HELD)
    ago -= datetime.timedelta(days=2)
    client.trigger_job("later", namespace=app.main)
    later = dataclasses.replace(later, start_time=ago)
    assert adopt.forward(client, carry(client, app, [later], hold=True, carry=True)).run == ["later"]


def test_what_is_done_once_is_told_apart_by_the_whole_name_and_the_namespace() -> None:
    at = datetime.datetime(2026, 1, 1, tzinfo=datetime.timezone.utc)
    names = [("n", "a" * 100), ("n", "a" * 100 + "b"), ("m", "a" * 100)]
    found = {_late.operation_at("late", namespace, name, at) for namespace, name in names}
    assert len(found) == 3
    assert all(len(one) <= 64 for one in found)


@pytest.mark.parametrize("guide", ["docs/celery.md", "clients/python/docs/django.md", "clients/python/README.md"])
def test_a_guide_installs_what_a_broker_on_redis_needs(guide: str) -> None:
    text = (Path(__file__).parents[3] / guide).read_text()
    (line,) = [line for line in text.splitlines() if "pip install './clients/python[celery" in line]
    # kombu imports more than the client of Redis: `packaging`, as of 5.7.
    assert "'celery[redis]'" in line
