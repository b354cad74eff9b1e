"""The demo with Celery: see scripts/demo-celery."""

import argparse
import collections
import contextlib
import json
import math
import os
import sys
import threading
import time

import celery_stage as stage_of
from celery_stage import ROOT, Stage, leader, leads, percentile, unbroken, wait
from demo import instant_ms, say

TASKS = [("orders.settle", "eu"), ("mail.digest", "owner@shop.example"), ("stock.refresh", "main")]
# Of what is due, at the moment of the kill. It is asked for at the lower one, for more leaves until the signal is there.
MIDDLE = (0.2, 0.8)
AIM = 0.2
# What has to be ready before a full minute, in seconds ahead of it.
READY = 6
BEAT_READY = 12
# Nothing more comes when nothing has for so long.
QUIET = 4.0
PATIENCE = 45.0
SECONDS, SECONDS_QUICK = 235, 115

Row = collections.namedtuple("Row", "name due ran doubled missed lateness away")


def next_minute(ahead):
    """The next full minute that is at least so many seconds away."""
    return math.ceil((time.time() + ahead) / 60) * 60


class Shop:
    """The broker, a Celery worker of examples/shop, and what that one ran."""

    def __init__(self, stage, broker):
        self.stage, self.broker = stage, broker
        self.counted = stage.folder / "counted"
        self.counted.touch()
        self.environment = dict(SHOP_BROKER=broker.url, PYTHONPATH=f"{ROOT}/examples/shop:{ROOT}/scripts/demo-data")
        command = [sys.executable, "-m", "celery", "-A", "shop", "worker", "-I", "celery_counter", "-c", "2",
                   "--without-gossip", "--without-mingle", "-l", "WARNING", "-n", "shop@demo"]
        self.ask = self.celery(broker.url)
        stage.start("worker", command, DEMO_COUNTED=str(self.counted), **self.environment)
        wait("the Celery worker to answer", lambda: self.ask.control.ping(timeout=0.5, limit=1))

    @staticmethod
    def celery(url):
        from celery import Celery

        return Celery("asks", broker=url)

    def size(self):
        return self.counted.stat().st_size

    def ran(self, since=0):
        """What the worker began to run, from that size of the book on."""
        with open(self.counted, "rb") as book:
            book.seek(since)
            # The last line may be half there.
            return [json.loads(line) for line in book.read().split(b"\n")[:-1]]

    def sent(self, since):
        """How many messages have come to the queue: those in it, and those begun. Up to six in the worker's hands are missed."""
        with open(self.counted, "rb") as book:
            book.seek(since)
            return self.broker.waiting() + book.read().count(b"\n")

    def book_before(self, due):
        """Waits until shortly before the full minute; the size of the book then. Another minute may have come up meanwhile."""
        time.sleep(max(0.0, due - time.time() - 2))
        return self.size()

    def settled(self, since, patience=PATIENCE):
        """Waits until the queue is empty and nothing has been run for a while."""
        end, size, changed = time.monotonic() + patience, -1, time.monotonic()
        while time.monotonic() < end:
            now = self.size()
            if now != size or self.broker.waiting():
                size, changed = now, time.monotonic()
            elif time.monotonic() - changed > QUIET:
                break
            time.sleep(0.05)
        return self.ran(since)


def watch_until(shop, since, due, entries):
    """How many had been sent when it was time to kill; fewer than asked for if the minute has begun long ago."""
    time.sleep(max(0.0, due - time.time() - 0.2))
    while (sent := shop.sent(since)) < AIM * entries and time.time() < due + 30:
        pass
    return sent


def account(name, lines, due, at, entries, away):
    """A row: `lines` are what ran for the minute `at`."""
    first, times = {}, collections.Counter(line["job"] for line in lines)
    for line in lines:
        first.setdefault(line["job"], line["at"])
    lateness = sorted(begun - at for begun in first.values())
    doubled = sum(count - 1 for count in times.values())
    return Row(name, due, len(lines), doubled, entries - len(times), lateness, away)


class Absence(threading.Thread):
    """Watches the other nodes until one of them leads."""

    def __init__(self, cluster):
        super().__init__(daemon=True)
        self.others, self.killed, self.away = list(cluster.clients.values()), time.monotonic(), None

    def run(self):
        while self.away is None and time.monotonic() < self.killed + 30:
            if any(leads(address) for address in self.others):
                self.away = time.monotonic() - self.killed
            time.sleep(0.002)


