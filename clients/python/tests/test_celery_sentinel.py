"""Celery over `sentinel://` beside our connection `redis-sentinel://`: tasks arrive and their ends are known, also
behind a failover."""

from pathlib import Path

import watched_redis
from celery_real import place
from cluster import Cluster, eventually

from chronarch import Client

APP = """
import os
from celery import Celery
app = Celery("{module}", broker=os.environ["SHOP_BROKER"])
app.conf.update(broker_connection_retry_on_startup=True, broker_connection_max_retries=None)
app.conf.broker_transport_options = {{
    "master_name": "{master}", "sentinel_kwargs": {{"password": "{secret}"}}, "socket_timeout": 5,
}}

@app.task(name="shop.run", ignore_result=True)
def run(*args): pass
"""


def test_celery_and_the_cluster_find_the_same_master_before_and_after_a_failover(
    nodes: Cluster, client: Client, tmp_path: Path
) -> None:
    with watched_redis.running() as watched:
        broker = f"sentinel://:{watched_redis.SECRET}@127.0.0.1:{watched.port}/0"
        with place(tmp_path, nodes, "shop_watched", broker) as shop:
            shop.app(APP.format(module=shop.module, master=watched_redis.MASTER, secret=watched_redis.WATCH_SECRET))
            shop.worker()
            (tmp_path / "secret").write_text(watched_redis.WATCH_SECRET)
            ours = f"redis-sentinel://:{watched_redis.SECRET}@127.0.0.1:{watched.port}/{watched_redis.MASTER}/0"
            shop.cluster_worker(ours, f'sentinel_password_file = "{tmp_path}/secret"')
            target = {"broker": "celery", "task": "shop.run", "args": "[1]"}
            spec = {"name": "run", "namespace": shop.namespace, "target": {"celery": target}, "timeout": "60s"}
            client.apply_jobs([spec])

            def end() -> str:
                run = client.wait_for_run(client.trigger_job("run", namespace=shop.namespace).run_id)
                assert run.state == "succeeded", run
                return run.attempts[-1].error or ""

            eventually("Celery to say who runs what", lambda: "run by celery@" in end())
            watched.fail_over()
            end()
