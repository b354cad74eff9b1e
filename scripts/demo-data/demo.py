"""The demo: see scripts/demo. Python's standard library only."""

import csv
import datetime
import http.server
import json
import os
import pathlib
import re
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time

HERE = pathlib.Path(__file__).parent
JOBS = """
name: isin-download
description: The list of securities, every second here, daily in cluster/jobs/isin-download.yaml
schedule: {{every: 1s}}
target: {{http: {{url: "http://{server}/securities.csv"}}}}
timeout: 10s
catch_up: {{runs: all, window: 10m}}
overlap: allow
retention: {{runs: 10000}}
---
name: pulse
description: Due ten times a second, so that a takeover can be timed
schedule: {{every: 100ms}}
target: {{http: {{url: "http://{server}/pulse"}}}}
timeout: 10s
catch_up: {{runs: all, window: 10m, max: 10000}}
overlap: allow
retention: {{runs: 100000}}
---
name: sick-feed
description: Its target is broken until the demo mends it
schedule: {{every: 500ms}}
target: {{http: {{url: "http://{server}/sick"}}}}
timeout: 10s
breaker: {{name: sick-feed, consecutive_failures: 3, open_for: {open_for}s}}
"""


def check_digit_holds(isin):
    """ISO 6166: the Luhn sum over the letters written as numbers from 10."""
    if not re.fullmatch(r"[A-Z]{2}[A-Z0-9]{9}[0-9]", isin):
        return False
    digits = "".join(str(int(c, 36)) for c in isin)
    total = 0
    for place, digit in enumerate(reversed(digits)):
        value = int(digit) * (2 if place % 2 else 1)
        total += value // 10 + value % 10
    return total % 10 == 0


def instant_ms(text):
    return round(datetime.datetime.fromisoformat(text.replace("Z", "+00:00")).timestamp() * 1000)


