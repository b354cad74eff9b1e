#!/usr/bin/env python3
"""A worker of one's own in plain Python: carries out `queue` targets through the documented WorkerService.

    scripts/examples/python-worker --queue reports [--endpoints HOST:PORT,…] [--slots N] [--label k=v]

Change `carry_out`, and keep the rest: it is the whole protocol of `proto/chronarch/v1/worker.proto`. What it promises:

- An attempt is begun at most once in this process, and only while the lease allows it: until `lease` after the sending
  of the heartbeat that was answered last. Beyond that the cluster may have given it to somebody else.
- A broken stream ends nothing: the worker finds the leader, says what it holds, and repeats reports until they are
  acknowledged.
- SIGTERM and SIGINT drain: nothing new is taken, what runs is finished, the process ends with 0.
- `chronarch worker drain` does too, but the process stays, and `chronarch worker resume` has it take orders again.

`python-worker` makes the stubs with grpcio-tools from the protocol files.
"""

import argparse
import collections
import concurrent.futures
import json
import os
import queue
import signal
import sys
import threading
import time
import uuid

import grpc

from chronarch.v1 import job_pb2, worker_pb2, worker_pb2_grpc

HEARTBEAT_SECONDS = 1.0
CONNECT_SECONDS = 1.0


def carry_out(order, cancelled):
    """What this worker is for: does the work of one attempt, and says how it ended.

    `order.target.queue.payload` is what the job says, `order.params` its parameters. `cancelled` is set when the run is
    to be stopped. Anything that is raised fails the attempt. The run id (`order.run_id`) is the same in each attempt of a
    run: a target that remembers it makes the effect happen once.
    """
    payload = json.loads(order.target.queue.payload or "null")
    print(json.dumps({"run_id": order.run_id, "job": order.job, "attempt": order.attempt, "fence": order.fence,
                      "payload": payload, "params": dict(order.params)}), flush=True)
    seconds = payload.get("seconds", 0) if isinstance(payload, dict) else 0
    if cancelled.wait(seconds):
        return worker_pb2.Report(outcome=job_pb2.OUTCOME_CANCELLED)
    if isinstance(payload, dict) and payload.get("fail"):
        raise RuntimeError(payload["fail"])
    return worker_pb2.Report(outcome=job_pb2.OUTCOME_SUCCEEDED, output=b"done\n")


class Attempt:
    def __init__(self, order):
        self.order = order
        self.cancelled = threading.Event()
        self.begun = False
        self.report = None


