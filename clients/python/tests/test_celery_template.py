"""Messages that an app builds itself: what is built, and that unmodified workers run each of them anew."""

import base64
import datetime
import itertools
import json
from pathlib import Path
from typing import Any, Dict, Iterator, List

import pytest
from celery import Celery, chain, chord, group, signals
from celery_real import place
from cluster import Cluster, eventually
from kombu.utils.json import loads

from chronarch import Client
from chronarch.celery import _template
from chronarch.celery.entries import CannotCarry, Entry, from_app, to_job

# Nobody listens there: nothing may be asked while a message is built.
NOWHERE = "redis://127.0.0.1:1/0"


def made(**conf: Any) -> Any:
    """An app with a task that never sends anything."""
    app = Celery("shop", broker=NOWHERE, backend=NOWHERE, set_as_current=False)
    app.conf.update(result_expires=None, **conf)
    app.task(name="shop.add", shared=False)(_add)
    return app


def _add(*_: Any, **__: Any) -> None:
    """Does nothing."""


def entry(task: str = "shop.add", **more: Any) -> Entry:
    """An entry that is due each minute."""
    return Entry("it", "it", task, 60.0, "beat_schedule", **more)


def target_of(app: Any, it: Entry, **how: Any) -> Dict[str, Any]:
    """What the job of an entry sends."""
    from celery.schedules import schedule

    job = to_job(Entry(**{**vars(it), "schedule": schedule(60.0, app=app)}), app, **how)
    target: Dict[str, Any] = job["target"]["celery"]
    return target


def refused(app: Any, it: Entry, **how: Any) -> str:
    """Why there is no such job."""
    with pytest.raises(CannotCarry) as refusal:
        target_of(app, it, **how)
    return str(refusal.value)


def message_of(target: Dict[str, Any]) -> Dict[str, Any]:
    """The message, with what the body says."""
    message: Dict[str, Any] = json.loads(target["template"])
    raw = base64.b64decode(message["body"])
    message["raw"] = raw
    if message["content-type"] == "application/json":
        message["body"] = loads(raw)
    return message


def of_canvas(app: Any, canvas: Any) -> Entry:
    """The entry that `add_periodic_task` makes of it."""
    app.add_periodic_task(60.0, canvas, name="it")
    return from_app(app)[0]


@pytest.fixture
def handler() -> Iterator[List[Any]]:
    """A handler of `before_task_publish`, which calls what is put into the list."""
    calls: List[Any] = []

    def handle(**given: Any) -> None:
        for call in calls:
            call(**given)

    signals.before_task_publish.connect(handle, weak=False)
    yield calls
    signals.before_task_publish.disconnect(handle)


def test_what_a_job_can_say_itself_needs_no_template() -> None:
    app = made()
    assert "template" not in target_of(app, entry(args=[1], options={"queue": "celery", "priority": 3, "countdown": 1}))
    for options in ({"compression": "zlib"}, {"link": {"task": "shop.other"}}, {"message_id": "m-1"}):
        assert "template" in target_of(app, entry(options=options)), options
    assert "template" in target_of(made(task_serializer="yaml"), entry())


def test_the_same_entry_makes_the_same_job_in_every_process() -> None:
    def built(app: Any) -> Dict[str, Any]:
        return target_of(app, of_canvas(app, chain(add(app, 1), group(add(app, 2), add(app, 3)), add(app, 4))))

    def add(app: Any, value: int) -> Any:
        return app.signature("shop.add", args=(value,))

    first = built(made())
    assert first == built(made())
    message = message_of(first)
    assert (message["headers"]["eta"], message["headers"]["expires"], message["headers"]["parent_id"]) == (None,) * 3
    assert message["headers"]["id"] == message["headers"]["root_id"] in first["template_ids"]
    assert first["template_ids"][0] == _template.MAIN
    assert len(set(first["template_ids"])) == len(first["template_ids"]) >= 6
    text = message["raw"] + first["template"].encode()
    assert all(one.encode() in text for one in first["template_ids"])


def test_ids_that_the_user_has_written_stay() -> None:
    own = "9e124feb-4d96-4f40-b238-bdb3ad416a48"
    target = target_of(made(task_serializer="yaml"), entry(args=[own]))
    assert own.encode() in message_of(target)["raw"]
    assert own not in target["template_ids"]


def test_the_end_of_the_last_task_is_told_and_the_failure_of_each() -> None:
    app = made()
    steps = [app.signature("shop.add", args=(number,)) for number in range(3)]
    body = message_of(target_of(app, of_canvas(app, chain(*steps))))["body"][2]
    last, second = body["chain"]
    assert last["options"]["task_id"] == _template.MAIN
    assert [one["task"] for one in last["options"]["link"]] == [_template.DONE]
    assert body["callbacks"] is None
    assert "link" not in second["options"]
    for told in (body["errbacks"], last["options"]["link_error"], second["options"]["link_error"]):
        assert told[0]["args"] == [_template.RUN, None, _template.MAIN, "failure"]
        assert told[0]["options"]["routing_key"] == _template.CLUSTER
    header = [app.signature("shop.add"), chain(*steps[:2])]
    message = message_of(target_of(app, of_canvas(made(), chord(header, app.signature("shop.sum")))))
    assert message["headers"]["task"] == _template.CARRIER
    (sent,) = message["body"][2]["chain"]
    assert [one["args"][3] for one in sent["kwargs"]["body"]["options"]["link"]] == ["success"]
    plain, nested = sent["kwargs"]["header"]["kwargs"]["tasks"]
    assert plain["immutable"]
    assert nested["kwargs"]["tasks"][0]["immutable"], "what the carrier returns is not for it"


