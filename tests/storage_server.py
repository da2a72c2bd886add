"""An object storage on this machine: moto's server, which speaks S3."""

import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

import boto3
import pytest
from moto.server import ThreadedMotoServer

if TYPE_CHECKING:
    from botocore.client import BaseClient


@contextmanager
def storage(region: str) -> Iterator["BaseClient"]:
    """Start a storage, to which the environment's variables lead, and yield a client of it."""
    server = ThreadedMotoServer("127.0.0.1", 0)
    server.start()
    address, port = server.get_host_and_port()
    url = f"http://{address}:{port}"
    # Its buckets are those of the process, which other tests have had, too.
    urllib.request.urlopen(urllib.request.Request(f"{url}/moto-api/reset", method="POST")).close()
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("AWS_ENDPOINT_URL", url)
        patch.setenv("AWS_ACCESS_KEY_ID", "anyone")
        patch.setenv("AWS_SECRET_ACCESS_KEY", "anything")
        patch.setenv("AWS_DEFAULT_REGION", region)
        yield boto3.client("s3")
    server.stop()
