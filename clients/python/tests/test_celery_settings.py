"""What an app says of its jobs beside its entries, and which jobs are an app's own: against real nodes."""

import datetime
import sys
import types
from typing import Any, Dict, List, Optional

import pytest
from celery import Celery
from celery.schedules import schedule

from chronarch import Client, models
from chronarch._options import Misconfigured
from chronarch.celery import _identity, sync
from chronarch.celery._beat_options import of_app, problems_of
from chronarch.celery._reconcile import Reconciler
from chronarch.celery.entries import BEAT_SCHEDULE, Entry, from_app, to_job


def run() -> None:
    """A task."""


def made(name: Optional[str], **conf: Any) -> Celery:
    app = Celery(name, broker="memory://", set_as_current=False, autofinalize=False)
    app.conf.update(result_expires=None, **conf)
    app.task(name="shop.run", shared=False)(run)
    app.task(name="shop.late", shared=False, acks_late=True)(run)
    app.finalize()
    return app


@pytest.fixture
def name(request: pytest.FixtureRequest) -> str:
    """Of an app, and of its namespace."""
    return str(request.node.name).replace("_", "-")[:60].strip("-")


def entry(app: Celery, name: str, **more: Any) -> Entry:
    return Entry(name, name, more.pop("task", "shop.run"), schedule(3600, app=app), BEAT_SCHEDULE, **more)


def planned(client: Client, app: Celery, names: List[str], space: str, **how: Any) -> sync.Plan:
    entries = [entry(app, name) for name in names]
    return sync.plan(client, app, entries, sources=[BEAT_SCHEDULE], namespace=space, **how)


def spec_of(client: Client, name: str, space: str) -> models.JobSpec:
    spec = client.get_job(name, namespace=space).spec
    assert spec is not None
    return spec


def celery_of(job: Dict[str, Any]) -> Dict[str, Any]:
    target: Dict[str, Any] = job["target"]["celery"]
    return target


def test_an_entry_that_fails_goes_on_being_sent_unless_the_app_says_otherwise(client: Client, name: str) -> None:
    sync.apply(client, planned(client, made(name), ["plain"], name))
    breaker = spec_of(client, "plain", name).breaker
    assert breaker is not None
    assert breaker.consecutive_failures == 0
    assert breaker.failure_rate == 0
    app = made(name, chronarch_job_defaults={"breaker": {"consecutive_failures": 3}})
    sync.apply(client, planned(client, app, ["plain"], name))
    changed = spec_of(client, "plain", name).breaker
    assert changed is not None
    assert changed.consecutive_failures == 3


def test_what_the_app_says_of_its_jobs_is_in_them_and_a_second_sync_finds_it(client: Client, name: str) -> None:
    defaults = {
        "timeout": "1h",
        "retry": {"max_attempts": 3, "on": ["lost"]},
        "start_within": datetime.timedelta(minutes=15),
        "catch_up": "none",
        "overlap": "skip",
        "on_lost": "fail",
        "retention": {"runs": 7},
        "priority": 5,
        "limits": {"concurrency": 2},
        "target": {"celery": {"lost_after": "20s", "capture_result": True, "on_ambiguous": "skip"}},
    }
    own = {"timeout": "2h", "retry": None, "target": {"celery": {"lost_after": "1m"}}}
    app = made(name, chronarch_job_defaults=defaults, chronarch_jobs={"own": own})
    sync.apply(client, planned(client, app, ["own", "other"], name))
    assert not planned(client, app, ["own", "other"], name).changes
    other, mine = spec_of(client, "other", name), spec_of(client, "own", name)
    assert (other.timeout, mine.timeout) == (datetime.timedelta(hours=1), datetime.timedelta(hours=2))
    assert other.retry is not None
    assert other.retry.max_attempts == 3
    assert mine.retry is None or mine.retry.max_attempts != 3, "None does without the default"
    assert other.start_within == datetime.timedelta(minutes=15)
    assert (other.on_lost, other.priority) == ("fail", 5)
    assert other.limits is not None
    assert other.limits.concurrency == 2
    for spec, seconds in ((other, 20), (mine, 60)):
        assert spec.target is not None
        assert spec.target.celery is not None
        assert spec.target.celery.lost_after == datetime.timedelta(seconds=seconds)
        assert spec.target.celery.capture_result, "keys of the target take each other's place one by one"