class Worker:
    def __init__(self, arguments):
        self.arguments = arguments
        # Another one for each life of the process, as the protocol asks.
        self.name = f"{arguments.name}/{uuid.uuid4().hex[:8]}"
        self.lock = threading.Lock()
        self.held = {}
        self.pool = concurrent.futures.ThreadPoolExecutor(arguments.slots)
        self.outbox = None
        self.may_begin_until = 0.0
        # The Drain that the cluster asked for with, while it holds.
        self.asked = None
        self.draining = threading.Event()
        self.drained = threading.Event()

    # What runs.

    def take(self, order):
        key = (order.run_id, order.fence)
        with self.lock:
            if key in self.held:
                return
            self.held[key] = Attempt(order)
        self.begin()

    def begin(self):
        """Begins what is held and has not begun, as far as the lease allows."""
        with self.lock:
            if time.monotonic() >= self.may_begin_until:
                return
            ready = [attempt for attempt in self.held.values() if not attempt.begun]
            for attempt in ready:
                attempt.begun = True
        for attempt in ready:
            self.pool.submit(self.run, attempt)

    def run(self, attempt):
        order = attempt.order
        # The attempt ends by itself at its timeout; what does not look at `cancelled` is ended by the cluster.
        timer = threading.Timer(order.timeout.ToTimedelta().total_seconds(), attempt.cancelled.set)
        timer.start()
        try:
            report = carry_out(order, attempt.cancelled)
        except Exception as error:  # whatever the work raises is the end of the attempt
            report = worker_pb2.Report(outcome=job_pb2.OUTCOME_FAILED, error=str(error)[:512])
        timer.cancel()
        report.run_id, report.fence = order.run_id, order.fence
        with self.lock:
            attempt.report = report
        self.send(worker_pb2.WorkerMessage(report=report))

    def cancel(self, cancel):
        key = (cancel.run_id, cancel.fence)
        with self.lock:
            attempt = self.held.get(key)
            begun = attempt is not None and attempt.begun
            if not begun:
                # It never began here, and never will: that is a cancelled attempt too.
                self.held.setdefault(key, Attempt(None)).begun = True
                self.held[key].report = worker_pb2.Report(
                    run_id=cancel.run_id, fence=cancel.fence, outcome=job_pb2.OUTCOME_CANCELLED)
        if begun:
            attempt.cancelled.set()
        else:
            self.send(worker_pb2.WorkerMessage(report=self.held[key].report))

    def acknowledged(self, message):
        with self.lock:
            self.held.pop((message.run_id, message.fence), None)

    # The stream.

    def send(self, message):
        outbox = self.outbox
        if outbox is not None:
            outbox.put(message)

    def serve(self, address):
        """One stream; returns where the leader is, if the node knows, once the stream is over."""
        outbox = queue.Queue()
        # When the heartbeats were sent that have no answer yet.
        unanswered = collections.deque()
        # How many were sent, and how many of them before the drain, once that is said: orders may be under way until one
        # behind it is answered. Those two are written where messages leave, and this one where they arrive.
        sent, sent_before_drain = 0, None
        answered = 0
        hello = worker_pb2.Hello(
            worker=self.name, queues=self.arguments.queue, labels=dict(self.arguments.label), kinds=["queue"],
            slots=self.arguments.slots, version="example", protocol=1,
            held=[worker_pb2.Held(run_id=run_id, fence=fence) for run_id, fence in self.held])
        outbox.put(worker_pb2.WorkerMessage(hello=hello))
        draining = self.draining.is_set()
        if draining or self.asked is not None:
            outbox.put(worker_pb2.WorkerMessage(drain=self.asked or worker_pb2.Drain()))

        def messages():
            nonlocal sent, sent_before_drain
            while True:
                message = outbox.get()
                if message is None:
                    return
                if message.HasField("heartbeat"):
                    unanswered.append(time.monotonic())
                    sent += 1
                elif message.HasField("drain") and sent_before_drain is None:
                    sent_before_drain = sent
                yield message

        with grpc.insecure_channel(address) as channel:
            try:
                grpc.channel_ready_future(channel).result(timeout=CONNECT_SECONDS)
            except grpc.FutureTimeoutError:
                return None
            stream = worker_pb2_grpc.WorkerServiceStub(channel).Serve(messages())
            beating = threading.Event()
            try:
                for message in stream:
                    kind = message.WhichOneof("kind")
                    if kind == "welcome":
                        self.welcome(message.welcome, outbox, beating)
                        if self.draining.is_set() and not draining:
                            # A signal that came in between found no outbox. To say it twice is harmless.
                            self.drain()
                    elif kind == "not_leader":
                        return message.not_leader.leader or None
                    elif kind == "order":
                        self.take(message.order)
                    elif kind == "cancel":
                        self.cancel(message.cancel)
                    elif kind == "acknowledged":
                        self.acknowledged(message.acknowledged)
                    elif kind == "drain":
                        # It is said back, here and in each hello, so that the next leader knows it too.
                        self.asked = message.drain
                        self.send(worker_pb2.WorkerMessage(drain=message.drain))
                    elif kind == "resume":
                        if not self.draining.is_set():
                            # The next hello comes without it. What it holds goes on meanwhile.
                            self.asked = None
                            return address
                    elif kind == "heartbeat":
                        # Answers come in order: this one is for the oldest that has none.
                        self.may_begin_until = unanswered.popleft() + self.lease
                        answered += 1
                        self.begin()
                        heard = sent_before_drain is not None and answered > sent_before_drain
                        with self.lock:
                            idle = heard and self.draining.is_set() and not self.held
                        if idle:
                            self.drained.set()
                            return None
            except grpc.RpcError as error:
                print(f"{address}: {error.code().name}", file=sys.stderr, flush=True)
            finally:
                beating.set()
                self.outbox = None
                outbox.put(None)
                stream.cancel()
        return None

    def welcome(self, welcome, outbox, over):
        self.lease = welcome.lease.ToTimedelta().total_seconds()
        print(f"serving as {self.name}", file=sys.stderr, flush=True)
        # Before anything else that others send from here on.
        outbox.put(worker_pb2.WorkerMessage(heartbeat=worker_pb2.Heartbeat()))
        self.outbox = outbox
        with self.lock:
            ended = [attempt.report for attempt in self.held.values() if attempt.report is not None]
        for report in ended:
            outbox.put(worker_pb2.WorkerMessage(report=report))

        def beat():
            while not over.wait(HEARTBEAT_SECONDS):
                outbox.put(worker_pb2.WorkerMessage(heartbeat=worker_pb2.Heartbeat()))

        threading.Thread(target=beat, daemon=True).start()

    def drain(self, *_):
        self.draining.set()
        self.send(worker_pb2.WorkerMessage(drain=worker_pb2.Drain()))

    def forever(self):
        endpoints = list(self.arguments.endpoints)
        leader, wait = None, 0.05
        while not self.drained.is_set():
            if self.draining.is_set() and not self.held:
                return
            address = leader or endpoints[0]
            # Each in turn: a node that is down is asked again when all others were.
            endpoints.append(endpoints.pop(0))
            begun = time.monotonic()
            leader = self.serve(address)
            if leader is None and not self.drained.is_set():
                wait = 0.05 if time.monotonic() - begun > 5 else min(wait * 2, 1.0)
                time.sleep(wait)


def pair(text):
    key, found, value = text.partition("=")
    if not found or not key:
        raise argparse.ArgumentTypeError("expected KEY=VALUE")
    return key, value


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--queue", action="append", required=True)
    parser.add_argument("--endpoints", type=lambda text: text.split(","),
                        default=os.environ.get("CHRONARCH_ENDPOINTS", "127.0.0.1:7401,127.0.0.1:7402,127.0.0.1:7403").split(","))
    parser.add_argument("--slots", type=int, default=4)
    parser.add_argument("--label", action="append", type=pair, default=[])
    parser.add_argument("--name", default=f"python-{os.uname().nodename}")
    worker = Worker(parser.parse_args())
    signal.signal(signal.SIGTERM, worker.drain)
    signal.signal(signal.SIGINT, worker.drain)
    worker.forever()
    worker.pool.shutdown(wait=True)


if __name__ == "__main__":
    main()
