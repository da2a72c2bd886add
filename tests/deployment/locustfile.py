"""Clients for scripts/benchmarks/server.py: each sends one recording after another, and checks the answers."""

import itertools
import os
from pathlib import Path

from locust import FastHttpUser, constant, task

RECORDINGS = [(path.name, path.read_bytes()) for path in map(Path, os.environ["RECORDINGS"].split(os.pathsep))]
TURNS = itertools.count()


class Client(FastHttpUser):
    """A client that sends its next request as soon as it has an answer."""

    wait_time = constant(0)

    @task
    def transcribe(self) -> None:
        """Send a recording."""
        name, content = RECORDINGS[next(TURNS) % len(RECORDINGS)]
        with self.client.post(
            "/v1/audio/transcriptions", files={"file": (name, content)}, data={"model": "an4"}, catch_response=True
        ) as reply:
            if reply.status_code != 200 or "text" not in reply.json():
                reply.failure(f"{reply.status_code}: {reply.text}")
