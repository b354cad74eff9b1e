"""Entries of Celery's schedules, and the jobs that are made of them: against Celery itself, and `chronarch import`."""

import datetime
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any, Dict, List

import celery_shop
import pytest
from celery import Celery, signals
from celery.schedules import crontab, schedule
from celery_real import place
from cluster import Cluster, binary
from kombu import Exchange, Queue

from chronarch.celery import entries
from chronarch.celery.entries import CannotCarry, Entry, named, to_job

APP = celery_shop.app
UTC = datetime.timezone.utc


def read() -> Dict[str, Entry]:
    return {entry.name: entry for entry in entries.from_app(APP)}


def of(schedule: Any, **more: Any) -> Entry:
    return Entry("it", "it", "shop.nightly", schedule, entries.BEAT_SCHEDULE, **more)


def imported(dump: str, tmp_path: Path) -> Dict[str, Any]:
    """What the program makes of a dump, by name, with JSON in place of mappings and lists as the API has them."""
    path = tmp_path / "dump.json"
    path.write_text(dump)
    said = subprocess.run([binary(), "import", "celery", str(path), "-o", "json"], capture_output=True, text=True)
    assert said.stdout, said.stderr
    jobs = {job["name"]: job for job in json.loads(said.stdout)}
    for job in jobs.values():
        target = job["target"]["celery"]
        for field in {"args", "kwargs", "headers"} & set(target):
            target[field] = json.dumps(target[field], separators=(",", ":"))
    return jobs


def test_what_beat_would_send_is_read_and_what_cannot_be_carried_says_why() -> None:
    found = read()
    assert found["added"].args[0].as_tuple().exponent == -2, "what a handler of on_after_configure adds is there"
    assert found["celery.backend_cleanup"].options == {"expires": 12 * 3600}, "as beat adds it"
    problems = {name: entry.problem for name, entry in found.items() if entry.problem}
    expected = {
        "moon": "schedule: Moon is a class of the app's own",
        "lazy": "args: a BeatLazyFunc is called when the message is sent",
        "object": "kwargs: Object of type object is not JSON serializable",
        "lost": "options.queue: \"Queue 'nowhere' missing from task_queues\"",
        "over": "options.expires: 0 is over when the message is sent",
        "without": "CannotCarry: it has no task, or no schedule",
    }
    assert set(problems) == set(expected)
    for name, begin in expected.items():
        assert str(problems[name]).startswith(begin)
        with pytest.raises(CannotCarry):
            to_job(found[name], APP)
    assert {name for name, entry in found.items() if entry.only_python} == {"moon", "lazy"}


