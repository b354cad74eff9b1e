"""`chronarch-worker`: a worker with the tasks of a module."""

import argparse
import logging
import os
import signal
import sys
from typing import Any, Dict, List, NoReturn, Optional, Sequence, Tuple

# What gRPC does at a fork of this process breaks the processes that are started, where Python forks for that (before
# 3.10). None of them uses the connections of this one. Read when gRPC is imported; `_processes` knows it by this very
# word, and takes it back for them.
os.environ.setdefault("GRPC_ENABLE_FORK_SUPPORT", "no")

from .._options import Layer, Misconfigured, on_command_line, read
from ._loading import CannotLoad
from ._serve import DRAIN_TIMEOUT, ENDPOINTS_DEFAULT, Worker

_KEYS = ("ENDPOINTS", "TOKEN", "TLS", "INSECURE")
# Of a worker, where problems begin with them.
_ARGUMENTS = ("concurrency", "drain_timeout", "hostname", "labels", "max_tasks_per_child", "pool", "queues")


def _pair(text: str) -> Tuple[str, str]:
    key, found, value = text.partition("=")
    if not found or not key:
        raise argparse.ArgumentTypeError("expected KEY=VALUE")
    return key, value


def _arguments() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="chronarch-worker",
        description="Carries out attempts of `queue` targets with the tasks of a Python module. SIGTERM and Ctrl-C "
        "finish what runs; a second one ends the process at once.",
        epilog="Exit codes: 0 done, 1 failed or reports were not acknowledged, 2 usage.",
    )
    parser.add_argument("app", help="where the tasks are: package.module:app, or package.module for those of @task")
    parser.add_argument("-Q", "--queue", "--queues", action="append", metavar="NAME[,NAME]", help="default: default")
    parser.add_argument("-c", "--concurrency", type=int, default=os.cpu_count() or 4, help="default: one for each CPU")
    parser.add_argument(
        "-P",
        "--pool",
        choices=["processes", "prefork", "threads", "asyncio"],
        default="processes",
        help="default: processes",
    )
    parser.add_argument("-n", "--hostname", help="what the worker's name begins with; default: the machine's")
    levels = ["debug", "info", "warning", "error", "critical", "fatal"]
    parser.add_argument(
        *("-l", "--loglevel"), type=str.lower, default="info", choices=levels, help="in either case; default: info"
    )
    parser.add_argument("--label", action="append", type=_pair, default=[], metavar="KEY=VALUE")
    parser.add_argument(
        "--max-tasks-per-child", type=int, metavar="N", help="attempts after which a process is replaced"
    )
    parser.add_argument(
        "--drain-timeout", type=float, default=DRAIN_TIMEOUT, metavar="SECONDS", help="default: %(default)g"
    )
    parser.add_argument(
        "--endpoints", default=None, help=f"HOST:PORT,…; default: CHRONARCH_ENDPOINTS, or else {ENDPOINTS_DEFAULT}"
    )
    parser.add_argument("--token-file", metavar="FILE", help="default: the token in CHRONARCH_TOKEN")
    parser.add_argument("--tls-ca", metavar="FILE", help="default: CHRONARCH_TLS_CA")
    parser.add_argument("--tls-cert", metavar="FILE", help="default: CHRONARCH_TLS_CERT")
    parser.add_argument("--tls-key", metavar="FILE", help="default: CHRONARCH_TLS_KEY")
    parser.add_argument("--insecure", action="store_true", help="lets a token leave the machine in plain text")
    return parser


def _fail(message: str, code: int) -> NoReturn:
    print(f"chronarch-worker: {message}", file=sys.stderr)
    raise SystemExit(code)


def _worker(arguments: argparse.Namespace) -> Worker:
    queues = [queue for given in arguments.queue or ["default"] for queue in given.split(",")]
    token: Optional[str] = None
    try:
        if arguments.token_file:
            with open(arguments.token_file, encoding="utf-8") as file:
                token = file.read().strip()
        where = read([Layer(_said(arguments, token), _named)], keys=_KEYS)
        return Worker(
            arguments.app,
            queues,
            concurrency=arguments.concurrency,
            pool=arguments.pool,
            endpoints=where.endpoints,
            labels=dict(arguments.label),
            hostname=arguments.hostname,
            tls=where.tls,
            token=where.token,
            insecure=where.insecure,
            drain_timeout=arguments.drain_timeout,
            max_tasks_per_child=arguments.max_tasks_per_child,
        )
    except Misconfigured as error:
        _fail(str(error), 2)
    except (ValueError, CannotLoad, OSError) as error:
        _fail(_as_option(str(error)), 2)


def _said(arguments: argparse.Namespace, token: Optional[str]) -> Dict[str, Any]:
    tls = {"CA": arguments.tls_ca, "CERT": arguments.tls_cert, "KEY": arguments.tls_key}
    insecure = True if arguments.insecure else None
    return {"ENDPOINTS": arguments.endpoints, "TOKEN": token, "TLS": tls, "INSECURE": insecure}


def _named(*path: str) -> str:
    # A token is an argument nowhere, for others see arguments.
    return "--token-file" if path == ("TOKEN",) else on_command_line(*path)


def _as_option(problem: str) -> str:
    """A problem of the worker begins with the name of its own argument."""
    name, found, rest = problem.partition(": ")
    option = {"queues": "--queue", "labels": "--label"}.get(name, on_command_line(name))
    return f"{option}: {rest}" if found and name in _ARGUMENTS else problem


def main(given: Optional[Sequence[str]] = None) -> int:
    """Runs the program and returns its exit code."""
    arguments = _arguments().parse_args(given)
    logging.basicConfig(level=arguments.loglevel.upper(), format="%(asctime)s %(levelname)s %(name)s: %(message)s")
    # Modules are looked for where the program is started, as by `python -m`.
    sys.path.insert(0, os.getcwd())
    worker = _worker(arguments)
    signals: List[int] = []

    def stop(number: int, frame: object) -> None:
        if signals:
            os._exit(1)
        signals.append(number)
        worker.stop()

    signal.signal(signal.SIGTERM, stop)
    signal.signal(signal.SIGINT, stop)
    end = worker.run()
    if end.stopped or end.unacknowledged:
        print(f"{end.stopped} attempts were stopped, {end.unacknowledged} reports not acknowledged", file=sys.stderr)
    return 1 if end.unacknowledged else 0


if __name__ == "__main__":
    sys.exit(main())