class Receiver:
    """The server that is called; what counts is what arrives here."""

    def __init__(self, securities):
        self.hits = []
        self.lock = threading.Lock()
        self.broken = True
        receiver = self

        class Handler(http.server.BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_GET(self):
                now = time.time()
                with receiver.lock:
                    receiver.hits.append((
                        self.headers["chronarch-job"],
                        instant_ms(self.headers["chronarch-scheduled-at"]),
                        int(self.headers["chronarch-attempt"]),
                        now,
                    ))
                body = securities if self.path == "/securities.csv" else b"ok\n"
                sick = self.path == "/sick" and receiver.broken
                self.send_response(503 if sick else 200)
                self.send_header("content-length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, *args):
                pass

        class Server(http.server.ThreadingHTTPServer):
            request_queue_size = 256
            daemon_threads = True

        self.server = Server(("127.0.0.1", 0), Handler)
        self.address = "127.0.0.1:%d" % self.server.server_address[1]
        threading.Thread(target=self.server.serve_forever, daemon=True).start()

    def of(self, job):
        with self.lock:
            return [hit for hit in self.hits if hit[0] == job]


class Cluster:
    # The attempts run in workers of their own, so that a killed node takes none with it.
    def __init__(self, program, folder, settings="[worker]\nenabled = false\n"):
        self.program, self.folder = program, pathlib.Path(folder)
        self.processes = {}
        held = [socket.create_server(("127.0.0.1", 0)) for _ in range(6)]
        ports = [s.getsockname()[1] for s in held]
        for s in held:
            s.close()
        self.clients = {n: "127.0.0.1:%d" % ports[n - 1] for n in (1, 2, 3)}
        peers = {n: "127.0.0.1:%d" % ports[n + 2] for n in (1, 2, 3)}
        named = ", ".join('%d = "%s"' % (n, peers[n]) for n in peers)
        for n in (1, 2, 3):
            (self.folder / f"node-{n}.toml").write_text(
                f'node_id = {n}\nlisten = "{self.clients[n]}"\npeer_listen = "{peers[n]}"\n'
                f'data_dir = "{self.folder}/node-{n}"\npeers = {{ {named} }}\n{settings}'
            )

    def spawn(self, name, *args):
        log = open(self.folder / f"{name}.log", "ab")
        self.processes[name] = subprocess.Popen(
            [self.program, *args], stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True
        )

    def start(self, n):
        self.spawn(f"node-{n}", "server", "--config", str(self.folder / f"node-{n}.toml"))

    def endpoints(self):
        return ",".join(self.clients.values())

    def kill(self, n):
        process = self.processes.pop(f"node-{n}")
        process.kill()
        process.wait()

    def cli(self, *args, check=True):
        done = subprocess.run(
            [self.program, "--endpoints", self.endpoints(), *args], capture_output=True, text=True
        )
        if check and done.returncode != 0:
            raise SystemExit(f"chronarch {' '.join(args)}: exit {done.returncode}\n{done.stderr}")
        return done.stdout

    def leader(self):
        """The leader that a majority names in the newest term; None while there is none."""
        try:
            status = json.loads(self.cli("cluster", "status", "-o", "json", "--timeout", "2s", check=False))
        except ValueError:
            return None
        seen = [(int(e["term"]), int(e["leader_id"])) for e in status["endpoints"] if e["reachable"]]
        newest = max(seen, default=(0, 0))
        return newest[1] if newest[1] and seen.count(newest) >= 2 else None

    def stop(self):
        for process in self.processes.values():
            process.send_signal(signal.SIGTERM)
        for process in self.processes.values():
            try:
                process.wait(60)
            except subprocess.TimeoutExpired:
                process.kill()


def wait(what, ask, patience=60):
    deadline = time.time() + patience
    while True:
        answer = ask()
        if answer:
            return answer
        if time.time() > deadline:
            raise SystemExit(f"waited {patience} s for {what}")
        time.sleep(0.02)


def say(text):
    print(f"{time.strftime('%H:%M:%S')}  {text}", flush=True)


def fires_for(receiver, seconds):
    until = time.time() + seconds
    wait("fires to go on", lambda: time.time() > until and receiver.of("pulse")[-1][3] > until - 5)


def kill_leader(cluster, receiver):
    """Kills the leader; how long until something fell due after that arrives, in seconds."""
    leader = wait("a leader", cluster.leader)
    killed = time.time()
    cluster.kill(leader)
    first = lambda: [hit for hit in receiver.of("pulse") if hit[1] > killed * 1000]
    wait("the new leader to fire", first)
    takeover = min(hit[3] for hit in first()) - killed
    say(f"killed the leader, node {leader}; the next one fired after {takeover * 1000:.0f} ms")
    return leader, takeover


def breaker(cluster):
    return json.loads(cluster.cli("breaker", "get", "sick-feed", "-o", "json"))


def show(state):
    until = f" until {state['open_until']}" if state["open_until"] else ""
    return f"{state['state']}{until}"


def account(cluster, receiver, job, period_ms):
    """Instants from the first record to the last against what arrived."""
    lines = cluster.cli("run", "list", "--job", job, "--limit", "100000", "-o", "jsonl").splitlines()
    records = [json.loads(line) for line in lines]
    decided = [instant_ms(record["scheduled_at"]) for record in records]
    due = range(min(decided), max(decided) + 1, period_ms)
    arrived = {}
    for _, at, attempt, when in receiver.of(job):
        arrived.setdefault(at, []).append((attempt, when))
    lost = [at for at in due if at not in arrived or at not in decided]
    doubled = [at for at, hits in arrived.items() if len(hits) > 1]
    doubled += [at for at in set(decided) if decided.count(at) > 1] if len(decided) != len(set(decided)) else []
    whens = sorted(when for hits in arrived.values() for _, when in hits)
    gap = max(b - a for a, b in zip(whens, whens[1:]))
    return dict(due=len(due), fired=len(records), lost=len(lost), doubled=len(doubled), gap=gap)


def run(program, quick, folder):
    securities = (HERE / "securities.csv").read_bytes()
    rows = list(csv.DictReader(securities.decode().splitlines()))
    wrong = [row["isin"] for row in rows if not check_digit_holds(row["isin"])]
    if wrong:
        raise SystemExit(f"wrong check digits: {wrong}")
    receiver = Receiver(securities)
    say(f"serving {len(rows)} securities at http://{receiver.address}/securities.csv (source: scripts/demo-data/README.md)")
    cluster = Cluster(program, folder)
    try:
        for n in (1, 2, 3):
            cluster.start(n)
        say(f"three nodes: {cluster.endpoints()}; node {wait('a leader', cluster.leader)} leads")
        for n in (1, 2):
            cluster.spawn(f"worker-{n}", "worker", "--queue", "default", "--endpoints", cluster.endpoints())
        open_for = 8 if quick else 15
        jobs = cluster.folder / "jobs.yaml"
        jobs.write_text(JOBS.format(server=receiver.address, open_for=open_for))
        cluster.cli("job", "apply", "-f", str(jobs))
        say("applied: isin-download every second, pulse ten times a second, sick-feed behind a breaker")
        wait("the first download", lambda: receiver.of("isin-download") and receiver.of("pulse"))
        before = wait("the breaker to trip", lambda: (b := breaker(cluster))["state"] == "open" and b)
        say(f"breaker sick-feed: {show(before)} ({before['reason']})")

        first, takeover_1 = kill_leader(cluster, receiver)
        after = breaker(cluster)
        say(f"breaker sick-feed on the new leader: {show(after)}")
        receiver.broken = False
        fires_for(receiver, 2 if quick else 5)
        cluster.start(first)
        say(f"started node {first} again")
        fires_for(receiver, 2 if quick else 5)
        second, takeover_2 = kill_leader(cluster, receiver)
        fires_for(receiver, 2 if quick else 5)
        cluster.start(second)
        closed = wait("the breaker to close", lambda: (b := breaker(cluster))["state"] == "closed" and b)
        say(f"breaker sick-feed: {show(closed)} ({closed['reason']})")
        fires_for(receiver, 1)
        for job in ("isin-download", "pulse", "sick-feed"):
            cluster.cli("job", "pause", job, "--reason", "the demo counts")
        live = lambda: [json.loads(line) for line in cluster.cli("run", "list", "-o", "jsonl").splitlines()]
        wait("all runs to end", lambda: all(r["state"] not in ("pending", "running") for r in live()))
        table = {
            "isin-download": account(cluster, receiver, "isin-download", 1000),
            "pulse": account(cluster, receiver, "pulse", 100),
        }
    finally:
        cluster.stop()

    print()
    print(f"{'':16}{'due':>8}{'fired':>8}{'doubled':>9}{'lost':>7}{'longest gap':>14}")
    for job, row in table.items():
        print(f"{job:16}{row['due']:>8}{row['fired']:>8}{row['doubled']:>9}{row['lost']:>7}{row['gap'] * 1000:>11.0f} ms")
    print()
    print(f"takeovers        {takeover_1 * 1000:.0f} ms, {takeover_2 * 1000:.0f} ms")
    print(f"breaker          before the first kill: {show(before)}")
    print(f"                 after it:              {show(after)}")
    print(f"                 at the end:            {show(closed)}")
    print()
    same = before["state"] == after["state"] == "open" and before["open_until"] == after["open_until"]
    clean = all(row["lost"] == row["doubled"] == 0 and row["due"] == row["fired"] for row in table.values())
    if clean and same:
        print("every instant was fired once, and the breaker did not notice")
        return 0
    print("NOT as promised" + ("" if same else ": the breaker changed with the leader"))
    return 1


def main():
    program = os.path.abspath(sys.argv[1])
    folder = tempfile.mkdtemp(prefix="chronarch-demo-")
    code = 1
    try:
        code = run(program, "--quick" in sys.argv[2:], folder)
    finally:
        if code == 0:
            shutil.rmtree(folder)
        else:
            print(f"logs: {folder}", file=sys.stderr)
    return code


if __name__ == "__main__":
    sys.exit(main())
