"""`chronarch-celery doctor`, `shadow` and `adopt`: with a real Redis, Celery worker and beat, and a real cluster."""

import datetime
import json
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any, Dict, Iterator, List

import pytest
from celery import Celery
from celery_real import Place, place
from cluster import Cluster, eventually

from chronarch import Client, models
from chronarch.celery import _watch, doctor, shadow, sync

APP = """
import os
from celery import Celery
from celery.schedules import crontab
app = Celery("{module}", broker=os.environ["SHOP_BROKER"])
app.conf.update(broker_connection_retry_on_startup=True, beat_max_loop_interval=1, result_expires=None)

@app.task(name="shop.run", ignore_result=True)
def run(*args): pass

app.conf.beat_schedule = {{
    "often": {{"task": "shop.run", "schedule": 2.0, "args": ["often"]}},
    "nightly": {{"task": "shop.run", "schedule": crontab("30", "2"), "args": ["nightly"]}},
    {more}
}}
"""


@pytest.fixture
def shop(nodes: Cluster, tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[Place]:
    """A place with the app above."""
    module = f"shop_{request.node.name[5:30]}"
    with place(tmp_path, nodes, module) as made:
        made.app(APP.format(module=module, more=""))
        yield made


def test_doctor_names_what_is_wrong_and_what_is_right(shop: Place) -> None:
    told = shop.say("doctor", "--watch", "0")
    assert told.returncode == 1, told.stdout + told.stderr
    assert "ok    broker: redis://" in told.stdout
    assert "fail  cluster: none of its workers has a connection celery" in told.stdout
    assert "warn  workers: no Celery worker answers" in told.stdout
    shop.worker()
    shop.cluster_worker()
    told = shop.say("doctor", "--watch", "0")
    assert told.returncode == 0, told.stdout + told.stderr
    assert "ok    cluster: 1 of its workers have the connection celery" in told.stdout
    assert "ok    workers: 1 answer, and know the tasks" in told.stdout
    assert "ok    queues: celery: each is read by a worker" in told.stdout
    assert "ok    clock: the broker's is within" in told.stdout
    more = """
        "gone": {"task": "shop.gone", "schedule": 5},
        "weekly": {"task": "shop.run", "schedule": 604800},
        "elsewhere": {"task": "shop.run", "schedule": 60, "options": {"queue": "nobodys"}},
    """
    shop.app(APP.format(module=shop.module, more=more) + "\napp.conf.result_backend = 'redis://127.0.0.1:1/0'\n")
    told = shop.say("doctor", "--watch", "0")
    assert told.returncode == 1
    assert "fail  tasks: the app has not registered shop.gone" in told.stdout
    assert "fail  queues: no worker reads nobodys" in told.stdout
    assert "fail  results: result_backend cannot be read" in told.stdout
    assert "warn  intervals: a day or longer: weekly" in told.stdout


def test_doctor_passes_what_it_is_told_to_let_pass(shop: Place) -> None:
    shop.worker()
    shop.cluster_worker()
    more = """
        "gone": {"task": "shop.gone", "schedule": 5},
        "pickled": {"task": "shop.run", "schedule": 60, "args": [{1, 2}], "options": {"serializer": "pickle"}},
        "object": {"task": "shop.run", "schedule": 60, "kwargs": {"it": object()}},
        "without": {"schedule": 60},
    """
    conf = "\napp.conf.accept_content = ['json', 'pickle']\n"
    shop.app(APP.format(module=shop.module, more=more) + conf)
    told = shop.say("doctor", "--watch", "0")
    assert told.returncode == 1
    assert "fail  entry pickled: args: Object of type set is not JSON" in told.stdout
    assert "or pass --allow-pickle (chronarch_allow_pickle = True)" in told.stdout
    assert "fail  tasks: the app has not registered shop.gone\n" in told.stdout, "what has no name is not named"
    passes = ["--allow-pickle", "--allow-unknown", "--ignore", "object", "--ignore", "without"]
    told = shop.say("doctor", "--watch", "0", *passes)
    assert "warn  entry object: " in told.stdout
    assert "warn  entry without: " in told.stdout
    assert "warn  tasks: the app has not registered shop.gone" in told.stdout
    assert "entry pickled" not in told.stdout
    # Workers that lack it drop it, whatever is let pass.
    assert [line for line in told.stdout.splitlines() if line.startswith("fail")] == [
        "fail  workers: none of them knows shop.gone"
    ]


def test_doctor_names_settings_of_jobs_and_other_apps_of_the_name(shop: Place, client: Client) -> None:
    conf = "\napp.conf.update(chronarch_sync_evry=1, chronarch_jobs={'nihgtly': {}, 'often': {'timeout': 5}})\n"
    shop.app(APP.format(module=shop.module, more="") + conf)
    told = shop.say("doctor", "--watch", "0").stdout
    assert "fail  settings: chronarch_sync_evry: unknown setting; did you mean chronarch_sync_every?" in told
    assert (
        'fail  settings nihgtly: chronarch_jobs names it, and there is no such entry; did you mean "nightly"?' in told
    )
    assert 'fail  entry often: chronarch_jobs["often"].timeout: a duration needs a unit' in told
    told = shop.say("sync").stderr
    assert "chronarch_sync_evry: unknown setting" in told
    shop.app(APP.format(module=shop.module, more="") + "\napp.conf.chronarch_job_defaults = {'timeout': 5}\n")
    told = shop.say("doctor", "--watch", "0").stdout
    assert told.count("chronarch_job_defaults.timeout: ") == 1
    shop.app(APP.format(module=shop.module, more="").replace(f'Celery("{shop.module}", ', "Celery("))
    assert "warn  app: it has no name" in shop.say("doctor", "--watch", "0").stdout
    labels = {"managed-by": "chronarch-celery", "celery-app": "celery", "celery-origin": "proj.celery"}
    theirs = {"name": "theirs", "namespace": shop.namespace, "labels": labels, "target": {"queue": {"payload": "{}"}}}
    client.apply_jobs([theirs])
    assert "fail  app: " in shop.say("doctor", "--watch", "0").stdout
    for command in (["sync", "--prune"], ["adopt", "--back"]):
        refused = shop.say(*command)
        assert refused.returncode == 1
        assert f"this is the app celery of {shop.module}" in refused.stderr
        assert "chronarch_app = " in refused.stderr
    named = shop.say("sync", "--app-name", "shop-of-mine")
    assert named.returncode == 0, named.stderr
    spec = client.get_job("nightly", namespace=shop.namespace).spec
    assert spec is not None
    assert (spec.labels["celery-app"], spec.labels["celery-origin"]) == ("shop-of-mine", shop.module)


def test_doctor_tells_a_cluster_that_is_away_once(shop: Place) -> None:
    told = shop.say("doctor", "--watch", "0", "--endpoints", "127.0.0.1:1", "--timeout", "1")
    assert told.returncode == 1
    assert told.stdout.count("no endpoint answered") == 1
    assert "warn  scheduler: no beat was seen in 0 s; whether the cluster sends as well cannot be told" in told.stdout


def test_doctor_says_how_to_install_what_a_broker_needs(monkeypatch: pytest.MonkeyPatch) -> None:
    def lacking(*_: Any) -> None:
        raise ImportError("No module named 'packaging'")

    app = Celery("shop", broker="sqs://key:secret@x", set_as_current=False)
    monkeypatch.setattr(app, "connection_for_write", lacking)
    finding = doctor._broker(app)
    assert "No module named 'packaging'" in finding.text
    assert "celery[sqs]" in finding.hint
    assert "secret" not in str(finding)


@pytest.mark.parametrize("command", ["doctor", "sync", "reconcile"])
def test_an_app_that_cannot_be_loaded_is_told_in_a_line(shop: Place, command: str) -> None:
    shop.app(APP.format(module=shop.module, more='"bad": {"schedule": crontab(day_of_week="7")}'))
    told = shop.say(command)
    assert told.returncode == 2
    assert "Traceback" not in told.stderr
    assert "ValueError: " in told.stderr
    assert f"({shop.module}.py, line " in told.stderr


@pytest.mark.parametrize(
    ("setting", "told"),
    [
        ("broker_url='nonsense://x'", ["fail  broker: broker_url cannot be used", "hint: correct broker_url"]),
        ("task_serializer='nonsense'", ["fail  scheduler: cannot be looked at: SerializerNotInstalled"]),
        ("accept_content=['pickle']", ["fail  content: workers do not take JSON", "hint: add json to accept_content"]),
        ("result_backend='rpc://'", ["warn  results: rpc:// sends results to who asked", "hint: set ignore_result"]),
        ("result_backend='nonsense://x'", ["fail  results: result_backend cannot be read", "or install it"]),
    ],
)
def test_doctor_names_settings_that_cannot_be_used_and_goes_on(shop: Place, setting: str, told: List[str]) -> None:
    shop.app(APP.format(module=shop.module, more="") + f"\napp.conf.{setting}\n")
    said = shop.say("doctor", "--watch", "0")
    assert said.returncode == 1
    assert [text for text in told if text not in said.stdout] == [], said.stdout + said.stderr
    # What the app itself could not send is not carried.
    carried = 0 if "serializer" in setting else 2
    assert f"entries: {carried} of 2 can be carried" in said.stdout


def test_a_broker_that_takes_connections_and_says_nothing_is_not_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    from kombu import Connection

    monkeypatch.setattr(_watch, "LOOK_SECONDS", 0.2)
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        silent.listen()
        with pytest.raises(TimeoutError, match="no answer in"):
            _watch.reach(Connection(f"redis://127.0.0.1:{silent.getsockname()[1]}/0"))


def test_doctor_sees_two_schedulers_at_once(shop: Place, client: Client) -> None:
    shop.worker()
    shop.cluster_worker()
    beat = shop.beat()
    assert "ok    scheduler: a beat runs: shop.run was sent at" in shop.say("doctor").stdout
    assert shop.say("sync", "--active").returncode == 0
    told = shop.say("doctor")
    assert told.returncode == 1
    assert "fail  scheduler: a beat and 2 jobs of the cluster run at once" in told.stdout
    shop.end(beat)
    eventually("a run of the cluster", lambda: list(client.iter_runs(namespace=shop.namespace, states=["succeeded"])))
    told = shop.say("doctor")
    assert "ok    scheduler: the cluster: 2 jobs are active, and no beat was seen" in told.stdout
    assert told.returncode == 0, told.stdout


def at(seconds: float) -> datetime.datetime:
    return datetime.datetime(2026, 1, 1, tzinfo=datetime.timezone.utc) + datetime.timedelta(seconds=seconds)


@pytest.mark.parametrize(
    ("due", "sent", "found"),
    [
        ([0, 60, 120], [0.1, 60.2, 119.9], shadow.Count(on_time=3)),
        ([0, 60, 120], [0.1, 120.1], shadow.Count(on_time=2, missed=1)),
        ([0, 60], [0.1, 0.2, 60.1], shadow.Count(on_time=2, doubled=1)),
        ([0, 60], [0.1, 80], shadow.Count(on_time=1, late=1)),
        ([60], [10, 60], shadow.Count(on_time=1, extra=1)),
        ([0, 0], [0.1, 0.2], shadow.Count(on_time=2)),
        ([0, 0], [0.1], shadow.Count(on_time=1, missed=1)),
        # Of two intervals that are due with milliseconds between them, both messages come behind the later.
        ([0, 0.004, 60, 60.004], [0.1, 0.2, 60.1, 60.2], shadow.Count(on_time=4)),
        ([], [], shadow.Count()),
        # What is due around the window takes its messages with it.
        ([120, 180, 240], [120.1, 180.1, 240.1], shadow.Count(on_time=2)),
        ([-3, 60], [0.2, 60.1], shadow.Count(on_time=1)),
    ],
)
def test_messages_are_counted_beside_instants(due: List[float], sent: List[float], found: shadow.Count) -> None:
    told: List[str] = []
    window = (at(0), at(239), datetime.timedelta(seconds=5))
    assert shadow.instants([at(one) for one in due], [at(one) for one in sent], window, told) == found
    assert bool(told) == found.differs


@pytest.mark.parametrize(
    ("sent", "found"),
    [
        ([3, 13, 23.5, 33], shadow.Count(on_time=4)),
        ([3, 13, 33], shadow.Count(on_time=3, missed=1)),
        ([3, 13, 14, 23, 33], shadow.Count(on_time=4, doubled=1)),
        ([3, 13, 27, 36], shadow.Count(on_time=3, late=1)),
        ([], shadow.Count(missed=4)),
        ([3], shadow.Count(on_time=1, missed=3)),
    ],
)
def test_messages_of_an_interval_are_counted_by_their_distances(sent: List[float], found: shadow.Count) -> None:
    told: List[str] = []
    window = (at(0), at(40), datetime.timedelta(seconds=2))
    assert shadow.distances([at(one) for one in sent], datetime.timedelta(seconds=10), window, told) == found
    assert bool(told) == found.differs


def test_shadow_sees_a_beat_that_is_right_and_one_that_sends_twice(shop: Place) -> None:
    shop.worker()
    blind = shop.say("shadow", "--for", "1s", "--tolerance", "0s")
    assert "! often: not compared: it has no job" in blind.stderr
    assert shop.say("sync").returncode == 0
    shop.beat()
    told = shop.say("shadow", "--for", "8s", "--tolerance", "3s", "--json")
    assert told.returncode == 0, told.stdout + told.stderr
    report = json.loads(told.stdout)
    lines = {line["names"][0]: line for line in report["entries"]}
    assert report["workers"] == 1
    assert lines["often"]["beat"]["on_time"] >= 2
    assert lines["nightly"]["due"] == 0
    assert lines["often"]["cluster"] is None, "its job is held"
    # Another one, with a state of its own.
    shop.beat("-s", "another", "--pidfile=")
    told = shop.say("shadow", "--for", "8s", "--tolerance", "3s")
    assert told.returncode == 1
    assert "doubled" in told.stdout
    assert "s after the one before" in told.stdout


def test_shadow_says_that_it_sees_nothing(shop: Place) -> None:
    told = shop.say("shadow", "--for", "1s", "--tolerance", "0s")
    assert told.returncode == 1
    assert "nobody told of any message" in told.stderr


def runs_of(client: Client, shop: Place, job: str) -> List[models.Run]:
    return [run for run in client.iter_runs(namespace=shop.namespace, job=job) if run.state == "succeeded"]


def test_adopt_refuses_while_beat_sends_then_cuts_over_and_goes_back(shop: Place, client: Client) -> None:
    shop.worker()
    shop.cluster_worker()
    assert shop.say("sync").returncode == 0
    beat = shop.beat()
    told = shop.say("adopt")
    assert told.returncode == 1
    assert "a beat seems to run: shop.run was sent at" in told.stderr
    assert all(job.pause for job in client.iter_jobs(namespace=shop.namespace))
    shop.end(beat)
    told = shop.say("adopt")
    assert told.returncode == 0, told.stdout + told.stderr
    assert "2 jobs run now" in told.stdout
    eventually("runs", lambda: len(runs_of(client, shop, "often")) >= 2)
    log = shop.folder / "worker.log"
    eventually("tasks that ran", lambda: log.read_text().count("succeeded in") >= 2)
    assert "0 jobs run now" in shop.say("adopt", "--watch", "0").stdout, "once more is no harm"
    client.pause_job("nightly", namespace=shop.namespace, reason="an incident")
    told = shop.say("adopt", "--back")
    assert told.returncode == 0, told.stderr
    assert "beat's own file is not touched" in told.stdout
    assert "1 jobs are held; start the beat" in told.stdout
    pauses = {
        job.spec.name: job.pause.reason for job in client.iter_jobs(namespace=shop.namespace) if job.pause and job.spec
    }
    assert pauses == {"often": sync.HELD, "nightly": "an incident"}


def test_what_adopt_leaves_behind_is_named_and_holds_no_new_jobs(shop: Place, client: Client) -> None:
    assert shop.say("sync").returncode == 0
    spoilt = APP.format(module=shop.module, more="") + "\napp.conf.beat_schedule['nightly']['args'] = [object()]\n"
    shop.app(spoilt)
    told = shop.say("adopt", "--force")
    assert told.returncode == 1, "one is not carried"
    assert "1 jobs run now" in told.stdout
    assert "1 stay held, for their entries are gone or not carried: nightly\n" in told.stderr
    shop.app(f"{spoilt}app.conf.beat_schedule['more'] = {{'task': 'shop.run', 'schedule': 3600.0}}\n")
    assert "held" not in shop.say("sync").stdout
    pauses = [client.get_job(name, namespace=shop.namespace).pause for name in ("often", "more")]
    assert pauses == [None, None]


RED = """
import os
from celery import Celery
app = Celery("{module}", broker=os.environ["SHOP_BROKER"])
app.conf.update(broker_connection_retry_on_startup=True, beat_max_loop_interval=1, redbeat_lock_timeout=5,
                result_expires=None, redbeat_redis_url=os.environ["SHOP_BROKER"])

@app.task(name="shop.run", ignore_result=True)
def run(*args): pass

app.conf.beat_schedule = {{"often": {{"task": "shop.run", "schedule": 2.0}},
                           "rarely": {{"task": "shop.run", "schedule": 3600.0}}}}
"""


def meta_of(shop: Place, name: str) -> datetime.datetime:
    found = json.loads(shop.redis.hget(f"redbeat:{name}", "meta"))["last_run_at"]
    parts = [int(found[part]) for part in ("year", "month", "day", "hour", "minute", "second", "microsecond")]
    year, month, day, hour, minute, second, micros = parts
    return datetime.datetime(year, month, day, hour, minute, second, micros, datetime.timezone.utc)


def test_last_runs_go_to_the_cluster_and_back_to_redbeat(shop: Place, client: Client) -> None:
    shop.app(RED.format(module=shop.module))
    shop.worker()
    shop.cluster_worker()
    beat = shop.beat("-S", "redbeat.RedBeatScheduler")
    eventually("redbeat's first runs", lambda: (shop.folder / "worker.log").read_text().count("succeeded in") >= 3)
    told = shop.say("adopt", "--watch", "0")
    assert told.returncode == 1
    assert "RedBeat's lock is held" in told.stderr
    shop.end(beat)
    rarely = meta_of(shop, "rarely")
    told = shop.say("adopt", "--watch", "0")
    assert told.returncode == 0, told.stdout + told.stderr
    next_at = client.get_job("rarely", namespace=shop.namespace).next_at
    assert next_at is not None
    assert abs(next_at - rarely - datetime.timedelta(hours=1)) < datetime.timedelta(milliseconds=2)
    eventually("runs", lambda: len(runs_of(client, shop, "often")) >= 2)
    assert shop.say("adopt", "--back").returncode == 0
    ran = list(client.iter_runs(namespace=shop.namespace, job="often"))
    last = max(run.fired_at for run in ran if run.fired_at and run.state != "skipped")
    assert abs(meta_of(shop, "often") - last) < datetime.timedelta(milliseconds=2)
    assert meta_of(shop, "rarely") == rarely, "it has not run here"


ROWS = """
import os
os.environ.setdefault("DJANGO_SETTINGS_MODULE", "{module}_settings")
from celery import Celery
app = Celery("{module}", broker=os.environ["SHOP_BROKER"])
app.conf.update(broker_connection_retry_on_startup=True, result_expires=None)

@app.task(name="shop.run", ignore_result=True)
def run(*args): pass
"""

SETTINGS = """
INSTALLED_APPS = ["django_celery_beat"]
USE_TZ = True
SECRET_KEY = "test"
DATABASES = {"default": {"ENGINE": "django.db.backends.sqlite3", "NAME": "db.sqlite3"}}
DEFAULT_AUTO_FIELD = "django.db.models.BigAutoField"
"""

IN_DJANGO = """
import datetime, sys
import {module}, django
django.setup()
from django.core.management import call_command
from django_celery_beat.models import *
now = datetime.datetime.now(datetime.timezone.utc)
if sys.argv[1] == "make":
    call_command("migrate", verbosity=0)
    fast = IntervalSchedule.objects.create(every=2, period="seconds")
    slow = IntervalSchedule.objects.create(every=1, period="hours")
    PeriodicTask.objects.create(name="Fast one", task="shop.run", interval=fast)
    ago = now - datetime.timedelta(hours=3)
    PeriodicTask.objects.create(name="overdue", task="shop.run", interval=slow, last_run_at=ago)
    PeriodicTask.objects.create(name="off", task="shop.run", interval=fast, enabled=False)
    clocked = ClockedSchedule.objects.create(clocked_time=ago)
    PeriodicTask.objects.create(name="once", task="shop.run", clocked=clocked, one_off=True)
for row in PeriodicTask.objects.order_by("name"):
    ran = row.last_run_at.isoformat() if row.last_run_at else "never"
    print(row.name, ran if row.enabled else "disabled", sep="=")
"""


def test_last_runs_go_to_the_cluster_and_back_to_djangos_table(shop: Place, client: Client) -> None:
    shop.app(ROWS.format(module=shop.module))
    (shop.folder / f"{shop.module}_settings.py").write_text(SETTINGS)
    script = shop.folder / "rows.py"
    script.write_text(IN_DJANGO.format(module=shop.module))

    def rows(what: str) -> Dict[str, str]:
        command = [sys.executable, str(script), what]
        said = subprocess.run(command, capture_output=True, text=True, cwd=shop.folder, env=shop.environment)
        assert said.returncode == 0, said.stderr
        return dict(line.split("=") for line in said.stdout.splitlines())

    before = rows("make")
    shop.worker()
    shop.cluster_worker()
    told = shop.say("adopt", "--watch", "0", "--catch-up")
    assert told.returncode == 0, told.stdout + told.stderr
    assert "overdue: was due at" in told.stdout
    assert "3 jobs run now" in told.stdout, "one is disabled"
    assert "once: was due at" in told.stdout
    assert rows("look")["once"] == "disabled", "as a beat leaves it"
    eventually("runs", lambda: len(runs_of(client, shop, "fast-one")) >= 2 and runs_of(client, shop, "overdue"))
    assert [run.cause for run in runs_of(client, shop, "overdue")] == ["manual"], "once, and only as it was asked for"
    assert not list(client.iter_runs(namespace=shop.namespace, job="off"))
    assert shop.say("adopt", "--back").returncode == 0
    after = rows("look")
    assert after["off"] == "disabled"
    assert before["Fast one"] == "never"
    ran = list(client.iter_runs(namespace=shop.namespace, job="fast-one"))
    last = max(run.fired_at for run in ran if run.fired_at and run.state != "skipped")
    assert datetime.datetime.fromisoformat(after["Fast one"]) == last
    assert datetime.datetime.fromisoformat(after["overdue"]) > datetime.datetime.fromisoformat(before["overdue"])
