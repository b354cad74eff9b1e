"""A RabbitMQ of the tests' own: on free ports, its data in a folder of its own."""

import contextlib
import os
import shutil
import signal
import subprocess
import tempfile
from pathlib import Path
from typing import Any, Dict, Iterator, List, Mapping, Optional, Set

from cluster import eventually, free_ports

# Where Debian has the program, and not the script that changes the user.
PROGRAM = "/usr/lib/rabbitmq/bin/rabbitmq-server"
# It writes a lot to the disk when it starts, which others may keep busy.
STARTS_WITHIN = 180.0


class Rabbit:
    """A server, once it has answered."""

    def __init__(self, folder: Path) -> None:
        # Neither can be told to find a port for itself.
        self.port, names, distribution = free_ports(3)
        self.url = f"amqp://guest:guest@127.0.0.1:{self.port}//"
        self._folder = folder
        (folder / "none.conf").write_text("")
        environment = {
            "PATH": os.environ["PATH"],
            "HOME": str(folder),
            "RABBITMQ_NODENAME": f"test-{self.port}@localhost",
            "RABBITMQ_NODE_IP_ADDRESS": "127.0.0.1",
            "RABBITMQ_NODE_PORT": str(self.port),
            "RABBITMQ_DIST_PORT": str(distribution),
            "RABBITMQ_CONF_ENV_FILE": str(folder / "none.conf"),
            "RABBITMQ_SERVER_ADDITIONAL_ERL_ARGS": "-start_epmd false +S 2:2 +sbwt none +sbwtdcpu none +sbwtdio none"
            " -kernel inet_dist_use_interface {127,0,0,1}",
            "ERL_EPMD_PORT": str(names),
            "ERL_EPMD_ADDRESS": "127.0.0.1",
        }
        for name in ("MNESIA_BASE", "LOG_BASE", "PID_FILE", "ENABLED_PLUGINS_FILE", "CONFIG_FILE"):
            environment[f"RABBITMQ_{name}"] = str(folder / name.lower())
        self._processes: List[subprocess.Popen[bytes]] = []
        self._start(["epmd", "-port", str(names), "-address", "127.0.0.1"], environment)
        self._start([PROGRAM], environment)

    def wait(self) -> None:
        """Until it answers."""
        eventually("rabbitmq-server to answer, or to end", self._answers_or_ended, STARTS_WITHIN)
        assert self._processes[-1].poll() is None, (self._folder / "said").read_text()

    def _start(self, command: List[str], environment: Mapping[str, str]) -> None:
        with (self._folder / "said").open("ab") as said:
            # A script with the server below it: a group of its own, to be ended as one.
            process = subprocess.Popen(command, stdout=said, stderr=said, env=environment, start_new_session=True)
        self._processes.append(process)

    def _answers_or_ended(self) -> bool:
        from kombu.exceptions import KombuError

        with contextlib.suppress(OSError, KombuError), self.connection() as connection:
            connection.ensure_connection(max_retries=1)
            return True
        return self._processes[-1].poll() is not None

    def connection(self) -> Any:
        """A connection of kombu's, for a `with`."""
        from kombu import Connection

        return Connection(self.url, connect_timeout=5)

    def declare(self, name: str, arguments: Optional[Dict[str, Any]] = None) -> None:
        """Makes a durable queue."""
        with self.connection() as connection:
            connection.default_channel.queue_declare(name, durable=True, auto_delete=False, arguments=arguments)

    def delete(self, name: str) -> None:
        """Deletes a queue."""
        with self.connection() as connection:
            connection.default_channel.queue_delete(name)

    def queues(self, *names: str) -> Set[str]:
        """Those of the names that are queues."""
        from amqp import NotFound

        found: Set[str] = set()
        for name in names:
            with self.connection() as connection, contextlib.suppress(NotFound):
                connection.default_channel.queue_declare(name, passive=True)
                found.add(name)
        return found

    def close(self) -> None:
        """Ends it."""
        for process in reversed(self._processes):
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()


@contextlib.contextmanager
def running() -> Iterator[Rabbit]:
    """A server; gone with its folder afterwards."""
    folder = Path(tempfile.mkdtemp(prefix="chronarch-rabbit-"))
    server = Rabbit(folder)
    try:
        server.wait()
        yield server
    finally:
        server.close()
        # Its helpers end a moment after it, and write until then.
        eventually("its folder to be gone", lambda: _removed(folder))


def _removed(folder: Path) -> bool:
    shutil.rmtree(folder, ignore_errors=True)
    return not folder.exists()
