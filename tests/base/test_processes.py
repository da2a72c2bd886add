"""Worker processes leave Ctrl-C to the process that started them, and end with it."""

import signal
import subprocess
import sys

import psutil
import pytest

from asr_with_nemo.base.processes import Workers


def blocked() -> set[signal.Signals]:
    return signal.pthread_sigmask(signal.SIG_BLOCK, [])


@pytest.mark.skipif(not hasattr(signal, "pthread_sigmask"), reason="Windows can't block a signal")
def test_ctrl_c_is_blocked_in_the_workers_alone():
    pool = Workers(2)
    try:
        assert all(signal.SIGINT in pool.submit(blocked).result() for _ in range(3))
        assert signal.SIGINT not in blocked()
    finally:
        pool.shutdown(kill_workers=True)


PROGRAM = """
import time
from asr_with_nemo.base.processes import Workers
pool = Workers(2)
print(*{pool.submit(__import__("os").getpid).result() for _ in range(8)}, flush=True)
time.sleep(600)
"""


def test_workers_end_with_the_process_that_started_them_even_if_it_is_killed():
    command = [sys.executable, "-c", PROGRAM]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        try:
            workers = [psutil.Process(int(number)) for number in process.stdout.readline().split()]
        finally:
            process.kill()
    assert workers
    _, alive = psutil.wait_procs(workers, timeout=30)
    assert not alive
