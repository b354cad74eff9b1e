"""What several test files share: a cluster, and workers in processes of their own."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any, Dict, Iterator, List, Optional

import pytest
from cluster import Cluster, eventually, running

from chronarch import Client, models

HERE = Path(__file__).parent
# Fixtures of the Django app; nothing of Django is loaded for those who do not use them.
pytest_plugins = ["django_rows"]


@pytest.fixture(scope="session")
def nodes() -> Iterator[Cluster]:
    """A cluster of three for all tests; one that kills a node restores it."""
    with running() as cluster:
        yield cluster


@pytest.fixture
def cluster(nodes: Cluster) -> Iterator[Cluster]:
    """The cluster, whole again afterwards."""
    yield nodes
    nodes.restore()


@pytest.fixture
def client(nodes: Cluster) -> Iterator[Client]:
    """A client of it."""
    with Client(nodes.endpoints, actor="tests") as client:
        yield client


class Staff:
    """A worker in a process of its own, and jobs for it."""

    def __init__(self, cluster: Cluster, client: Client, queue: str, marks: Path) -> None:
        self.client, self.queue, self.marks = client, queue, marks
        self._cluster = cluster
        self._jobs = 0
        self.process: Optional[subprocess.Popen[bytes]] = None

    def start(self, *arguments: str, module: str = "jobs:app") -> None:
        """Starts the worker and waits until the leader knows it."""
        command = [sys.executable, "-m", "chronarch.worker.cli", module, "--queue", self.queue]
        command += ["--endpoints", ",".join(self._cluster.endpoints), "--concurrency", "2", *arguments]
        environment = {**os.environ, "MARKS": str(self.marks)}
        process = self.process = subprocess.Popen(command, env=environment, cwd=HERE)
        eventually("the worker to serve", lambda: self.workers() or process.poll() is not None)
        assert process.poll() is None, "it ended at once"

    def workers(self) -> List[models.Worker]:
        """The workers of the queue that the leader knows."""
        return [one for one in self.client.list_workers(queue=self.queue).workers if one.state != "away"]

    def end(self, patience: float = 30.0) -> int:
        """The exit code of the worker, once it has ended."""
        assert self.process is not None
        return self.process.wait(patience)

    def trigger(self, task: str, *args: Any, job: Optional[Dict[str, Any]] = None) -> str:
        """Makes a run of a task, and returns its id."""
        self._jobs += 1
        name = f"{self.queue}-{self._jobs}"
        payload = json.dumps({"task": task, "args": args})
        spec = {"name": name, "queue": self.queue, "target": {"queue": {"payload": payload}}, "timeout": "60s"}
        self.client.apply_jobs([{**spec, **(job or {})}])
        return self.client.trigger_job((job or {}).get("name", name)).run_id

    def carry_out(self, task: str, *args: Any, job: Optional[Dict[str, Any]] = None) -> models.Run:
        """Makes a run of a task, and returns its record."""
        return self.client.wait_for_run(self.trigger(task, *args, job=job))

    def marked(self, name: str) -> int:
        """How often a task left this mark."""
        path = self.marks / name
        return len(path.read_text().splitlines()) if path.exists() else 0

    def has_marked(self, name: str) -> None:
        """Waits for a mark."""
        eventually(f"the mark {name}", lambda: self.marked(name))

    def say(self, name: str) -> None:
        """Lets a task that waits go on."""
        (self.marks / name).touch()


@pytest.fixture
def staff(nodes: Cluster, client: Client, request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Staff]:
    """A worker that is not started yet, on a queue of its own."""
    name = request.node.name.translate({ord(c): "-" for c in "_[]"}).strip("-")[-100:]
    staff = Staff(nodes, client, name, tmp_path)
    yield staff
    if staff.process is not None and staff.process.poll() is None:
        staff.process.kill()
        staff.process.wait()
