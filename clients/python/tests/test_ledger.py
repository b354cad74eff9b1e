"""What a worker holds and owes, and whom it asks for the leader: without a clock, a stream or a task."""

from typing import Any, List, Optional

import pytest

from chronarch.worker import _ledger as ledger
from chronarch.worker._finder import PAUSE_MAX, PAUSE_MIN, SHUN, STEADY, Ask, Finder, Wait
from chronarch.worker._ledger import Key, Ledger, Overflow, Start, Stop, make_report, outcome
from chronarch.worker._task import Request

A1, A2, B3 = Key("a", 1), Key("a", 2), Key("b", 3)


def order(key: Key) -> Request:
    return Request(key.run_id, key.fence, 1, "default", "job", "task")


def holding(*keys: Key, slots: int = 2) -> Ledger:
    held = Ledger(slots)
    for key in keys:
        held.accept(key, order(key))
    return held


def starts(held: Ledger) -> List[Start]:
    found: List[Start] = []
    while True:
        start = held.start_next()
        if start is None:
            return found
        found.append(start)


def reports(held: Ledger, now: float = 0.0) -> List[Any]:
    found: List[Any] = []
    while True:
        report = held.next_report(now)
        if report is None:
            return found
        found.append((report.run_id, report.fence, report.outcome, report.error))


def test_an_attempt_is_started_once_however_often_it_is_ordered() -> None:
    held = holding(A1, A1)
    assert [start.key for start in starts(held)] == [A1]
    held.accept(A1, order(A1))
    assert starts(held) == []
    held.ended(A1, make_report(A1, "succeeded"))
    held.accept(A1, order(A1))
    held.acknowledge(A1)
    held.accept(A1, order(A1))
    assert starts(held) == []
    assert held.is_empty()


def test_no_more_run_than_there_are_slots() -> None:
    held = holding(A1, B3, Key("c", 4))
    assert [start.key for start in starts(held)] == [A1, B3]
    held.ended(A1, make_report(A1, "succeeded"))
    assert [start.key for start in starts(held)] == [Key("c", 4)]


def test_a_newer_attempt_waits_for_the_older_one_to_end() -> None:
    held = holding(A1)
    told: List[Stop] = []
    [older] = starts(held)
    older.stop = told.append
    held.accept(A2, order(A2))
    assert told == [Stop.SUPERSEDED]
    assert starts(held) == []
    held.ended(A1, make_report(A1, "cancelled"))
    assert [start.key for start in starts(held)] == [A2]
    assert reports(held) == [("a", 1, outcome("cancelled"), "a newer attempt of the run took its place")]


def test_an_older_attempt_does_not_begin_after_a_newer_one_was_ordered() -> None:
    held = holding(A2)
    held.accept(A1, order(A1))
    assert [start.key for start in starts(held)] == [A2]
    assert [report[:3] for report in reports(held)] == [("a", 1, outcome("cancelled"))]
    # Also once the newer one is only remembered.
    held.ended(A2, make_report(A2, "succeeded"))
    held.acknowledge(A2)
    held.acknowledge(A1)
    held.accept(Key("a", 1), order(A1))
    assert starts(held) == []


def test_what_waits_gives_way_to_a_newer_attempt() -> None:
    held = holding(A1, A2)
    assert [start.key for start in starts(held)] == [A2]


def test_a_cancelled_attempt_is_told_once_and_reported_also_when_it_never_was_held() -> None:
    held = holding(A1, B3, slots=1)
    told: List[Stop] = []
    [running] = starts(held)
    running.stop = told.append
    for key in (A1, A1, B3, Key("z", 9)):
        held.cancel(key)
    assert told == [Stop.CANCELLED]
    assert [report[:2] for report in reports(held)] == [("b", 3), ("z", 9)]
    held.accept(Key("z", 9), order(Key("z", 9)))
    assert held.waiting == 0, "the order came behind its cancellation"


def test_a_report_is_repeated_until_it_is_acknowledged() -> None:
    held = holding(A1)
    starts(held)
    held.ended(A1, make_report(A1, "succeeded"))
    assert len(reports(held, 0.0)) == 1
    assert reports(held, ledger.REPORT_REPEAT - 0.1) == []
    assert len(reports(held, ledger.REPORT_REPEAT)) == 1
    held.stream_opened()
    assert len(reports(held, ledger.REPORT_REPEAT)) == 1
    held.acknowledge(A1)
    held.stream_opened()
    assert reports(held, 100.0) == []


def test_what_is_acknowledged_before_it_ended_goes_on() -> None:
    held = holding(A1)
    starts(held)
    held.acknowledge(A1)
    assert held.held() == [A1]


def test_a_worker_that_leaves_gives_back_what_waits_and_stops_what_runs() -> None:
    held = holding(A1, B3, slots=1)
    told: List[Stop] = []
    [running] = starts(held)
    running.stop = told.append
    assert held.leave() == 2
    assert told == [Stop.LEAVING]
    held.ended(A1, make_report(A1, "cancelled"))
    lost = outcome("lost")
    assert reports(held) == [
        ("b", 3, lost, "the worker ended before it began"),
        ("a", 1, lost, "the worker ended and stopped it"),
    ]