def test_jobs_are_those_of_the_import(tmp_path: Path) -> None:
    # What the app has to build is lost there: a dump has no app.
    left_out = ("lamps", "braces", "linked")
    found = {name: entry for name, entry in read().items() if not entry.problem and name not in left_out}
    dump = {
        name: {
            "task": entry.task,
            "schedule": {
                "__type__": type(entry.schedule).__name__,
                "seconds": getattr(entry.schedule, "seconds", None),
                "args": [str(one) for one in entry.schedule.__reduce__()[1]],
            },
            "args": json.loads(to_job(entry, APP)["target"]["celery"].get("args", "[]")),
            "kwargs": entry.kwargs,
            "options": entry.options,
            "route": APP.amqp.router.route(dict(entry.options), entry.task)["queue"].name,
        }
        for name, entry in found.items()
    }
    # There the exchange of a routed task is not in the dump.
    dump["feed"]["options"] = {**found["feed"].options, "exchange": "media", "routing_key": "media.feed"}
    jobs = imported(json.dumps({"timezone": "Europe/Berlin", "beat_schedule": dump}), tmp_path)
    for entry in found.values():
        job = to_job(entry, APP)
        del job["labels"]
        # The import leaves the breaker as the cluster has it, and says so in a note.
        assert job.pop("breaker") == {"consecutive_failures": 0}
        theirs = jobs.pop(job["name"])
        headers = json.loads(job["target"]["celery"].pop("headers", "{}"))
        assert headers.pop("periodic_task_name", job["name"]) == entry.name
        assert headers == json.loads(theirs["target"]["celery"].pop("headers", "{}"))
        for field in ("args", "kwargs"):
            mine, other = (side["target"]["celery"].pop(field, "null") for side in (job, theirs))
            assert json.loads(mine) == json.loads(other)
        assert job == theirs
    assert not jobs


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"queue": "reports"},
        {"queue": "media"},
        {"queue": "made-up"},
        {"exchange": "media", "routing_key": "media.x"},
        {"exchange": "media"},
        {"routing_key": "media.x"},
        {"queue": "media", "routing_key": "media.x"},
        {"queue": "reports", "exchange": "media", "routing_key": "media.x"},
        {"queue": "reports", "priority": 5},
        {"queue": Queue("own", Exchange("own", "topic"), routing_key="own.#"), "delivery_mode": 1},
    ],
)
@pytest.mark.parametrize("task", ["shop.nightly", "shop.report", "shop.feed", "shop.of-elsewhere", "shop.with-queue"])
def test_a_task_goes_where_celery_sends_it(task: str, options: Dict[str, Any]) -> None:
    app = Celery("routed", broker="memory://", set_as_current=False, autofinalize=False)
    app.conf.update(
        task_queues=[Queue("celery"), Queue("reports"), Queue("media", Exchange("media", "topic"), routing_key="m.#")],
        task_routes={"shop.report": "reports", "shop.feed": {"queue": "media", "routing_key": "media.feed"}},
    )
    for name, own in (("shop.nightly", {}), ("shop.with-queue", {"queue": "reports", "priority": 7})):
        app.task(name=name, typing=False, shared=False, **own)(celery_shop.nothing)
    app.finalize()
    told: List[Dict[str, Any]] = []

    def sent(exchange: Any, routing_key: str, properties: Any, **_: Any) -> None:
        told.append({"exchange": str(exchange), "routing_key": routing_key, "priority": properties.get("priority")})

    entry = of(crontab(app=app), options=options)
    job = to_job(Entry(**{**vars(entry), "task": task}), app)["target"]["celery"]
    signals.before_task_publish.connect(sent)
    try:
        # As beat does: a task that it knows by its class, another one by its name.
        if task in app.tasks:
            app.tasks[task].apply_async((), {}, **options)
        else:
            app.send_task(task, (), {}, **options)
    finally:
        signals.before_task_publish.disconnect(sent)
    mine = {
        "exchange": job.get("exchange", ""),
        "routing_key": job.get("routing_key") or job.get("queue", "celery"),
        "priority": job.get("priority"),
    }
    assert [mine] == told
    assert job.get("transient", False) == (options.get("delivery_mode") == 1)


def test_an_interval_goes_on_from_its_last_run() -> None:
    last = datetime.datetime(2026, 11, 23, 12, 58, 34, 567_891, tzinfo=UTC)
    job = to_job(of(schedule(600, app=APP), last_run_at=last), APP)
    assert job["schedule"] == [{"every": "10m", "offset": "8m34s567ms"}]
    aligned = to_job(of(schedule(600, relative=True, app=APP), last_run_at=last), APP)
    assert aligned["schedule"] == [{"every": "10m"}]


def test_entries_whose_names_fall_together_get_names_of_their_own() -> None:
    texts = ["Nightly run", "nightly-run", "nightly  run", "other", "x" * 200, "x" * 201]
    given = [Entry(text, text, "t", None, entries.DJANGO) for text in texts]
    names = [name for _, name in named(given)]
    assert names[1] == "nightly-run", "the one whose name it is keeps it"
    assert names[3] == "other"
    assert len(set(names)) == len(names)
    assert all(len(name) <= 128 for name in names)
    back = {entry.name: name for entry, name in named(given[::-1])}
    assert [back[text] for text in texts] == names, "whatever the order"


def test_a_zone_without_a_name_is_refused_with_the_way_out() -> None:
    of_machine = crontab(app=APP)
    of_machine.tz = datetime.timezone(datetime.timedelta(hours=1))
    with pytest.raises(CannotCarry, match="say it in the app: `timezone = 'Europe/Berlin'`"):
        to_job(of(of_machine), APP)
    own = crontab(nowfun=lambda: datetime.datetime.now(UTC), app=APP)
    with pytest.raises(CannotCarry, match="nowfun") as refused:
        to_job(of(own), APP)
    assert refused.value.only_python


