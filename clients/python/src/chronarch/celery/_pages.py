"""All jobs with some labels, in as few calls as there can be."""

from typing import Iterator, Mapping, Optional

from ..client import Client
from ..models import Job

# The most that the cluster tells at once.
PAGE = 1_000


def jobs(
    client: Client, namespace: str, labels: Mapping[str, str], *, timeout: Optional[float] = None
) -> Iterator[Job]:
    """The jobs, in the order of their names.

    Args:
        client: of the cluster.
        namespace: of the jobs.
        labels: all must match.
        timeout: seconds for each page; None: as the client has it.

    Raises:
        ChronarchError: the cluster does not tell.
    """
    token = ""
    while True:
        page = client.list_jobs(namespace=namespace, labels=labels, page_size=PAGE, page_token=token, timeout=timeout)
        yield from page.jobs
        token = page.next_page_token
        if not token:
            return