def test_a_default_gives_way_to_what_an_entry_needs(client: Client, name: str) -> None:
    defaults = {"target": {"celery": {"lost_after": "20s", "capture_result": True}}}
    app = made(
        name,
        chronarch_job_defaults=defaults,
        chronarch_jobs={
            "sent": {"target": {"celery": {"wait_for_completion": False}}},
            "risky": {"target": {"celery": {"lost_after": "30s"}}},
        },
    )
    entries = [
        entry(app, "late", task="shop.late"),
        entry(app, "risky", task="shop.late"),
        entry(app, "sent", task="shop.late"),
        entry(app, "built", options={"serializer": "yaml"}),
    ]
    plan = sync.plan(client, app, entries, sources=[BEAT_SCHEDULE], namespace=name)
    assert plan.problems == (), "the cluster takes all of them"
    targets = {step.name: celery_of(step.job or {}) for step in plan.steps}
    assert targets["late"]["lost_after"] == "0s", "its broker delivers it again"
    assert targets["risky"]["lost_after"] == "30s"
    assert not {"lost_after", "capture_result"} & set(targets["sent"])
    assert "capture_result" not in targets["built"]
    assert any("capture_result: left out" in note for note in plan.notes["built"])


@pytest.mark.parametrize(
    ("said", "told"),
    [
        ({"timeuot": "1h"}, '"bad"].timeuot: unknown key; did you mean timeout?'),
        ({"task": "x"}, '"bad"].task: is the entry\'s own, and said there'),
        ({"queue": "x"}, '"bad"].queue: is the entry\'s own'),
        ({"target": {"celery": {"kwargs": {}}}}, '"bad"].target.celery.kwargs: is the entry\'s own'),
        ({"target": {"celery": {"lost_aftr": "1m"}}}, '"bad"].target.celery.lost_aftr: unknown key; did you mean lost'),
        ({"target": {"http": {}}}, '"bad"].target: expected {"celery": {'),
        ({"timeout": 60}, '"bad"].timeout: a duration needs a unit'),
        ({"breaker": {"failures": 1}}, '"bad"].breaker.failures: unknown field'),
        ({"on_lost": "shrug"}, '"bad"].on_lost: expected one of'),
        ("1h", '"bad"]: expected a dict of keys of a job, found str'),
        # The words of the server.
        ({"priority": 1000}, "priority: "),
        ({"target": {"celery": {"lost_after": "1s"}}}, "target.celery.lost_after: "),
    ],
)
def test_what_makes_no_sense_is_named_and_blocks_that_entry_alone(
    client: Client, name: str, said: Any, told: str
) -> None:
    app = made("settings", chronarch_jobs={"bad": said})
    plan = planned(client, app, ["good", "bad"], "nowhere")
    assert [step.name for step in plan.steps] == ["good"]
    (problem,) = plan.problems
    assert problem.name == "bad"
    assert told in problem.reason


def test_a_name_that_no_entry_has_is_named_where_all_sources_were_read(client: Client, name: str) -> None:
    app = made(name, chronarch_jobs={"nightyl": {"timeout": "1h"}})
    entries = [entry(app, "nightly")]
    (problem,) = sync.plan(client, app, entries, namespace=name).problems
    assert (problem.name, problem.source) == ("nightyl", "chronarch_jobs")
    assert 'no such entry; did you mean "nightly"?' in problem.reason
    assert sync.plan(client, app, entries, sources=["redbeat"], namespace=name).problems == ()


def test_options_that_nobody_knows_or_that_make_no_sense_are_named() -> None:
    app = made("x", chronarch_sync_evry=3, chronarch_allow_pickle="yes", chronarch_reconcile_every=-1)
    app.conf.update(chronarch_job_defaults={"timeout": "1x"}, chronarch_jobs=3, chronarch_app="No Name")
    told = problems_of(app)
    for text in (
        "chronarch_sync_evry: unknown setting; did you mean chronarch_sync_every?",
        "chronarch_allow_pickle: expected True or False, found 'yes'",
        "chronarch_reconcile_every: expected seconds above 0, or 0 for never, found -1",
        "chronarch_job_defaults.timeout: expected a duration such as",
        "chronarch_jobs: expected a dict of entry names, found int",
        "chronarch_app: expected a name of a-z, 0-9, `.`, `_`, `-`, 63 at most, found 'No Name'",
    ):
        assert [line for line in told if line.startswith(text)], (text, told)
    with pytest.raises(Misconfigured, match="chronarch_sync_evry"):
        of_app(app, {})
    with pytest.raises(Exception, match=r"chronarch_job_defaults\.timeout"):
        to_job(entry(app, "it"), app)
    assert problems_of(made("y", chronarch_reconcile_every=0, chronarch_allow_pickle=True)) == []


