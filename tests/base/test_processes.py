"""Worker processes leave Ctrl-C to the process that started them."""

import signal

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