def jobs(entries):
    # One document each, in JSON, which is YAML.
    for entry in range(entries):
        task, argument = TASKS[entry % len(TASKS)]
        target = {"celery": {"broker": "main", "task": task, "args": [argument]}}
        yield json.dumps({"name": f"entry-{entry}", "schedule": {"cron": "* * * * *", "timezone": "UTC"}, "target": target})


def records(cluster, due):
    """The runs of a full minute."""
    lines = cluster.cli("run", "list", "--limit", "20000", "-o", "jsonl").splitlines()
    return [run for run in map(json.loads, lines) if instant_ms(run["scheduled_at"]) == due * 1000]


def kill_a_leader(shop, cluster, due, entries):
    """The account of one full minute, the node that was killed in it, and what share had been sent by then."""
    since = shop.book_before(due)
    node = wait("a leader", lambda: leader(cluster))
    sent = watch_until(shop, since, due, entries)
    cluster.processes[f"node-{node}"].kill()
    absence = Absence(cluster)
    absence.start()
    sent = max(sent, shop.sent(since))
    with unbroken():
        cluster.kill(node)
    say(f"killed node {node}, which led: at least {sent} of {entries} had been sent")
    absence.join()
    # What the leader's own worker had in its hands is asked for again when that one has been silent for its lease.
    while time.time() < due + 35:
        runs = records(cluster, due)
        if len(runs) >= entries and all(run["state"] not in ("pending", "running") for run in runs):
            break
        time.sleep(0.2)
    lines = shop.settled(since, due + 52 - time.time())
    runs = records(cluster, due)
    states = collections.Counter(run["state"] for run in runs)
    again = sum(len(run["attempts"]) > 1 for run in runs)
    counts = ", ".join(f"{count} {state}" for state, count in sorted(states.items()))
    say(f"runs on record: {counts}; {again} took a second attempt")
    return account("Chronarch, the leader killed", lines, entries, due, entries, absence.away), node, sent / entries


def ours(shop, program, entries, until):
    cluster = shop.stage.cluster(program, stage_of.connection(shop.broker))
    file = shop.stage.folder / "jobs.yaml"
    file.write_text("\n---\n".join(jobs(entries)))
    cluster.cli("job", "apply", "-f", str(file), "--wait", "--timeout", "60s")
    due = next_minute(READY)
    say(f"three nodes, {entries} jobs; waiting for {time.strftime('%H:%M', time.localtime(due))}")
    row, node, share = kill_a_leader(shop, cluster, due, entries)
    rows = [row]
    while not MIDDLE[0] <= share <= MIDDLE[1]:
        due = next_minute(READY)
        if due + 30 > until:
            say("the kill was not in the middle, and there is no time for another one")
            break
        say("the kill was not in the middle: once more")
        with unbroken():
            cluster.start(node)
        row, node, share = kill_a_leader(shop, cluster, due, entries)
        rows.append(row)
    with unbroken():
        shop.stage.end(cluster)
    shop.settled(shop.size(), 10)
    return rows


class Beat:
    """Celery's own scheduler with as many crontab entries."""

    def __init__(self, shop, name, entries):
        self.shop, self.name, self.process = shop, name, None
        (shop.stage.folder / "beats.py").write_text(
            "from celery.schedules import crontab\nfrom shop import app\n"
            f"tasks = {TASKS!r}\n"
            "app.conf.beat_schedule = {\n"
            '    f"entry-{i}": {"task": tasks[i % len(tasks)][0], "args": [tasks[i % len(tasks)][1]], "schedule": crontab(),\n'
            '                   "options": {"headers": {"periodic_task_name": f"entry-{i}"}}}\n'
            f"    for i in range({entries})\n}}\n"
        )
        self.start()

    def start(self):
        command = [sys.executable, "-m", "celery", "-A", "beats", "beat", "-l", "INFO", "-s", f"{self.name}.schedule",
                   "--pidfile", ""]
        self.process = self.shop.stage.start(self.name, command, **self.shop.environment)

    def said(self, what):
        return (self.shop.stage.folder / f"{self.name}.log").read_text().count(what)

    def kill_and_restart(self):
        """Seconds until the new one sends; None if it does not for a while."""
        killed = time.monotonic()
        self.shop.stage.kill(self.process)
        before = self.said("Sending due task")
        self.start()
        while self.said("Sending due task") == before:
            if time.monotonic() > killed + 20:
                return None
            time.sleep(0.01)
        return time.monotonic() - killed

    def end(self):
        self.shop.stage.kill(self.process)
        self.shop.settled(self.shop.size(), 10)


