"""Between Python values, text and the wire; and what a worker keeps of what its tasks write."""

import datetime
from typing import Any

import pytest

from chronarch import InvalidArgument, models
from chronarch._convert import from_message, to_message
from chronarch._text import format_instant, format_span, parse_instant, parse_span
from chronarch.worker import App, _output
from chronarch.worker._output import STDERR, STDOUT, Store
from chronarch.worker._task import BadPayload, invocation

SECOND = datetime.timedelta(seconds=1)
UTC = datetime.timezone.utc


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("90s", 90), ("1h30m", 5400), ("1h 30m", 5400), ("1.5h", 5400), ("250ms", 0.25), ("2weeks", 1_209_600), ("0", 0)],
)
def test_a_span_is_read_as_the_command_line_reads_it(text: str, seconds: float) -> None:
    assert parse_span(text) == seconds * SECOND


@pytest.mark.parametrize("text", ["", "90", "1.5", "s", "1x", "h1", "-5s", "1h-", "99999999999weeks"])
def test_what_is_no_span_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="duration"):
        parse_span(text)


def test_a_span_and_an_instant_are_written_as_they_are_read() -> None:
    for text in ("0s", "1d2h3m4s5ms", "36525d", "999ms", "1us"):
        assert format_span(parse_span(text)) == text
    assert format_instant(parse_instant("2026-03-29T03:00:00.123456789+02:00")) == "2026-03-29T01:00:00.123Z"
    for text in ("2026-03-29", "2026-03-29T01:00:00", "2026-13-29T01:00:00Z", "now"):
        with pytest.raises(ValueError, match=r"RFC 3339|month"):
            parse_instant(text)


def test_a_job_comes_back_as_it_was_given_in_either_form() -> None:
    plain = {
        "name": "nightly",
        "labels": {"team": "data"},
        "schedule": {"cron": "30 2 * * *", "timezone": "Europe/Berlin", "start_at": "2026-12-01T09:00:00Z"},
        "target": {"http": {"url": "https://example.org", "headers": {"a": "b"}}},
        "timeout": "30m",
        "retry": {"max_attempts": 0, "multiplier": 2},
        "catch_up": "latest",
        "overlap": "skip",
        "after": ["load"],
        "priority": -3,
        "every_node": True,
    }
    typed = models.JobSpec(
        name="nightly",
        labels={"team": "data"},
        schedule=[
            models.Schedule(
                cron="30 2 * * *",
                timezone="Europe/Berlin",
                start_at=datetime.datetime(2026, 12, 1, 10, tzinfo=datetime.timezone(datetime.timedelta(hours=1))),
            )
        ],
        target=models.Target(http=models.HttpTarget(url="https://example.org", headers={"a": "b"})),
        timeout=datetime.timedelta(minutes=30),
        retry=models.Retry(max_attempts=0, multiplier=2),
        catch_up=models.CatchUp(runs=models.CatchUpRuns.LATEST),
        overlap=models.Overlap(policy=models.OverlapPolicy.SKIP),
        after=models.After(jobs=["load"]),
        priority=-3,
        every_node=True,
    )
    message = to_message("JobSpec", plain)
    assert message == to_message("ApplyJobsRequest", {"jobs": [typed]}).jobs[0]
    back = from_message(message)
    assert to_message("ApplyJobsRequest", {"jobs": back}).jobs[0] == message
    assert back.retry.max_attempts == 0, "an optional 0 is said, not left out"
    assert to_message("JobSpec", back.to_dict()) == message
    assert back.to_dict()["schedule"] == [
        {"cron": "30 2 * * *", "timezone": "Europe/Berlin", "start_at": "2026-12-01T09:00:00.000Z"}
    ]


@pytest.mark.parametrize(
    ("fields", "path", "reason"),
    [
        ({"schedule": [{"cron": "x"}, {"dialekt": "unix"}]}, "schedule[1].dialekt", "unknown field"),
        ({"schedule": {"start_at": datetime.datetime(2026, 1, 1)}}, "schedule.start_at", "no time zone"),
        ({"schedule": {"at": ["soon"]}}, "schedule.at[0]", "RFC 3339"),
        ({"timeout": -SECOND}, "timeout", "negative"),
        ({"timeout": datetime.timedelta.max}, "timeout", "10,000 years"),
        ({"target": "http"}, "target", "expected a mapping or Target, found `http`"),
        ({"target": models.Retry()}, "target", "expected Target, found Retry"),
        ({"priority": True}, "priority", "whole number"),
        ({"priority": 2**40}, "priority", ""),
        ({"labels": ["a"]}, "labels", "expected a mapping"),
        ({"on_lost": "retry"}, "on_lost", "expected one of `rerun`, `fail`, found `retry`"),
        ({"on_lost": ""}, None, ""),
        ({"description": b"x"}, "description", "expected text, found bytes"),
        ({"description": "\ud800"}, "description", ""),
    ],
)
def test_what_has_not_its_form_is_named(fields: Any, path: Any, reason: str) -> None:
    if path is None:
        to_message("JobSpec", fields)
        return
    with pytest.raises(InvalidArgument) as raised:
        to_message("JobSpec", fields)
    assert [problem.path for problem in raised.value.problems] == [path]
    assert reason in raised.value.problems[0].reason


