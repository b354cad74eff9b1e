"""The tasks of the tests' workers; what they do leaves marks in the folder that MARKS names."""

import asyncio
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any, Dict, List

import flask

from chronarch.flask import Chronarch
from chronarch.worker import App, Fail, SoftTimeLimitExceeded, Task

app = App()
in_flask = Chronarch(flask.Flask("shop"))


def mark(name: str, text: str = "x\n") -> None:
    """Adds a line to a file that the test reads."""
    with (Path(os.environ["MARKS"]) / name).open("a") as file:
        file.write(text)


@app.task(name="add")
def add(left: int, right: int = 0) -> int:
    print(f"adding {left} and {right}")
    print("to stderr", file=sys.stderr)
    return left + right


@app.task(name="say", bind=True)
def say(self: Task) -> Dict[str, Any]:
    request = self.request
    self.request.progress(0.5, "half")
    return {
        "id": request.id,
        "retries": request.retries,
        "fence": request.fence,
        "params": request.params,
        "job": request.job,
        "process": os.getpid(),
        "hostname": request.hostname,
    }


@app.task(name="like-the-job")
def like_the_job(value: Any = None) -> Any:
    return value


def wait_for(name: str) -> None:
    """Waits until the test makes a file."""
    while not (Path(os.environ["MARKS"]) / name).exists():
        time.sleep(0.02)


@app.task(name="long")
def long(name: str) -> str:
    """Begins, waits for the test's word, and ends."""
    mark(f"{name}.begun", f"{os.getpid()}\n")
    wait_for(f"{name}.go")
    mark(f"{name}.ended")
    return name


@app.task(name="long-async")
async def long_async(name: str) -> str:
    mark(f"{name}.begun")
    try:
        while not (Path(os.environ["MARKS"]) / f"{name}.go").exists():
            await asyncio.sleep(0.02)
    except asyncio.CancelledError:
        mark(f"{name}.cancelled")
        raise
    mark(f"{name}.ended")
    return name


@app.task(name="cleans-up")
def cleans_up(name: str) -> None:
    try:
        long.run(name)
    finally:
        mark(f"{name}.cleaned")


@app.task(name="stubborn")
def stubborn(name: str) -> None:
    """Has a child of its own, and heeds no interruption."""
    child = subprocess.Popen(["sleep", "600"])
    mark(f"{name}.begun", f"{os.getpid()} {child.pid}\n")
    while True:
        try:
            time.sleep(60)
        except BaseException:
            mark(f"{name}.heedless")


@app.task(name="soft", soft_time_limit=0.2)
def soft(how: str) -> str:
    try:
        while True:
            time.sleep(0.01)
    except SoftTimeLimitExceeded:
        if how == "returns":
            return "in time"
        raise


@app.task(name="limited", time_limit=0.3)
def limited() -> None:
    while True:
        time.sleep(0.01)


class Mute(Exception):
    """One that cannot be told."""

    def __str__(self) -> str:
        raise RuntimeError


@app.task(name="fails", throws=(KeyError,))
def fails(how: str) -> None:
    if how == "mute":
        raise Mute
    if how == "closed":
        sys.stdout.close()
    if how == "huge":
        raise Fail("x" * 1_000_000, exit_code=2**40)
    if how == "exit":
        raise Fail("no such customer", exit_code=75)
    if how == "expected":
        raise KeyError("expected")
    raise ValueError("x" * 2_000 if how == "long" else "broken")


@app.task(name="dies")
def dies() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


@app.task(name="dies-and-is-lost", reject_on_worker_lost=True)
def dies_and_is_lost() -> None:
    os._exit(3)


@app.task(name="returns")
def returns(what: str) -> Any:
    return {"much": "x" * 5_000, "no-json": object(), "nothing": None}[what]


@app.task(name="writes")
def writes(lines: int) -> None:
    for line in range(lines):
        print(f"line {line} " + "." * 80)


@app.task(name="ticks")
def ticks(name: str) -> None:
    """Writes a line, waits for the test, writes another."""
    print("first", flush=True)
    wait_for(f"{name}.go")
    print("second", flush=True)


@app.task(name="heeds", bind=True)
def heeds(self: Task, name: str) -> None:
    mark(f"{name}.begun")
    while not self.request.is_cancelled():
        time.sleep(0.01)
    mark(f"{name}.heeded")


@app.task(name="two-at-once")
def two_at_once(names: List[str]) -> None:
    mark(f"{names[0]}.begun")
    wait_for(f"{names[1]}.begun")


@in_flask.task(name="in-flask")
def in_flask_app(value: int) -> List[Any]:
    return [flask.current_app.name, value]