def test_crontabs_are_read_as_the_import_reads_them() -> None:
    vectors = json.loads((Path(__file__).parents[3] / "src/import/testdata/celery.crontab.json").read_text())
    for vector in vectors["refused"]:
        fields = {name: vector[name] for name in ("minute", "hour", "day_of_week", "day_of_month", "month_of_year")}
        with pytest.raises(CannotCarry, match=": expected "):
            entries.crontab_line(fields)
    for vector in vectors["taken"]:
        assert len(entries.crontab_line(vector).split(" ")) == 5
    with pytest.raises(CannotCarry, match='day_of_week: expected 0 to 6; Sunday is 0, found "7"'):
        entries.crontab_line({"day_of_week": "7"})


ROWS = """
import datetime, json, sys
import django
from django.conf import settings
settings.configure(INSTALLED_APPS=["django_celery_beat"], USE_TZ=True, TIME_ZONE="Europe/Berlin",
    DATABASES={"default": {"ENGINE": "django.db.backends.sqlite3", "NAME": ":memory:"}},
    DEFAULT_AUTO_FIELD="django.db.models.BigAutoField")
django.setup()
from django.core.management import call_command
call_command("migrate", verbosity=0)
from django_celery_beat.models import *
from celery_shop import app
from chronarch.celery import entries
at = lambda *parts: datetime.datetime(*parts, tzinfo=datetime.timezone.utc)
cron = CrontabSchedule.objects.create(minute="30", hour="2", timezone="Europe/Berlin")
days = CrontabSchedule.objects.create(minute="0", hour="9,17", day_of_month="1-7", day_of_week="mon-fri",
    timezone="America/New_York")
wrong = CrontabSchedule.objects.create(day_of_week="7")
every = IntervalSchedule.objects.create(every=10, period="minutes")
once = ClockedSchedule.objects.create(clocked_time=at(2026, 12, 24, 17))
new = PeriodicTask.objects.create
new(name="Nightly cleanup", task="shop.nightly", crontab=cron, kwargs='{"days": 30}', description="Old sessions")
new(name="first-workdays", task="shop.nightly", crontab=days, args='["monthly"]', queue="reports", priority=5,
    expire_seconds=3600)
new(name="poll", task="shop.nightly", interval=every, start_time=at(2026, 1, 1), expires=at(2027, 1, 1),
    last_run_at=at(2026, 11, 23, 12, 58, 34), total_run_count=7, headers='{"tenant": "acme"}')
new(name="never", task="shop.nightly", interval=every, start_time=at(2026, 1, 1))
new(name="present", task="shop.nightly", clocked=once, one_off=True)
new(name="off", task="shop.nightly", interval=every, enabled=False)
new(name="sunday", task="shop.nightly", crontab=wrong)
new(name="bad", task="shop.nightly", interval=every, args="[1,")
new(name="done", task="shop.nightly", interval=every, one_off=True, total_run_count=1)
PeriodicTask.objects.filter(name="bad").update(crontab=cron)
PeriodicTask.objects.filter(name="bad").update(crontab=None)
found = entries.from_django(app)
with open(sys.argv[1], "w") as dump:
    call_command("dumpdata", "django_celery_beat", stdout=dump)
print(json.dumps({entry.name: [str(entry.last_run_at), entry.enabled, entry.problem,
    None if entry.problem else entries.to_job(entry, app)] for entry in found}))
"""


def test_rows_of_django_celery_beat_are_read_by_their_columns(tmp_path: Path) -> None:
    dump = tmp_path / "rows.json"
    command = [sys.executable, "-c", ROWS, str(dump)]
    said = subprocess.run(command, capture_output=True, text=True, cwd=Path(__file__).parent)
    assert said.returncode == 0, said.stderr
    found = json.loads(said.stdout)
    problems = {name: problem for name, (_, _, problem, _) in found.items() if problem}
    assert set(problems) == {"sunday", "bad", "done"}
    assert problems["sunday"].startswith('day_of_week: expected 0 to 6; Sunday is 0, found "7"')
    assert problems["bad"].startswith("args: ")
    assert problems["done"].startswith("one_off: it has run")
    assert found["never"][0] == "None", "ModelEntry would invent it"
    assert found["poll"][0] == "2026-11-23 12:58:34+00:00"
    assert [name for name, (_, enabled, _, _) in found.items() if not enabled] == ["off"]
    jobs = imported(dump.read_text(), tmp_path)
    for name, (_, _, problem, job) in found.items():
        if problem:
            continue
        theirs = jobs.pop(job["name"])
        assert job.pop("labels") == {
            "managed-by": "chronarch-celery",
            "celery-source": "django",
            "celery-app": "shop",
            "celery-origin": "celery_shop",
        }
        del job["breaker"]
        headers = json.loads(job["target"]["celery"].pop("headers", "{}"))
        assert headers.pop("periodic_task_name", job["name"]) == name
        assert headers == json.loads(theirs["target"]["celery"].pop("headers", "{}"))
        # What the file leaves to the time it is applied at is named here.
        assert job == theirs, name
    assert not jobs


