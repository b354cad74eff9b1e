"""A cluster of real node processes for tests: on free ports, killed and started at will, gone afterwards."""

import contextlib
import os
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from pathlib import Path
from typing import Any, Callable, Dict, Iterator, List, TypeVar

from chronarch import ChronarchError, Client, models

# Seconds until a condition has to hold; the machines that run the tests are slow at times.
PATIENCE = 60.0
T = TypeVar("T")


def eventually(what: str, look: Callable[[], Any], patience: float = PATIENCE) -> Any:
    """What `look` finds, once it is something."""
    deadline = time.monotonic() + patience
    while True:
        found = look()
        if found:
            return found
        assert time.monotonic() < deadline, f"waited {patience:.0f} s in vain for {what}"
        time.sleep(0.02)


def binary() -> str:
    """The program under test."""
    found = os.environ.get("CHRONARCH_BIN")
    assert found, "CHRONARCH_BIN names the program that the tests run"
    return found


def free_ports(count: int) -> List[int]:
    """Ports that are free now; another process may take one before it is used, so a start is tried again."""
    with contextlib.ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(count)]
        for one in sockets:
            one.bind(("127.0.0.1", 0))
        return [one.getsockname()[1] for one in sockets]


class Cluster:
    """Three nodes."""

    def __init__(self, nodes: int = 3) -> None:
        self.folder = Path(tempfile.mkdtemp(prefix="chronarch-python-"))
        self._nodes = range(1, nodes + 1)
        self._processes: Dict[int, subprocess.Popen[bytes]] = {}
        self.addresses: Dict[int, str] = {}

    def start(self) -> None:
        """Starts all nodes and waits until they have a leader."""
        for _ in range(5):
            ports = free_ports(2 * len(self._nodes))
            self.addresses = {node: f"127.0.0.1:{ports.pop()}" for node in self._nodes}
            peers = {node: f"127.0.0.1:{ports.pop()}" for node in self._nodes}
            table = ", ".join(f'{node} = "{address}"' for node, address in peers.items())
            for node in self._nodes:
                (self.folder / f"node-{node}.toml").write_text(
                    f'node_id = {node}\nlisten = "{self.addresses[node]}"\npeer_listen = "{peers[node]}"\n'
                    f'data_dir = "{self.folder}/node-{node}"\npeers = {{ {table} }}\n'
                )
                self.run(node)
            if self._has_leader():
                return
            self.stop()
            for node in self._nodes:
                shutil.rmtree(self.folder / f"node-{node}", ignore_errors=True)
        raise AssertionError(f"no cluster; see {self.folder}")

    def _has_leader(self) -> bool:
        deadline = time.monotonic() + PATIENCE
        with Client(self.endpoints, timeout=1.0) as client:
            while time.monotonic() < deadline:
                if any(process.poll() is not None for process in self._processes.values()):
                    return False
                with contextlib.suppress(ChronarchError):
                    client.list_jobs()
                    return True
        return False

    @property
    def endpoints(self) -> List[str]:
        """Where the nodes listen, the dead ones too."""
        return list(self.addresses.values())

    def run(self, node: int) -> None:
        """Starts a node that does not run."""
        with (self.folder / f"node-{node}.log").open("ab") as log:
            self._processes[node] = subprocess.Popen(
                [binary(), "server", "--config", str(self.folder / f"node-{node}.toml")], stdout=log, stderr=log
            )

    def leader(self) -> int:
        """The node that leads, by what most of those that answer say."""

        def look() -> int:
            with Client(self.endpoints) as client:
                said = [one.leader_id for one in client.statuses().values() if isinstance(one, models.ClusterStatus)]
            alive = [node for node in said if node in self._processes]
            return max(alive, key=alive.count) if len(alive) * 2 > len(self._nodes) else 0

        return int(eventually("a leader", look))

    def kill(self, node: int) -> None:
        """SIGKILL."""
        process = self._processes.pop(node)
        process.send_signal(signal.SIGKILL)
        process.wait()

    def stop(self) -> None:
        """Ends all nodes."""
        for process in self._processes.values():
            process.kill()
        for process in self._processes.values():
            process.wait()
        self._processes = {}

    def restore(self) -> None:
        """Starts what was killed and waits until all answer."""
        for node in self._nodes:
            if node not in self._processes:
                self.run(node)

        def all_answer() -> bool:
            with Client(self.endpoints) as client:
                return all(
                    isinstance(one, models.ClusterStatus) and one.leader_id for one in client.statuses().values()
                )

        eventually("all nodes", all_answer)


@contextlib.contextmanager
def running(nodes: int = 3) -> Iterator[Cluster]:
    """A cluster; its folder stays where the test fails."""
    cluster = Cluster(nodes)
    try:
        cluster.start()
        yield cluster
    except BaseException:
        print(f"the nodes' logs are in {cluster.folder}")
        raise
    finally:
        cluster.stop()
    shutil.rmtree(cluster.folder)
