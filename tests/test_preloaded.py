"""What runs the tests' programs that need NeMo is hurt by none of them, and keeps none waiting: tests/preloaded.py."""

import os
import socket
import sys
import tempfile
import threading
from pathlib import Path

import pytest

from tests.conftest import ROOT, run_script

COMMAND = ("build_lm.py", "--help")


@pytest.mark.slow
@pytest.mark.skipif(not os.environ.get("COURSE_PRELOADED"), reason="programs run as for a user")
def test_programs_that_are_gone_before_they_said_what_they_are_cost_nothing(tmp_path: Path):
    address = os.environ["COURSE_PRELOADED"].rpartition(os.pathsep)[2]
    with socket.socket(socket.AF_UNIX) as waits:
        waits.connect(address)  # and says nothing yet
        for said in (b"", b"{", b"no JSON\n"):
            with socket.socket(socket.AF_UNIX) as link, open(os.devnull, "rb") as file:
                link.connect(address)
                if said:
                    socket.send_fds(link, [said], [file.fileno()])
        done = run_script(*COMMAND, cwd=tmp_path)
    assert done.returncode == 0 and "Usage" in done.stdout, done.stderr


@pytest.mark.parametrize("listens", [True, False])
def test_a_program_ends_when_what_should_run_it_has_ended(listens: bool, tmp_path: Path):
    with tempfile.TemporaryDirectory() as short, socket.socket(socket.AF_UNIX) as listener:
        address = Path(short, "socket")  # of some hundred characters at most
        listener.bind(str(address))
        if listens:
            listener.listen()
            threading.Thread(target=lambda: listener.accept()[0].close(), daemon=True).start()
        done = run_script(
            *COMMAND,
            cwd=tmp_path,
            COURSE_PRELOADED=os.pathsep.join((sys.prefix, str(address))),
            PYTHONPATH=os.pathsep.join((str(ROOT / "tests/preload"), os.environ.get("PYTHONPATH", ""))),
        )
    assert done.returncode == 1 and "preloaded.py can't be reached, or has ended" in done.stderr
    assert done.stdout == ""