KEYS = """
import datetime, json, os, sys
from celery import Celery
from celery.schedules import crontab, schedule
from dateutil.rrule import FR, MO
from redbeat import RedBeatSchedulerEntry
from redbeat.schedules import rrule
from chronarch.celery import entries
url = os.environ["REDIS"]
app = Celery("red", broker=url)
app.conf.update(redbeat_redis_url=url, timezone="UTC")
at = lambda *parts, zone=datetime.timezone.utc: datetime.datetime(*parts, tzinfo=zone)
def new(name, schedule, **more):
    made = RedBeatSchedulerEntry(name, "shop.run", schedule, app=app, **more)
    made.last_run_at = more.get("last_run_at")
    return made.save()
new("poll", schedule(20, app=app), last_run_at=at(2026, 11, 26, 17, 22, 3), enabled=False)
new("nightly", crontab("30", "2", "1-5", app=app), args=["a"], kwargs={"b": 1},
    options={"queue": "night", "expires": 3600})
new("weekly", rrule("WEEKLY", dtstart=at(2026, 1, 5, 9), interval=2, byweekday=(MO, FR), until=at(2027, 1, 1), app=app))
new("offset", rrule("MONTHLY", dtstart=at(2026, 1, 1, 9, zone=datetime.timezone(datetime.timedelta(hours=2))), count=5,
    bymonthday=15, app=app))
new("easter", rrule("YEARLY", dtstart=at(2026, 1, 1), byeaster=0, app=app))
bad = new("bad", crontab(app=app))
import redis
server = redis.Redis.from_url(url, decode_responses=True)
definition = json.loads(server.hget(bad.key, "definition"))
definition["schedule"]["day_of_week"] = "7"
server.hset(bad.key, "definition", json.dumps(definition))
found = entries.from_redbeat(app)
with open(sys.argv[1], "w") as dump:
    for entry in found:
        if entry.name not in ("bad", "easter"):
            dump.write("\\n".join(server.hmget(entry.key, "definition", "meta")) + "\\n")
print(json.dumps({entry.name: [str(entry.last_run_at), entry.enabled, entry.problem,
    None if entry.problem else entries.to_job(entry, app)] for entry in found}))
"""


def test_entries_of_redbeat_are_read_from_its_keys(tmp_path: Path, nodes: Cluster) -> None:
    with place(tmp_path, nodes, "keys") as redis:
        command = [sys.executable, "-c", KEYS, str(tmp_path / "keys.json")]
        environment = {**os.environ, "REDIS": redis.url}
        said = subprocess.run(command, capture_output=True, text=True, env=environment)
    assert said.returncode == 0, said.stderr
    found = json.loads(said.stdout)
    problems = {name: problem for name, (_, _, problem, _) in found.items() if problem}
    assert set(problems) == {"bad", "easter"}
    assert problems["bad"].startswith('day_of_week: expected 0 to 6; Sunday is 0, found "7"')
    assert problems["easter"].startswith("schedule.byeaster: RFC 5545 has no Easter")
    assert found["poll"][:2] == ["2026-11-26 17:22:03+00:00", False]
    assert found["nightly"][0] == "None"
    jobs = imported((tmp_path / "keys.json").read_text(), tmp_path)
    for name, (_, _, problem, job) in found.items():
        if not problem:
            del job["labels"], job["breaker"]
            theirs = jobs.pop(name)
            assert job == theirs
    assert not jobs
