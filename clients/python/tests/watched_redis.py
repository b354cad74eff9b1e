"""A Redis with a replica, and a sentinel that watches them; all ask for passwords."""

import contextlib
import functools
import shutil
import subprocess
import tempfile
from pathlib import Path
from typing import Any, Iterator, List

from cluster import eventually, free_ports

MASTER = "mymaster"
SECRET, WATCH_SECRET = "data-secret", "watch-secret"


class Watched:
    """See the module."""

    def __init__(self) -> None:
        self.folder = Path(tempfile.mkdtemp(prefix="chronarch-sentinel-"))
        self._processes: List[subprocess.Popen[bytes]] = []

    def start(self) -> None:
        """Starts all, and waits until the sentinel knows the replica."""
        self.servers = [self._started(f"requirepass {SECRET}\nmasterauth {SECRET}")]
        first = f"127.0.0.1 {self.servers[0]}"
        self.servers.append(self._started(f"requirepass {SECRET}\nmasterauth {SECRET}\nreplicaof {first}"))
        self.port = self._started(
            f"requirepass {WATCH_SECRET}\nsentinel monitor {MASTER} {first} 1\nsentinel auth-pass {MASTER} {SECRET}\n"
            f"sentinel down-after-milliseconds {MASTER} 1000\nsentinel failover-timeout {MASTER} 5000",
            "--sentinel",
        )
        eventually("the sentinel to know the replica", lambda: self.ask("SENTINEL", "REPLICAS", MASTER))

    def _started(self, text: str, *more: str) -> int:
        server = shutil.which("redis-server")
        assert server, "redis-server is not installed"
        secret = WATCH_SECRET if more else SECRET
        for _ in range(5):
            port = free_ports(1)[0]
            # A sentinel writes there what it knows.
            path = self.folder / f"{port}.conf"
            path.write_text(f"port {port}\nbind 127.0.0.1\ndir {self.folder}\n{text}\n")
            if not more:
                path.write_text(f'{path.read_text()}save ""\nrepl-diskless-sync-delay 0\n')
            with (self.folder / f"{port}.log").open("ab") as log:
                process = subprocess.Popen([server, str(path), *more], stdout=log, stderr=log)
            self._processes.append(process)
            eventually("a server to answer, or to end", functools.partial(self._answers, process, port, secret))
            if process.poll() is None:
                return port
        raise AssertionError(f"no server; see {self.folder}")

    def _answers(self, process: "subprocess.Popen[bytes]", port: int, secret: str) -> bool:
        import redis

        with contextlib.suppress(redis.ConnectionError), redis.Redis(port=port, password=secret) as found:
            return bool(found.ping())
        return process.poll() is not None

    def ask(self, *words: str) -> Any:
        """What the sentinel answers."""
        import redis

        with redis.Redis(port=self.port, password=WATCH_SECRET) as found:
            return found.execute_command(*words)

    def master(self) -> int:
        """The port of the server that takes writes, as the sentinel has it."""
        return int(self.ask("SENTINEL", "GET-MASTER-ADDR-BY-NAME", MASTER)[1])

    def fail_over(self) -> None:
        """Has the master end, and waits until the replica has its place."""
        before = self.master()
        self._processes[self.servers.index(before)].kill()
        eventually("another master", lambda: self.master() != before)

    def stop(self) -> None:
        """Ends all."""
        for process in self._processes:
            process.kill()
            process.wait()


@contextlib.contextmanager
def running() -> Iterator[Watched]:
    """A Redis with a replica and a sentinel; their folder stays where the test fails."""
    made = Watched()
    try:
        made.start()
        yield made
    except BaseException:
        print(f"the servers' logs are in {made.folder}")
        raise
    finally:
        made.stop()
    shutil.rmtree(made.folder)
