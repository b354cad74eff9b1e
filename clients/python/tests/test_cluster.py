"""Both clients against real nodes, also while one of them dies."""

import asyncio
import datetime
import importlib.metadata
import subprocess
import threading
from typing import Any, List

import pytest
from cluster import Cluster, binary, eventually

import chronarch.aio
from chronarch import AlreadyExists, Client, InvalidArgument, NotFound, Tls, Unreachable, models

UTC = datetime.timezone.utc
JOB = {"name": "nightly", "schedule": {"cron": "30 2 * * *"}, "target": {"queue": {"payload": "{}"}}, "queue": "nobody"}


def test_a_job_lives_its_life(client: Client) -> None:
    applied = client.apply_jobs([{**JOB, "name": "life"}], reason="a test")
    assert [(one.name, one.change) for one in applied.results] == [("life", "created")]
    change = {**JOB, "name": "life", "timeout": datetime.timedelta(minutes=5)}
    dry = client.apply_jobs([change], dry_run=True).results[0]
    assert [(one.path, one.to) for one in dry.changes] == [("timeout", "5m")]
    client.apply_jobs([change])
    job = client.get_job("life")
    assert job.spec is not None
    assert (job.spec.timeout, job.actor, job.state) == (datetime.timedelta(minutes=5), "tests", "active")
    assert job.next_at is not None
    assert (job.next_at.hour, job.next_at.minute, job.next_at.tzinfo) == (2, 30, UTC)
    assert [one.version for one in client.list_versions("life").versions] == [2, 1]
    due = client.next_occurrences("life", count=3, after=datetime.datetime(2026, 1, 1, tzinfo=UTC)).occurrences
    assert [str(one.at) for one in due] == [f"2026-01-0{day} 02:30:00+00:00" for day in (1, 2, 3)]

    assert client.pause_job("life", until=job.next_at).state == "paused"
    assert client.resume_job("life").state == "active"
    assert "life" in [one.spec.name for one in client.iter_jobs() if one.spec]
    run = client.trigger_job("life", operation_id="life-once")
    assert client.trigger_job("life", operation_id="life-once").run_id == run.run_id, "the first result is told"
    assert client.explain_run(run.run_id).summary
    client.cancel_run(run.run_id, reason="enough")
    assert client.wait_for_run(run.run_id).state == "cancelled"
    assert [one.run_id for one in client.iter_runs(job="life", states=["cancelled"])] == [run.run_id]
    past = datetime.datetime.now(UTC) - datetime.timedelta(days=3)
    assert len(client.backfill_job("life", from_=past, dry_run=True).scheduled_at) == 3
    client.delete_job("life", cancel_runs=True)
    with pytest.raises(NotFound):
        client.get_job("life")


def test_what_is_not_of_jobs_is_answered_too(client: Client) -> None:
    client.apply_jobs([{**JOB, "name": "other", "breaker": {"name": "feed"}}])
    assert client.trip_breaker("feed", open_for="5m", reason="a test").state == "open"
    assert client.reset_breaker("feed").state == "closed"
    assert client.set_queue("nobody", rate="100/s").rate == "100/s"
    assert "nobody" in [queue.name for queue in client.list_queues().queues]
    kept = client.set_namespace("default", retention={"runs": 1_000, "age": "30d"}).retention
    assert kept == models.NamespaceRetention(runs=1_000, age=datetime.timedelta(days=30))
    assert client.delete_namespace("default").jobs >= 1
    statuses = client.statuses()
    assert [isinstance(one, models.ClusterStatus) for one in statuses.values()] == [True] * 3
    text = b"".join(piece.text for piece in client.export_log())
    assert b'"through"' in text.splitlines()[-1]


def test_refusals_are_told_by_the_path_of_the_field(client: Client) -> None:
    with pytest.raises(InvalidArgument) as raised:
        client.apply_jobs([JOB, {"name": "A b", "schedule": {"cron": "99 * * * *"}, "target": {"http": {"url": "x"}}}])
    told = {problem.path: problem for problem in raised.value.problems}
    assert set(told) == {"jobs[1].name", "jobs[1].schedule.cron", "jobs[1].target.http.url"}
    assert told["jobs[1].schedule.cron"].hint == "the largest minute is 59"
    with pytest.raises(NotFound, match='there is no job "no-such"') as missing:
        client.trigger_job("no-such")
    assert missing.value.hint
    with pytest.raises(AlreadyExists):
        client.promote_node(1)


def test_a_plain_node_does_not_speak_tls(nodes: Cluster) -> None:
    with Client(nodes.endpoints, tls=Tls(), timeout=1.5) as client, pytest.raises(Unreachable) as raised:
        client.get_status()
    assert "speaks plain text" in (raised.value.hint or "")


def test_a_watch_goes_on_while_the_leader_dies(cluster: Cluster, client: Client) -> None:
    client.apply_jobs([{**JOB, "name": "watched", "target": {"queue": {"payload": "{}"}}}])
    run_id = client.trigger_job("watched").run_id
    seen: List[models.Run] = []

    async def watch() -> None:
        async with chronarch.aio.Client(cluster.endpoints) as watcher:
            async for run in watcher.watch_run(run_id):
                seen.append(run)

    thread = threading.Thread(target=lambda: asyncio.run(watch()))
    thread.start()
    eventually("the watch to begin", lambda: seen)
    leader = cluster.leader()
    cluster.kill(leader)
    cluster.leader()
    client.cancel_run(run_id)
    thread.join(30)
    assert [run.state for run in seen] == ["pending", "cancelled"]


def test_writes_go_on_while_the_leader_dies_and_none_is_done_twice(cluster: Cluster) -> None:
    over, runs, errors = threading.Event(), [], []

    def write() -> None:
        with Client(cluster.endpoints, timeout=20.0) as client:
            while not over.is_set():
                try:
                    runs.append(client.trigger_job("much").run_id)
                except Exception as error:
                    errors.append(error)

    with Client(cluster.endpoints) as client:
        client.apply_jobs([{**JOB, "name": "much", "overlap": "allow", "retention": {"runs": 10_000}}])
        thread = threading.Thread(target=write)
        thread.start()
        eventually("some writes", lambda: len(runs) > 20)
        cluster.kill(cluster.leader())
        some = len(runs)
        eventually("more writes", lambda: len(runs) > some + 20)
        over.set()
        thread.join(30)
        assert errors == []
        assert len(set(runs)) == len(runs)
        assert {run.run_id for run in client.iter_runs(job="much")} == set(runs)
        client.delete_job("much", cancel_runs=True)


def test_the_asyncio_client_does_many_things_at_once(nodes: Cluster) -> None:
    async def work() -> Any:
        async with chronarch.aio.Client(nodes.endpoints) as client:
            jobs = [{**JOB, "name": f"at-once-{at}"} for at in range(50)]
            await asyncio.gather(*(client.apply_jobs([job]) for job in jobs))
            found = await asyncio.gather(*(client.get_job(f"at-once-{at}") for at in range(50)))
            listed = [job.spec.name async for job in client.iter_jobs() if job.spec is not None]
            await asyncio.gather(*(client.delete_job(f"at-once-{at}") for at in range(50)))
            return [job.spec.name for job in found if job.spec], listed

    got, listed = asyncio.run(work())
    assert got == [f"at-once-{at}" for at in range(50)]
    assert set(got) <= set(listed)


def test_the_package_has_the_version_of_the_program() -> None:
    said = subprocess.run([binary(), "--version"], capture_output=True, text=True, check=True).stdout.split()
    assert said[1] == importlib.metadata.version("chronarch")