def test_the_options_of_a_django_project_are_known_by_its_namespace(monkeypatch: pytest.MonkeyPatch) -> None:
    settings = types.ModuleType("shop_settings")
    settings.__dict__.update(
        CELERY_CHRONARCH_SYNC_EVRY=1, CELERY_CHRONARCH_JOBS={}, CHRONARCH={}, CHRONARCH_OF_MY_OWN=1, chronarch_help=run
    )
    monkeypatch.setitem(sys.modules, "shop_settings", settings)
    app = Celery("shop", set_as_current=False)
    app.config_from_object("shop_settings", namespace="CELERY")
    assert problems_of(app) == ["chronarch_sync_evry: unknown setting; did you mean chronarch_sync_every?"]
    app = Celery("shop", set_as_current=False)
    app.config_from_object("shop_settings")
    assert problems_of(app) == [], "all of the project's settings are the app's, and other programs' names with them"


@pytest.mark.parametrize(
    ("given", "told"),
    [
        (
            {"task": "shop.run", "schedule": "every 5 minutes"},
            "schedule: expected seconds, a timedelta, a crontab or a",
        ),
        ("every 5 minutes", "expected a dict with task and schedule, found 'every 5 minutes'"),
        ({"task": "shop.run", "schedul": 5}, "schedul: unknown key; known are args, "),
        ({"task": "shop.run", "schedule": 5, "options": ["x"]}, "options: expected a dict, found ['x']"),
    ],
)
def test_a_malformed_entry_is_named_and_hides_none(given: Any, told: str) -> None:
    app = made("shop", beat_schedule={"bad": given, "good": {"task": "shop.run", "schedule": 5}})
    found = {one.name: one.problem for one in from_app(app)}
    assert found["good"] is None
    assert told in str(found["bad"])


@pytest.fixture
def modules(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Puts an app into a module as its globals, beside what else is there."""

    def put(app: Celery, name: str, **more: Any) -> Celery:
        module = types.ModuleType(name)
        module.__dict__.update(app=app, **more)
        monkeypatch.setitem(sys.modules, name, module)
        return app

    return put


def test_two_apps_of_one_name_leave_each_other_s_jobs_alone(client: Client, name: str, modules: Any) -> None:
    ours, theirs = modules(made(None), "proj_a.celery", Celery=Celery), modules(made(None), "proj_b.celery")
    sync.apply(client, planned(client, ours, ["nightly", "poll"], name, hold=False))
    assert spec_of(client, "nightly", name).labels["celery-origin"] == "proj_a.celery"
    with pytest.raises(_identity.ForeignJobs) as refused:
        planned(client, theirs, ["nightly"], name, prune=True)
    for text in ("proj_a.celery", "proj_b.celery", "nightly, poll", 'chronarch_app = "proj_b.celery"', "--app-name"):
        assert text in str(refused.value)
    reconciler = Reconciler(theirs, of_app(theirs, {"CHRONARCH_NAMESPACE": name}), client)
    for act in (reconciler.run, reconciler.hold, lambda: reconciler.release([])):
        with pytest.raises(_identity.ForeignJobs):
            act()
    assert client.get_job("poll", namespace=name).pause is None
    theirs.conf.chronarch_app = "proj_b"
    entries = [entry(theirs, "nightly")]
    sync.apply(client, sync.plan(client, theirs, entries, sources=[BEAT_SCHEDULE], namespace=name, prefix="b-"))
    assert sorted(job.spec.name for job in client.iter_jobs(namespace=name) if job.spec) == [
        *("b-nightly", "nightly", "poll")
    ]
    theirs.conf.chronarch_app = "celery"
    assert planned(client, theirs, ["nightly", "poll"], name).count("~") == 2, "whose they are is said"


def test_jobs_that_do_not_say_where_they_are_from_are_adopted(client: Client, name: str, modules: Any) -> None:
    app = made(name)
    sync.apply(client, planned(client, app, ["nightly"], name))
    assert "celery-origin" not in spec_of(client, "nightly", name).labels, "no module has the app"
    modules(app, "shop.celery")
    changed = planned(client, app, ["nightly"], name)
    assert [(field.path, field.to) for step in changed.changes for field in step.fields] == [
        ("labels.celery-origin", "shop.celery")
    ]


def test_where_an_app_is_from_is_the_same_whichever_modules_are_loaded(
    client: Client, name: str, modules: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    def in_a_process(*others: str) -> Celery:
        app = modules(made(name), "shop.celery", Celery=Celery)
        for other in others:
            modules(app, other)
        return app

    # `a.tasks` comes first by its name, and has the app from somewhere else.
    assert _identity.origins(in_a_process("a.tasks"))[0] == "shop.celery"
    sync.apply(client, planned(client, in_a_process(), ["nightly"], name))
    assert not planned(client, in_a_process("a.tasks", "shop"), ["nightly"], name).changes
