"""What scripts/demo-celery and scripts/peers-celery stand on: a broker of their own and processes that end with them."""

import contextlib
import http.client
import os
import pathlib
import re
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time

from demo import Cluster

ROOT = pathlib.Path(__file__).resolve().parent.parent.parent
RABBITMQ = pathlib.Path("/usr/lib/rabbitmq/bin")
PROGRAMS = {"redis": pathlib.Path("redis-server"), **dict.fromkeys(["rabbitmq", "quorum"], RABBITMQ / "rabbitmq-server")}
CELERY = "celery[redis]==5.7.0"
QUEUE = "celery"


def install(brokers, packages):
    """Goes on in a Python that has `packages`, where Debian's servers for `brokers` are installed."""
    missing = [f"{PROGRAMS[broker].name}" for broker in brokers if not shutil.which(PROGRAMS[broker])]
    if missing:
        print("installing:", *missing, file=sys.stderr)
        root = [] if os.geteuid() == 0 else ["sudo"]
        quiet = dict(check=True, stdout=subprocess.DEVNULL)
        subprocess.run([*root, "apt-get", "update", "-qq"], **quiet)
        subprocess.run([*root, "env", "DEBIAN_FRONTEND=noninteractive", "apt-get", "install", "-y", "-qq",
                        "--no-install-recommends", *missing], **quiet)
    place = pathlib.Path(os.environ.get("CARGO_TARGET_DIR") or ROOT / "target").resolve() / "celery"
    python, mark = place / "bin" / "python", place / "installed"
    has = mark.read_text().split() if mark.exists() else []
    if not set(packages) <= set(has):
        print("installing:", *packages, file=sys.stderr)
        subprocess.run([sys.executable, "-m", "venv", str(place)], check=True)
        subprocess.run([str(python), "-m", "pip", "install", "-q", "--disable-pip-version-check", *packages], check=True)
        mark.write_text("\n".join(sorted({*has, *packages})))
    if pathlib.Path(sys.prefix) != place:
        os.execv(python, [str(python), *sys.argv])


class OutOfTime(Exception):
    """What was promised about the time is over."""


class Held:
    """Whether signals wait, and which one came meanwhile."""

    depth = 0
    came = None


def end_with(seconds):
    """A signal that ends the process unwinds it, and so does the end of its time; `finally` sees to the rest."""

    def ended(number, _):
        if Held.depth:
            Held.came = number
        elif number == signal.SIGALRM:
            raise OutOfTime(f"not done within {seconds} s")
        else:
            raise SystemExit(128 + number)

    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGALRM):
        signal.signal(number, ended)
    signal.alarm(seconds)


@contextlib.contextmanager
def unbroken():
    """A signal that comes meanwhile is heard afterwards. (Ignored, it would be ignored by what is started, too.)"""
    Held.depth += 1
    try:
        yield
    finally:
        Held.depth -= 1
        if Held.came is not None and not Held.depth:
            number, Held.came = Held.came, None
            signal.raise_signal(number)


def wait(what, holds, patience=60.0, pause=0.01):
    """What `holds` says once it says something."""
    end = time.monotonic() + patience
    while not (answer := holds()):
        if time.monotonic() > end:
            raise SystemExit(f"waited {patience:.0f} s for {what}")
        time.sleep(pause)
    return answer


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


class Stage:
    """A temporary folder and the processes in it. None of them outlives it."""

    def __init__(self, name):
        self.folder = pathlib.Path(tempfile.mkdtemp(prefix=f"chronarch-{name}-"))
        self.started = []
        self.clusters = []

    def start(self, name, command, **environment):
        """The process, in a group of its own with those that it starts. It writes to `name`.log."""
        environment = {**os.environ, "PYTHONDONTWRITEBYTECODE": "1", **environment}
        with unbroken(), open(self.folder / f"{name}.log", "ab") as log:
            process = subprocess.Popen([str(word) for word in command], cwd=self.folder, env=environment, stdout=log,
                                       stderr=log, stdin=subprocess.DEVNULL, start_new_session=True)
            self.started.append(process)
        return process

    def kill(self, process):
        """SIGKILL, to the process and those that it started."""
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        if process in self.started:
            self.started.remove(process)

    def cluster(self, program, settings):
        """Three nodes that run."""
        folder = self.folder / f"cluster-{free_port()}"
        folder.mkdir()
        cluster = Cluster(program, folder, settings)
        self.clusters.append(cluster)
        for node in cluster.clients:
            with unbroken():
                cluster.start(node)
        wait("a leader", lambda: leader(cluster))
        return cluster

    def end(self, cluster):
        """SIGKILL to all nodes."""
        for process in cluster.processes.values():
            process.kill()
        for process in cluster.processes.values():
            process.wait()
        cluster.processes.clear()

    def close(self):
        with unbroken():
            for cluster in self.clusters:
                self.end(cluster)
            for process in reversed(list(self.started)):
                self.kill(process)
            # RabbitMQ's helpers go a moment after it, and write until then.
            for _ in range(100):
                shutil.rmtree(self.folder, ignore_errors=True)
                if not self.folder.exists():
                    return
                time.sleep(0.05)
            print(f"left behind: {self.folder}", file=sys.stderr)