def test_what_ends_by_itself_while_the_worker_leaves_is_told_as_it_ended() -> None:
    held = holding(A1)
    starts(held)
    held.leave()
    held.ended(A1, make_report(A1, "succeeded"))
    assert [report[2] for report in reports(held)] == [outcome("succeeded")]


def test_memory_is_bounded_whatever_the_leader_sends(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ledger, "WAITING_MAX", 4)
    monkeypatch.setattr(ledger, "ACKNOWLEDGED_MAX", 8)
    held = Ledger(1)
    for at in range(5):
        held.accept(Key("w", at) if at == 0 else Key(f"w{at}", at), order(A1))
    assert (held.waiting, held.unacknowledged) == (5, 0)
    held.accept(Key("more", 9), order(A1))
    assert [report[2] for report in reports(held)] == [outcome("failed")]
    for at in range(10, 13):
        held.cancel(Key(f"c{at}", at))
    with pytest.raises(Overflow):
        held.cancel(Key("c13", 13))
    for at in range(10, 30):
        held.acknowledge(Key(f"c{at}", at))
        held.accept(Key(f"d{at}", at), None, "refused")
        held.acknowledge(Key(f"d{at}", at))
    assert len(held._acknowledged) == 8
    assert len(held._newest) <= 8 + len(held.held())


def test_an_error_is_cut_between_characters() -> None:
    report = make_report(A1, "failed", "ä" * 300)
    assert report.error == "ä" * 256


# Whom it asks for the leader.


def ask(finder: Finder, now: float) -> str:
    step = finder.next(now)
    assert isinstance(step, Ask), step
    assert not step.carried
    return step.address


def wait(finder: Finder, now: float) -> float:
    step = finder.next(now)
    assert isinstance(step, Wait), step
    return step.until


def three(now: float = 0.0, seed: Optional[int] = 1) -> Finder:
    return Finder(["a:1", "b:1", "c:1"], now, seed)


def test_a_round_asks_each_endpoint_once_and_a_pause_follows() -> None:
    finder = three()
    assert {ask(finder, 0.0) for _ in range(3)} == {"a:1", "b:1", "c:1"}
    until = wait(finder, 0.0)
    assert until == PAUSE_MIN
    assert wait(finder, 0.0) == until, "asking again does not lengthen the pause"
    ask(finder, until)


def test_the_pause_stays_a_tenth_of_the_outage_up_to_its_bound() -> None:
    finder, now, longest = three(), 0.0, 0.0
    while now < 20.0:
        step = finder.next(now)
        if isinstance(step, Wait):
            pause = step.until - now
            assert PAUSE_MIN - 1e-9 <= pause <= max(PAUSE_MIN, now / 10, 0.0) + 1e-9
            longest, now = max(longest, pause), step.until
    assert PAUSE_MAX / 2 < longest <= PAUSE_MAX


def test_a_named_leader_is_asked_next_but_nobody_twice_in_a_round() -> None:
    finder = three()
    first = ask(finder, 0.0)
    finder.not_leader(Ask(first, False), "d:1", 0.0)
    assert ask(finder, 0.0) == "d:1", "also one that is no endpoint of ours"
    finder.not_leader(Ask("d:1", False), first, 0.0)
    assert first not in {ask(finder, 0.0) for _ in range(2)}, "two nodes that name each other are no loop"


def test_who_names_a_leader_that_cannot_be_reached_is_asked_to_carry_once() -> None:
    finder = Finder(["a:1", "b:1"], 0.0, 1)
    first, second = ask(finder, 0.0), ask(finder, 0.0)
    finder.not_leader(Ask(first, False), "far:1", 0.0)
    finder.not_leader(Ask(second, False), "", 0.0)
    assert ask(finder, 0.0) == "far:1", "the straight way goes first"
    finder.silent("far:1", 0.0)
    assert finder.next(0.0) == Ask(first, True)
    finder.not_leader(Ask(first, True), "far:1", 0.0)
    wait(finder, 0.0)


def test_a_silent_address_is_left_out_for_a_while_even_when_it_is_named() -> None:
    finder = three()
    dead = ask(finder, 0.0)
    finder.silent(dead, 0.0)
    follower = ask(finder, 0.0)
    finder.not_leader(Ask(follower, False), dead, 0.0)
    assert ask(finder, 0.0) != dead
    assert finder.next(0.0) == Ask(follower, True)
    until = wait(finder, 0.0)
    assert dead not in {ask(finder, until) for _ in range(2)}
    later = wait(finder, SHUN)
    assert dead in {ask(finder, later) for _ in range(3)}, "it may have come back"


def test_when_everyone_is_silent_everyone_is_asked() -> None:
    finder = three()
    for _ in range(3):
        finder.silent(ask(finder, 0.0), 0.0)
    until = wait(finder, 0.0)
    assert len({ask(finder, until) for _ in range(3)}) == 3


def test_the_leader_that_was_lost_is_asked_last_and_a_short_stream_earns_a_pause() -> None:
    finder = three()
    leader = ask(finder, 0.0)
    finder.lost(leader, 0.0, "", STEADY)
    assert [ask(finder, STEADY) for _ in range(3)][-1] == leader
    finder.lost(leader, STEADY, "", STEADY)
    assert wait(finder, STEADY) >= STEADY + PAUSE_MIN
