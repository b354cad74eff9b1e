"""Workers against real nodes: what becomes of attempts, whoever dies."""

import json
import os
import signal
import subprocess
import sys
import threading
from functools import partial
from pathlib import Path
from typing import Any, List

import pytest
from cluster import Cluster, eventually
from conftest import HERE, Staff

from chronarch import Client
from chronarch.worker import App, Worker

POOLS = ["processes", "threads", "asyncio"]


def is_gone(pid: int) -> bool:
    """Whether no process has this id; one that nobody has waited for counts as gone."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
    except FileNotFoundError:
        return True
    return stat.rsplit(")", 1)[1].split()[0] == "Z"


@pytest.mark.parametrize("pool", POOLS)
def test_ends_are_told_as_they_are(staff: Staff, pool: str) -> None:
    staff.start("--pool", pool)
    added = staff.carry_out("add", 1, 2).attempts[0]
    assert (added.outcome, added.result) == ("succeeded", "3")
    assert "adding 1 and 2\n" in added.output
    assert "to stderr\n" in added.output

    told: List[Any] = [
        ("soft", ["returns"], "succeeded", "", '"in time"'),
        ("soft", ["raises"], "timeout", "soft time limit of 0.2 s", ""),
        ("limited", [], "timeout", "the time of the attempt was over", ""),
        ("fails", ["broken"], "failed", "ValueError: broken", ""),
        ("fails", ["long"], "failed", "ValueError: xxx", ""),
        ("fails", ["mute"], "failed", "Mute", ""),
        ("fails", ["huge"], "failed", "xxxxx", ""),
        ("returns", ["much"], "succeeded", "not kept: 5002 bytes", ""),
        ("returns", ["no-json"], "succeeded", "not kept, for object is no JSON", ""),
        ("add", ["1"], "failed", "TypeError", ""),
        ("no-such", [], "failed", "this worker has no task 'no-such'", ""),
    ]
    for task, args, outcome, error, result in told:
        attempt = staff.carry_out(task, *args).attempts[0]
        assert (attempt.outcome, attempt.result) == (outcome, result), (task, attempt)
        assert error in attempt.error, (task, attempt)
    exit_code = staff.carry_out("fails", "exit").attempts[0]
    assert (exit_code.exit_code, exit_code.error) == (75, "no such customer")
    broken, expected = staff.carry_out("fails", "broken").attempts[0], staff.carry_out("fails", "expected").attempts[0]
    assert "Traceback" in broken.output
    assert expected.output == ""


def test_a_task_is_told_of_its_attempt(staff: Staff) -> None:
    staff.start("--pool", "threads")
    retried = {"params": {"day": "mon"}, "retry": {"max_attempts": 2, "initial": "100ms"}, "name": "told"}
    run = staff.carry_out("say", job=retried)
    said = json.loads(run.attempts[0].result)
    assert (said["id"], said["retries"], said["params"]) == (run.run_id, 0, {"day": "mon"})
    assert (said["fence"], said["job"]) == (run.attempts[0].fence, "told")
    assert said["hostname"] == run.attempts[0].worker
    assert run.attempts[0].output == "progress 50% half\n"


def test_a_payload_without_a_task_is_for_the_task_that_is_called_like_the_job(staff: Staff) -> None:
    staff.start("--pool", "threads")
    for payload, result in (('{"day": 1}', '{"day": 1}'), ("[1, 2]", "[1, 2]"), ("", "")):
        job = {"name": "like-the-job", "target": {"queue": {"payload": payload}}}
        assert staff.carry_out("", job=job).attempts[0].result == result
    refused = staff.carry_out("", job={"name": "like-the-job", "target": {"queue": {"payload": "{"}}})
    assert refused.attempts[0].error.startswith("payload: no JSON")


@pytest.mark.parametrize("pool", POOLS)
def test_an_attempt_goes_on_while_the_leader_dies(cluster: Cluster, staff: Staff, pool: str) -> None:
    staff.start("--pool", pool)
    run_id = staff.trigger("long-async" if pool == "asyncio" else "long", "a")
    staff.has_marked("a.begun")
    before = staff.client.get_status().now
    assert before is not None
    cluster.kill(cluster.leader())

    def carried_beyond_the_lease() -> bool:
        # The lease is 3 s; a worker that had not come back by then would have lost the attempt.
        workers, now = staff.workers(), staff.client.get_status().now
        return bool(workers and workers[0].running == 1 and now and (now - before).total_seconds() > 4.5)

    eventually("the worker to be with the next leader, beyond its lease", carried_beyond_the_lease)
    staff.say("a.go")
    run = staff.client.wait_for_run(run_id)
    assert [(one.number, one.outcome) for one in run.attempts] == [(1, "succeeded")]
    assert (staff.marked("a.begun"), staff.marked("a.ended")) == (1, 1)


def test_a_report_outlives_the_leader_that_would_have_taken_it(cluster: Cluster, staff: Staff) -> None:
    staff.start("--pool", "threads")
    run_id = staff.trigger("long", "a")
    staff.has_marked("a.begun")
    cluster.kill(cluster.leader())
    # It ends while there is no leader.
    staff.say("a.go")
    run = staff.client.wait_for_run(run_id)
    assert [(one.number, one.outcome) for one in run.attempts] == [(1, "succeeded")]
    assert staff.marked("a.ended") == 1


def test_a_worker_that_was_stopped_beyond_its_lease_gives_way(staff: Staff) -> None:
    staff.start("--pool", "processes")
    assert staff.process is not None
    run_id = staff.trigger("cleans-up", "a", job={"on_lost": "rerun", "retry": {"max_attempts": 2, "initial": "100ms"}})
    staff.has_marked("a.begun")
    staff.process.send_signal(signal.SIGSTOP)
    lost = eventually(
        "the cluster to give the attempt up",
        lambda: [one for one in staff.client.get_run(run_id).attempts if one.outcome == "lost"],
    )
    staff.process.send_signal(signal.SIGCONT)
    eventually("the second attempt", lambda: staff.marked("a.begun") == 2)
    assert staff.marked("a.cleaned") == 1, "the first was ended before the second began"
    staff.say("a.go")
    run = staff.client.wait_for_run(run_id)
    assert [one.outcome for one in run.attempts] == ["lost", "succeeded"]
    assert run.attempts[1].fence > lost[0].fence
    assert staff.marked("a.ended") == 1


@pytest.mark.parametrize("pool", POOLS)
def test_a_cancelled_run_stops_its_task(staff: Staff, pool: str) -> None:
    staff.start("--pool", pool)
    run_id = staff.trigger("long-async" if pool == "asyncio" else "cleans-up", "a")
    staff.has_marked("a.begun")
    staff.client.cancel_run(run_id)
    run = staff.client.wait_for_run(run_id)
    assert (run.state, run.attempts[0].outcome) == ("cancelled", "cancelled")
    staff.has_marked("a.cancelled" if pool == "asyncio" else "a.cleaned")
    # What looks by itself ends too, and the slot is free again.
    heeds = staff.trigger("heeds", "b")
    staff.has_marked("b.begun")
    staff.client.cancel_run(heeds)
    assert staff.client.wait_for_run(heeds).state == "cancelled"
    assert staff.carry_out("add", 1).state == "succeeded"


def test_what_does_not_end_in_time_is_killed_with_all_that_it_started(staff: Staff) -> None:
    staff.start("--pool", "processes")
    run = staff.carry_out("stubborn", "a", job={"timeout": "500ms"})
    assert (run.state, run.attempts[0].outcome) == ("failed", "timeout")
    for pid in (staff.marks / "a.begun").read_text().split():
        eventually(f"process {pid} to be gone", partial(is_gone, int(pid)))
    assert staff.carry_out("add", 1).state == "succeeded", "another process takes its place"


def test_a_task_that_closes_its_output_is_told_as_it_ends(staff: Staff) -> None:
    staff.start("--pool", "processes", "--max-tasks-per-child", "1")
    attempt = staff.carry_out("fails", "closed").attempts[0]
    assert (attempt.outcome, attempt.error) == ("failed", "ValueError: broken")
    assert staff.carry_out("add", 1).state == "succeeded"


def test_a_process_that_dies_fails_its_attempt_or_loses_it(staff: Staff) -> None:
    staff.start("--pool", "processes")
    died = staff.carry_out("dies")
    assert (died.attempts[0].outcome, died.attempts[0].error) == ("failed", "the process of the task died: SIGKILL")
    lost = staff.carry_out("dies-and-is-lost", job={"on_lost": "fail"})
    assert (lost.reason, lost.attempts[0].outcome) == ("lost", "lost")
    assert staff.carry_out("add", 1).state == "succeeded", "others take their places"


def test_processes_are_replaced_after_so_many_attempts(staff: Staff) -> None:
    staff.start("--pool", "processes", "--max-tasks-per-child", "2", "--concurrency", "1")
    processes = [json.loads(staff.carry_out("say").attempts[0].result)["process"] for _ in range(5)]
    assert [processes.count(one) for one in dict.fromkeys(processes)] == [2, 2, 1]


def test_nothing_goes_on_when_the_worker_is_killed(staff: Staff) -> None:
    staff.start("--pool", "processes")
    staff.trigger("stubborn", "a")
    staff.has_marked("a.begun")
    assert staff.process is not None
    staff.process.kill()
    for pid in (staff.marks / "a.begun").read_text().split():
        eventually(f"process {pid} to be gone", partial(is_gone, int(pid)))


@pytest.mark.parametrize("pool", POOLS)
def test_output_is_read_while_it_is_written(staff: Staff, pool: str) -> None:
    staff.start("--pool", pool)
    run_id = staff.trigger("ticks", "a")
    eventually("the run to begin", lambda: staff.client.get_run(run_id).attempts)
    seen = b""
    for message in staff.client.read_output(run_id, follow=True):
        seen += b"".join(piece.data for piece in message.pieces)
        if seen == b"first\n":
            staff.say("a.go")
    assert seen == b"first\nsecond\n"


def test_of_much_output_the_start_and_the_end_are_kept(staff: Staff) -> None:
    staff.start("--pool", "processes")
    run = staff.carry_out("writes", 20_000)
    pieces = [piece for message in staff.client.read_output(run.run_id) for piece in message.pieces]
    gaps = [piece for piece in pieces if piece.dropped_bytes]
    assert [gap.loss for gap in gaps] == ["limit"]
    at = 0
    for piece in pieces:
        assert piece.offset == at, "every byte is there or told as dropped"
        at += len(piece.data) + piece.dropped_bytes
    last = b"".join(p.data for m in staff.client.read_output(run.run_id, tail_lines=2) for p in m.pieces)
    assert [line.split()[:2] for line in last.splitlines()] == [[b"line", b"19998"], [b"line", b"19999"]]
    assert run.attempts[0].output_truncated
    assert run.attempts[0].output.endswith("." * 80 + "\n")


def test_a_worker_that_drains_finishes_what_it_has_under_whoever_leads(cluster: Cluster, staff: Staff) -> None:
    staff.start("--pool", "threads")
    now = staff.trigger("long", "a")
    staff.has_marked("a.begun")
    name = staff.workers()[0].worker
    staff.client.drain_worker(name, reason="a test")
    later = staff.trigger("add", 1)
    cluster.kill(cluster.leader())

    def is_told() -> bool:
        workers = staff.workers()
        drain = workers[0].drain if workers else None
        return drain is not None and drain.reason == "a test"

    eventually("the worker to say so to the next leader", is_told)
    staff.say("a.go")
    assert staff.client.wait_for_run(now).state == "succeeded"
    waiting = staff.client.get_run(later)
    assert (waiting.state, waiting.attempts) == ("pending", [])
    staff.client.resume_worker(name)
    run = staff.client.wait_for_run(later)
    assert [one.worker for one in run.attempts] == [name]


@pytest.mark.parametrize("pool", POOLS)
def test_a_signal_lets_what_runs_end(staff: Staff, pool: str) -> None:
    staff.start("--pool", pool)
    run_id = staff.trigger("long-async" if pool == "asyncio" else "long", "a")
    staff.has_marked("a.begun")
    assert staff.process is not None
    staff.process.terminate()
    eventually("the worker to drain", lambda: [one for one in staff.workers() if one.draining])
    later = staff.trigger("add", 1)
    staff.say("a.go")
    assert staff.end() == 0
    assert staff.client.wait_for_run(run_id).state == "succeeded"
    assert staff.client.get_run(later).attempts == []


def test_a_signal_to_all_processes_lets_what_runs_end_too(staff: Staff) -> None:
    staff.start("--pool", "processes")
    run_id = staff.trigger("long", "a")
    staff.has_marked("a.begun")
    assert staff.process is not None
    staff.process.terminate()
    os.kill(int((staff.marks / "a.begun").read_text()), signal.SIGTERM)
    eventually("the worker to drain", lambda: [one for one in staff.workers() if one.draining])
    staff.say("a.go")
    assert staff.end() == 0
    assert staff.client.wait_for_run(run_id).state == "succeeded"


@pytest.mark.parametrize("pool", POOLS)
def test_what_a_signal_does_not_wait_for_is_told_as_lost(staff: Staff, pool: str) -> None:
    staff.start("--pool", pool, "--drain-timeout", "0.2")
    run_id = staff.trigger("long-async" if pool == "asyncio" else "long", "a", job={"on_lost": "fail"})
    staff.has_marked("a.begun")
    assert staff.process is not None
    staff.process.terminate()
    assert staff.end() == 0
    run = staff.client.get_run(run_id)
    assert (run.reason, run.attempts[0].error) == ("lost", "the worker ended and stopped it")


def test_a_worker_can_be_part_of_a_program(cluster: Cluster, client: Client) -> None:
    app = App()

    @app.task(name="twice")
    def twice(value: int) -> int:
        return 2 * value

    worker = Worker(app, ["within"], endpoints=cluster.endpoints, concurrency=1)
    ends: List[Any] = []
    thread = threading.Thread(target=lambda: ends.append(worker.run()))
    thread.start()
    client.apply_jobs([{"name": "within", "queue": "within", "target": twice.target(21)}])
    run = client.wait_for_run(client.trigger_job("within").run_id)
    worker.stop()
    thread.join(30)
    assert run.attempts[0].result == "42"
    assert (ends[0].stopped, ends[0].unacknowledged) == (0, 0)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["no_such_module"], "there is no module no_such_module"),
        (["jobs:nothing"], "jobs:nothing: expected an App, found nothing"),
        (["jobs"], "jobs: no task"),
        (["jobs:app", "--concurrency", "0"], "--concurrency: 0 is not between 1 and 10000"),
        (["jobs:app", "-l", "LOUD"], "invalid choice: 'loud'"),
        # Their case is the one that `celery worker` has them in.
        (["jobs:app", "-l", "INFO", "--endpoints", "here"], "--endpoints: `here` is not HOST:PORT"),
        (["jobs:app", "--drain-timeout", "nan"], "--drain-timeout: expected seconds, found nan"),
        (["jobs:app", "--queue", ""], "--queue: '' is not between 1 and 256"),
        (["jobs:app", "--pool", "threads", "--max-tasks-per-child", "3"], "--max-tasks-per-child: only processes end"),
        (["jobs:app", "--max-tasks-per-child", "0"], "--max-tasks-per-child: expected at least 1, found 0"),
        (["jobs:app", "--tls-ca", "/no/such.pem"], "--tls-ca: there is no file '/no/such.pem'"),
        (["jobs:app", "--tls-key", __file__], "--tls-key: CERT and KEY need one another"),
        (
            ["jobs:app", "--endpoints", "10.0.0.1:7401", "--token-file", __file__],
            "--token-file: only printable ASCII characters can be sent",
        ),
        (["jobs:app", "--token-file", "/no/such/file"], "No such file or directory: '/no/such/file'"),
    ],
)
def test_what_makes_no_sense_is_told_before_the_worker_starts(arguments: List[str], message: str) -> None:
    command = [sys.executable, "-m", "chronarch.worker.cli", *arguments]
    ended = subprocess.run(command, cwd=HERE, capture_output=True, text=True, timeout=30, env=dict(os.environ))
    assert ended.returncode == 2
    assert message in ended.stderr
    assert "Traceback" not in ended.stderr


def test_a_token_that_would_leave_in_plain_text_is_told_by_the_options_that_help(tmp_path: Path) -> None:
    secret = tmp_path / "token"
    secret.write_text("secret")
    command = [sys.executable, "-m", "chronarch.worker.cli", "jobs:app", "--endpoints", "10.0.0.1:7401"]
    environment = {key: value for key, value in os.environ.items() if not key.startswith("CHRONARCH_TLS")}
    told = "10.0.0.1:7401 would be sent it in plain text; give --tls-ca, or --insecure"
    for given, token, name in (
        (["--token-file", str(secret)], {}, "--token-file"),
        ([], {"CHRONARCH_TOKEN": "secret"}, "CHRONARCH_TOKEN"),
    ):
        ended = subprocess.run(
            [*command, *given], cwd=HERE, capture_output=True, text=True, timeout=30, env={**environment, **token}
        )
        assert (ended.returncode, ended.stderr) == (2, f"chronarch-worker: {name}: {told}\n")