class Redis:
    """A server that keeps nothing on disk."""

    def __init__(self, stage):
        import redis

        port = free_port()
        self.url = f"redis://127.0.0.1:{port}/0"
        stage.start("redis", ["redis-server", "--port", port, "--bind", "127.0.0.1", "--save", "", "--appendonly", "no",
                              "--dir", stage.folder])
        self.client = redis.Redis.from_url(self.url)

        def answers():
            with contextlib.suppress(redis.ConnectionError):
                return self.client.ping()

        wait("Redis to answer", answers)

    def waiting(self):
        """Messages that no worker has taken."""
        return self.client.llen(QUEUE)

    def empty(self):
        self.client.flushall()


class Rabbit:
    """A server of its own, with the queue that a Celery worker would declare."""

    arguments = {}

    def __init__(self, stage):
        import amqp

        port, names = free_port(), free_port()
        folder = stage.folder / f"rabbitmq-{port}"
        folder.mkdir()
        (folder / "none.conf").write_text("")
        self.url = f"amqp://guest:guest@127.0.0.1:{port}//"
        places = dict(RABBITMQ_MNESIA_BASE="data", RABBITMQ_LOG_BASE="log", RABBITMQ_PID_FILE="pid",
                      RABBITMQ_ENABLED_PLUGINS_FILE="plugins", RABBITMQ_CONFIG_FILE="none", RABBITMQ_CONF_ENV_FILE="none.conf")
        told = {name: str(folder / place) for name, place in places.items()}
        stage.start("epmd", ["epmd", "-port", names, "-address", "127.0.0.1"])
        stage.start(
            "rabbitmq", [PROGRAMS["rabbitmq"]], **told, HOME=str(folder), RABBITMQ_NODENAME=f"stage-{port}@localhost",
            RABBITMQ_NODE_IP_ADDRESS="127.0.0.1", RABBITMQ_NODE_PORT=str(port), RABBITMQ_DIST_PORT=str(free_port()),
            ERL_EPMD_PORT=str(names), ERL_EPMD_ADDRESS="127.0.0.1",
            RABBITMQ_SERVER_ADDITIONAL_ERL_ARGS="-start_epmd false -kernel inet_dist_use_interface {127,0,0,1}",
        )

        def answers():
            with contextlib.suppress(OSError, amqp.AMQPError):
                # No heartbeat: it may lie unused for a minute. One that has failed does not connect again.
                connection = amqp.Connection(f"127.0.0.1:{port}", heartbeat=0)
                connection.connect()
                return connection

        self.connection = wait("RabbitMQ to answer", answers, pause=0.1)
        self.channel = self.connection.channel()
        self.channel.exchange_declare(QUEUE, "direct", durable=True, auto_delete=False)
        self.channel.queue_declare(QUEUE, durable=True, auto_delete=False, arguments=self.arguments)
        self.channel.queue_bind(QUEUE, QUEUE, QUEUE)

    def waiting(self):
        """Messages that no worker has taken."""
        return self.channel.queue_declare(QUEUE, passive=True).message_count

    def empty(self):
        self.channel.queue_purge(QUEUE)


class Quorum(Rabbit):
    """The same with a quorum queue."""

    arguments = {"x-queue-type": "quorum"}


BROKERS = {"redis": Redis, "rabbitmq": Rabbit, "quorum": Quorum}


def connection(broker):
    """Settings of nodes whose workers reach the broker as `main`."""
    return f'[connections.main]\nurl = "{re.sub("//$", "/", broker.url)}"\n'


def leads(address):
    """Whether the node says so, by /metrics."""
    asked = http.client.HTTPConnection(address, timeout=1)
    try:
        asked.request("GET", "/metrics")
        return b"\nchronarch_is_leader 1" in asked.getresponse().read()
    except (OSError, http.client.HTTPException):
        return False
    finally:
        asked.close()


def leader(cluster):
    """The node that says it leads; None while none does."""
    return next((node for node, address in cluster.clients.items() if leads(address)), None)


def cpu_seconds(pids):
    """What the processes have used so far, in user and kernel mode."""
    ticks = 0
    for pid in pids:
        fields = pathlib.Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        ticks += int(fields[11]) + int(fields[12])
    return ticks / os.sysconf("SC_CLK_TCK")


def percentile(ordered, share):
    """The least of them that `share` of all do not exceed; they are in order."""
    return ordered[max(0, -int(-share * len(ordered) // 1) - 1)]