def beat_in_the_middle(shop, entries):
    beat = Beat(shop, "beat-busy", entries)
    due = next_minute(BEAT_READY)
    say(f"celery beat, {entries} entries; waiting for {time.strftime('%H:%M', time.localtime(due))}")
    since = shop.book_before(due)
    sent = watch_until(shop, since, due, entries)
    away = beat.kill_and_restart()
    say(f"killed celery beat and started it again: at least {sent} of {entries} had been sent")
    lines = shop.settled(since, due + 50 - time.time())
    beat.end()
    return account("celery beat, killed while it sent", lines, entries, due, entries, away)


def beat_idle(shop, entries):
    beat = Beat(shop, "beat-idle", entries)
    due = next_minute(BEAT_READY)
    say(f"celery beat anew; waiting for {time.strftime('%H:%M', time.localtime(due))}")
    since = shop.book_before(due)
    time.sleep(max(0.0, due - time.time()))
    wait("the tasks", lambda: len(shop.ran(since)) >= entries or time.time() > due + 30)
    shop.settled(since, 10)
    away = beat.kill_and_restart()
    after = time.time() - due - (away or 0)
    say(f"killed celery beat {after:.0f} s after the minute, when it had sent all, and started it again")
    lines = shop.settled(since, due + 55 - time.time())
    beat.end()
    return account("celery beat, killed when idle", lines, entries, due, entries, away)


def ms(seconds):
    return "-" if seconds is None else f"{seconds * 1000:,.0f}"


def show(rows):
    print()
    print(f"{'':36}{'due':>6}{'ran':>6}{'doubled':>9}{'missed':>8}{'lateness p50':>14}{'p99':>9}{'max':>9}{'nobody':>9}")
    for row in rows:
        late = [ms(percentile(row.lateness, share)) if row.lateness else "-" for share in (0.5, 0.99, 1)]
        print(f"{row.name:36}{row.due:>6}{row.ran:>6}{row.doubled:>9}{row.missed:>8}{late[0]:>14}{late[1]:>9}{late[2]:>9}"
              f"{ms(row.away):>9}")
    print()
    print("lateness: ms from the full minute until the Celery worker began the entry's task, for the first time")
    print("nobody:   ms from the kill until another node led; for celery beat, until the one started again sent")
    print(flush=True)


def run(stage, arguments):
    begun = time.time()
    say(f"starting {arguments.broker} and a Celery worker of examples/shop")
    shop = Shop(stage, stage_of.BROKERS[arguments.broker](stage))
    rows = ours(shop, os.path.abspath(arguments.program), arguments.entries, begun + (80 if arguments.beat else 110))
    missed, doubled = sum(row.missed for row in rows), sum(row.doubled for row in rows)
    try:
        if arguments.beat:
            rows.append(beat_in_the_middle(shop, arguments.entries))
            rows.append(beat_idle(shop, arguments.entries))
    except stage_of.OutOfTime as late:
        say(f"celery beat: {late}")
    show(rows)
    if missed or doubled:
        print("NOT as promised: the cluster lost or doubled a task")
        if arguments.broker != "redis" and not missed:
            print("(RabbitMQ compares no ids: what was sent and not confirmed is sent again, on_ambiguous: republish)")
        return 1
    print("every task that was due ran once, although the leader died while it sent them")
    return 0


def main():
    parser = argparse.ArgumentParser(prog="scripts/demo-celery", description="Kills what schedules Celery tasks, and counts.")
    parser.add_argument("--broker", choices=sorted(stage_of.BROKERS), default="redis")
    parser.add_argument("--entries", type=int, default=200)
    parser.add_argument("--quick", action="store_true", help="done within two minutes, without celery beat")
    parser.add_argument("--no-beat", action="store_false", dest="beat", help="without celery beat")
    arguments = parser.parse_args()
    arguments.program = os.environ["CHRONARCH_BIN"]
    arguments.beat = arguments.beat and not arguments.quick
    if not 10 <= arguments.entries <= 5000:
        parser.error("--entries: from 10 to 5000")
    stage_of.install([arguments.broker], [stage_of.CELERY])
    stage_of.end_with(SECONDS_QUICK if arguments.quick else SECONDS)
    stage, code = Stage("demo-celery"), 1
    try:
        code = run(stage, arguments)
    except stage_of.OutOfTime as late:
        print(late, file=sys.stderr)
    finally:
        with unbroken():
            stage.close()
    return code


if __name__ == "__main__":
    with contextlib.suppress(BrokenPipeError):
        sys.exit(main())