def test_a_field_that_is_called_like_a_keyword_has_an_underscore() -> None:
    wanted = to_message("Schedule", {"from": "completion"})
    assert wanted == to_message("JobSpec", {"schedule": models.Schedule(from_=models.EveryFrom.COMPLETION)}).schedule[0]
    assert from_message(wanted).to_dict() == {"from": "completion"}


def test_a_word_of_a_later_release_is_told_and_not_sent_back() -> None:
    run = to_message("Run", {"run_id": "r"})
    run.state = 99
    seen = from_message(run)
    assert seen.state == "unrecognized_99"
    assert seen.state not in list(models.RunState)
    with pytest.raises(InvalidArgument):
        to_message("Run", {"state": seen.state})


def test_a_payload_names_its_task() -> None:
    app = App()

    @app.task(name="add")
    def add(left: int, right: int) -> int:
        return left + right

    assert invocation(app, '{"task": "add", "args": [1], "kwargs": {"right": 2}}', "x")[1:] == ([1], {"right": 2})
    assert invocation(app, add.target(1, right=2)["queue"]["payload"], "x") == (add, [1], {"right": 2})
    assert invocation(app, "5", "add")[1:] == ([5], {})
    for payload, reason in (
        ('{"task": "sub"}', "no task 'sub'"),
        ('{"task": 5}', "payload.task"),
        ('{"task": "add", "args": 5}', "payload.args"),
        ('{"task": "add", "kwargs": []}', "payload.kwargs"),
        ('{"task": "add", "queue": "x"}', "payload.queue: unknown"),
        ("5", "called like the job"),
    ):
        with pytest.raises(BadPayload, match=reason):
            invocation(app, payload, "x")
    with pytest.raises(ValueError, match="a task add already"):
        app.task(name="add")(lambda: None)


# Output.


def test_output_is_read_from_any_byte_with_its_gap() -> None:
    log = Store().open(("r", 1))
    for at in range(400):
        log.write(STDOUT if at % 2 else STDERR, b"%5d" % at + b"." * 9_995)
    whole = b"".join(b"%5d" % at + b"." * 9_995 for at in range(400))
    for offset in (0, 1, 12_345, 1_500_000, len(whole) - 1):
        at, read = offset, 0
        while True:
            pieces = log.pieces(at, 100_000)
            if not pieces:
                break
            for piece in pieces:
                assert piece.offset == at
                assert bytes(piece.data) == whole[at : at + len(piece.data)]
                at, read = piece.end, read + len(piece.data)
        assert at == len(whole)
    assert log.pieces(len(whole), 10) == []
    tail, cut = log.tail()
    assert (tail, cut) == (whole[-4_096:], True)
    assert log.kept_bytes <= _output.KEPT_BYTES + _output.END_BYTES + 10_000


def test_bytes_that_are_written_one_by_one_cost_no_piece_each() -> None:
    log = Store().open(("r", 1))
    for _ in range(20_000):
        log.write(STDOUT, b"x")
    assert len(log._first) < 200
    assert b"".join(bytes(piece.data) for piece in log.pieces(0, 1 << 20)) == b"x" * 20_000


def test_lines_are_counted_from_the_end() -> None:
    log = Store().open(("r", 1))
    log.write(STDOUT, b"one\ntwo\n")
    log.write(STDERR, b"three\nfo")
    log.write(STDOUT, b"ur\n")
    starts = [log.offset_of_line(lines) for lines in (1, 2, 3, 4, 9)]
    assert starts == [14, 8, 4, 0, 0]


def test_the_oldest_output_that_has_ended_makes_room(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_output, "ATTEMPTS_MAX", 3)
    store = Store()
    first = store.open(("a", 1))
    store.open(("b", 1)).close()
    for name in ("c", "d"):
        store.open((name, 1))
    assert store.find(("b", 1)) is None
    assert store.find(("a", 1)) is first, "what still runs is kept"


def test_all_output_together_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_output, "TOTAL_BYTES", 1_000_000)
    store = Store()
    logs = [store.open((f"r{at}", 1)) for at in range(20)]
    for log in logs:
        log.write(STDOUT, b"x" * 200_000)
    bound = 1_000_000 + 20 * (_output.END_BYTES + _output.PIECE_BYTES)
    assert sum(log.kept_bytes for log in logs) <= bound
    assert all(log.tail()[0] for log in logs), "the end of each is kept"