def test_own_link_and_options_of_the_message_stay() -> None:
    app = made()
    link = app.signature("shop.other", queue="x")
    options = {"link": link, "link_error": {"task": "shop.bad"}, "app_id": "shop", "queue": "late", "expires": 9}
    target = target_of(app, entry(args=[datetime.date(2026, 1, 5)], options=options))
    message = message_of(target)
    embedded = message["body"][2]
    assert [one["task"] for one in embedded["callbacks"]] == ["shop.other", _template.DONE]
    assert [one["task"] for one in embedded["errbacks"]] == ["shop.bad", _template.DONE]
    assert message["properties"]["app_id"] == "shop"
    assert (target["queue"], target["expires"]) == ("late", "9s")
    assert message["body"][0] == [datetime.date(2026, 1, 5)]


def test_zlib_is_written_when_it_is_sent_and_others_are_not() -> None:
    packed = message_of(target_of(made(task_compression="zlib"), entry(args=[1])))
    assert packed["headers"]["compression"] == "application/x-gzip"
    assert packed["body"][0] == [1]
    from celery.schedules import schedule

    from chronarch.celery._jobs import convert

    app = made(task_compression="bzip2", task_serializer="yaml")
    both = convert(Entry(**{**vars(entry()), "schedule": schedule(60.0, app=app)}), app)
    assert "compression" not in message_of(both.job["target"]["celery"])["headers"]
    assert any(note.startswith("options.compression: application/x-bz2") for note in both.notes)


def test_a_pickle_needs_leave() -> None:
    app = made(task_serializer="pickle", accept_content=["pickle"])
    it = entry(args=[{1, 2}])
    assert "pass --allow-pickle" in refused(app, it)
    assert message_of(target_of(app, it, allow_pickle=True))["content-type"] == "application/x-python-serialize"
    app.conf.chronarch_allow_pickle = True
    assert "template" in target_of(app, it)
    # Where workers take JSON, it needs none.
    both = made(task_serializer="pickle", accept_content=["pickle", "json"])
    assert target_of(both, entry(args=[1]))["args"] == "[1]"


def test_what_handlers_add_is_kept_unless_it_is_another_one_each_time(handler: List[Any]) -> None:
    numbers = itertools.count()
    handler.append(lambda headers, **_: headers.update(tenant="acme", number=next(numbers)))
    app = made()
    message = message_of(target_of(app, entry()))
    assert message["headers"]["tenant"] == "acme"
    assert "number" not in message["headers"]
    once = message_of(target_of(app, entry(), once=True))
    assert isinstance(once["headers"]["number"], int), "one that is sent a single time has it"
    handler.append(lambda body, **_: body[1].update(number=next(numbers)))
    assert "the body of the message is another one each time" in refused(app, entry(kwargs={"a": 1}))


def test_nothing_else_is_sent_or_run_while_a_message_is_built(handler: List[Any]) -> None:
    app = made(task_compression="zlib")
    published: List[Any] = []

    def note(**_: Any) -> None:
        published.append(1)

    signals.after_task_publish.connect(note)
    target_of(app, entry())
    assert published == []
    assert "producer_or_acquire" not in vars(app)
    assert not {"on_task_call", "add_pending_result"} & set(vars(app.backend))
    handler.append(lambda sender, **_: sender == "shop.add" and app.send_task("shop.audit"))
    assert "another message is sent while this one is built" in refused(app, entry())
    handler.clear()
    assert "task_always_eager" in refused(made(task_always_eager=True, task_compression="zlib"), entry())
    assert "task_protocol" in refused(made(task_protocol=1, task_compression="zlib"), entry())
    large = refused(app, entry(args=["x" * (_template.MESSAGE_BYTES_MAX)]))
    assert large == "the message is more than 96 KiB; send a key, and let the task look the rest up"
    many = group(app.signature("shop.add") for _ in range(_template.IDS_MAX))
    assert "the canvas has more than 64 tasks" in refused(app, of_canvas(app, many))


def test_a_task_that_sends_itself_otherwise_is_built_as_it_sends_itself() -> None:
    app = made()

    class Tenant(app.Task):  # type: ignore[name-defined, misc]
        def apply_async(self, *args: Any, **options: Any) -> Any:
            """Adds a header."""
            return super().apply_async(*args, **{**options, "headers": {"tenant": "acme"}})

    app.task(name="shop.tenant", base=Tenant, shared=False)(_add)
    message = message_of(target_of(app, entry("shop.tenant")))
    assert message["headers"]["tenant"] == "acme"


