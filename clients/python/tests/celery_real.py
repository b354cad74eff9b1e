"""What tests of `chronarch-celery` run against: a Redis, Celery workers and beats in processes of their own, and a
worker of the cluster that has the Redis as its connection `celery`."""

import contextlib
import functools
import os
import shutil
import subprocess
import sys
import textwrap
from pathlib import Path
from typing import Any, Dict, Iterator, List, Optional, Sequence

from cluster import Cluster, binary, eventually, free_ports

HERE = Path(__file__).parent


class Place:
    """A folder with an app in it, a broker, and processes."""

    def __init__(self, folder: Path, nodes: Cluster, module: str, url: Optional[str] = None) -> None:
        self.folder, self.nodes, self.module = folder, nodes, module
        self._processes: List[subprocess.Popen[bytes]] = []
        self.url = self._started_redis() if url is None else url
        self.environment = {
            **os.environ,
            "SHOP_BROKER": self.url,
            "CHRONARCH_ENDPOINTS": ",".join(nodes.endpoints),
            "CHRONARCH_NAMESPACE": module.replace("_", "-"),
        }
        self.namespace = self.environment["CHRONARCH_NAMESPACE"]

    def _started_redis(self) -> str:
        import redis

        server = shutil.which("redis-server")
        assert server, "redis-server is not installed"
        for _ in range(5):
            port = free_ports(1)[0]
            command = [server, "--port", str(port), "--bind", "127.0.0.1", "--save", "", "--dir", str(self.folder)]
            process = self._start("redis", command)
            self.redis: Any = redis.Redis(port=port)
            eventually("redis to answer, or to end", functools.partial(self._pings_or_ended, process))
            if process.poll() is None:
                break
        return f"redis://127.0.0.1:{port}/0"

    def _pings_or_ended(self, process: "subprocess.Popen[bytes]") -> bool:
        return self._pings() or process.poll() is not None

    def _pings(self) -> bool:
        import redis

        with contextlib.suppress(redis.ConnectionError):
            return bool(self.redis.ping())
        return False

    def app(self, text: str) -> None:
        """Writes the app."""
        (self.folder / f"{self.module}.py").write_text(textwrap.dedent(text))

    def _start(self, name: str, command: Sequence[str]) -> "subprocess.Popen[bytes]":
        with (self.folder / f"{name}.log").open("ab") as log:
            environment = getattr(self, "environment", None)
            process = subprocess.Popen(command, stdout=log, stderr=log, cwd=self.folder, env=environment)
        self._processes.append(process)
        return process

    def worker(self, *arguments: str) -> "subprocess.Popen[bytes]":
        """A Celery worker; it answers when this is over."""
        command = [sys.executable, "-m", "celery", "-A", self.module, "worker", "-P", "solo", "-l", "info", *arguments]
        process = self._start("worker", command)
        eventually("the worker to be ready", lambda: b"ready." in (self.folder / "worker.log").read_bytes())
        return process

    def beat(self, *arguments: str) -> "subprocess.Popen[bytes]":
        """A beat that has begun."""
        log = self.folder / "beat.log"
        before = log.stat().st_size if log.exists() else 0
        command = [sys.executable, "-m", "celery", "-A", self.module, "beat", "-l", "debug", *arguments]
        process = self._start("beat", command)
        eventually("beat to begin", lambda: log.exists() and b"beat: Starting" in log.read_bytes()[before:])
        return process

    def cluster_worker(self, url: Optional[str] = None, more: str = "") -> None:
        """A worker of the cluster with the connection; None: by the URL that Celery has."""
        (self.folder / "connections.toml").write_text(f'[connections.celery]\nurl = "{url or self.url}"\n{more}\n')
        command = [binary(), "worker", "--queue", "default", "--connections", str(self.folder / "connections.toml")]
        command += ["--endpoints", self.environment["CHRONARCH_ENDPOINTS"], "--data-dir", str(self.folder / "output")]
        self._start("cluster-worker", [*command, "--name", self.module])
        eventually("the worker to be known", lambda: self.module in self.run_binary("worker", "list").stdout)

    def run_binary(self, *arguments: str) -> "subprocess.CompletedProcess[str]":
        """The program's answer."""
        command = [binary(), *arguments]
        return subprocess.run(command, capture_output=True, text=True, env=self.environment)

    def say(self, command: str, *arguments: str, **more: str) -> "subprocess.CompletedProcess[str]":
        """`chronarch-celery COMMAND`."""
        line = [sys.executable, "-m", "chronarch.celery.cli", command, "-A", self.module, *arguments]
        environment: Dict[str, str] = {**self.environment, **more}
        return subprocess.run(line, capture_output=True, text=True, cwd=self.folder, env=environment)

    def end(self, process: "subprocess.Popen[bytes]") -> None:
        """SIGTERM, and waits."""
        process.terminate()
        process.wait(30)

    def close(self) -> None:
        """Ends all that was started."""
        for process in reversed(self._processes):
            if process.poll() is None:
                process.kill()
                process.wait()


@contextlib.contextmanager
def place(folder: Path, nodes: Cluster, module: str, url: Optional[str] = None) -> Iterator[Place]:
    """A place, with a Redis of its own or the broker that is named; its folder stays, with the logs in it."""
    made = Place(folder, nodes, module, url)
    try:
        yield made
    finally:
        made.close()