APP = """
import decimal, json, os
from celery import Celery, chain, chord, group, signals
from celery.schedules import crontab
app = Celery("{module}", broker=os.environ["SHOP_BROKER"], backend=os.environ["SHOP_BROKER"])
app.conf.update(
    broker_connection_retry_on_startup=True, result_expires=None, task_compression="zlib",
    task_serializer="yaml", accept_content=["yaml", "json"], result_accept_content=["json"],
)

@signals.before_task_publish.connect
def tenant(headers=None, **_):
    headers["tenant"] = "acme"

def note(task, name, *args):
    import redis
    line = [name, task.request.id, list(args), (task.request.headers or {{}}).get("tenant")]
    redis.Redis.from_url(os.environ["SHOP_BROKER"]).rpush("notes", json.dumps(line, default=str))

@app.task(name="shop.first", bind=True)
def first(self, *args):
    note(self, "first", *args)
    return 1

@app.task(name="shop.add", bind=True)
def add(self, *args):
    note(self, "add", *args)
    return sum(args)

@app.task(name="shop.sum", bind=True)
def total(self, values, *more):
    note(self, "sum", *values)
    return sum(values)

@app.task(name="shop.linked", bind=True)
def linked(self, *args):
    note(self, "linked", *args)

@app.task(name="shop.bad", bind=True)
def bad(self, *args):
    raise ValueError("no")

@app.on_after_configure.connect
def entries(sender, **_):
    never = crontab("0", "0", "*", "29", "2")
    sender.add_periodic_task(never, first.s("a", 2.5).set(link=linked.s()), name="single")
    sender.add_periodic_task(never, chain(first.s(), add.s(2), add.s(3).set(link=linked.s())), name="chain")
    # YAML cannot say a chord, so workers could not send it.
    one, two, three = (add.s(*args).set(serializer="json") for args in ((1, 1), (2,), (3,)))
    sender.add_periodic_task(never, chord([one, chain(two, three)], total.s()), name="chord")
    sender.add_periodic_task(never, group(add.s(1), add.s(2)), name="group")
    sender.add_periodic_task(never, chain(first.s(), bad.si(), add.s(3)), name="failing")
    sender.add_periodic_task(never, add.starmap([(1, 2), (3, 4)]), name="starmap")
"""


def test_workers_run_each_message_anew_and_its_run_ends_with_the_last_task(
    nodes: Cluster, client: Client, tmp_path: Path
) -> None:
    with place(tmp_path, nodes, "shop_templates") as shop:
        shop.app(APP.format(module=shop.module))
        shop.worker("--without-gossip", "--without-mingle")
        shop.cluster_worker()
        done = shop.say("sync", "--active")
        assert done.returncode == 0, done.stdout + done.stderr
        again = shop.say("sync", "--check")
        assert (again.returncode, again.stdout) == (0, again.stdout), again.stdout + again.stderr
        assert "~" not in again.stdout
        job = client.get_job("chain", namespace=shop.namespace)
        assert job.spec is not None
        target = job.spec.to_dict()["target"]["celery"]
        assert target["task"] == "shop.first"
        assert "template" in target

        def run(name: str, times: int) -> List[Any]:
            ids = [client.trigger_job(name, namespace=shop.namespace).run_id for _ in range(times)]
            return [client.wait_for_run(one, timeout=60) for one in ids]

        def notes(count: int) -> Dict[str, List[Any]]:
            eventually(f"{count} notes", lambda: shop.redis.llen("notes") >= count)
            found: Dict[str, List[Any]] = {}
            for line in shop.redis.lrange("notes", 0, -1):
                name, *rest = json.loads(line)
                found.setdefault(name, []).append(rest)
            shop.redis.delete("notes")
            ids = [one[0] for of_one in found.values() for one in of_one]
            assert len(set(ids)) == len(ids), "each task of each run has an id of its own"
            return found

        def states(runs: List[Any]) -> List[str]:
            return [one.state.value for one in runs]

        assert states(run("single", 3)) == ["succeeded"] * 3
        found = notes(6)
        assert [one[1:] for one in found["first"]] == [[["a", 2.5], "acme"]] * 3
        assert [one[1] for one in found["linked"]] == [[1]] * 3, "the app's own link ran each time"

        assert states(run("chain", 3)) == ["succeeded"] * 3
        found = notes(12)
        assert sorted(one[1] for one in found["add"]) == [[1, 2]] * 3 + [[3, 3]] * 3
        assert [one[1] for one in found["linked"]] == [[6]] * 3

        assert states(run("chord", 2)) == ["succeeded"] * 2
        found = notes(8)
        assert sorted(sorted(one[1]) for one in found["sum"]) == [[2, 5]] * 2

        assert states(run("group", 2)) == ["succeeded"] * 2
        assert sorted(one[1] for one in notes(4)["add"]) == [[1], [1], [2], [2]]

        assert states(run("starmap", 1)) == ["succeeded"]
        # It calls the task itself, which then has no id.
        eventually("both calls", lambda: shop.redis.llen("notes") == 2)
        shop.redis.delete("notes")
        assert states(run("failing", 2)) == ["failed"] * 2
        assert set(notes(2)) == {"first"}
