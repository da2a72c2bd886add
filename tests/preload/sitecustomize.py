"""Let a program that needs NeMo be forked from a process that has imported it.

NeMo's import takes 10 to 15 seconds, and the tests start such programs by the hundred: commands, what commands start,
notebooks. This file is on their PYTHONPATH (tests/conftest.py). The program gets a process of its own, with the
arguments, environment, folder and files that it was started with (tests/preloaded.py); the one that was started passes
signals on to it and ends as it does. With COURSE_PRELOADED empty, a program runs as it would without this.
"""

import os
import sys

SCRIPTS = ("benchmark_training.py", "evaluate.py", "export.py", "finetune.py", "sweep.py", "train.py", "transcribe.py")
MODULES = ("ipykernel_launcher",)


def main() -> None:
    """Hand the program over if it is one of those."""
    prefix, _, address = os.environ.get("COURSE_PRELOADED", "").rpartition(os.pathsep)
    arguments = [argument for argument in sys.orig_argv[1:] if not argument.startswith("-X")]
    if prefix == sys.prefix and needs_nemo(arguments):
        hand_over(address, arguments)


def needs_nemo(arguments: list[str]) -> bool:
    """Whether these are the arguments of a Python that will import NeMo."""
    if arguments[:1] == ["-m"]:
        return arguments[1] in MODULES
    folder, name = os.path.split(arguments[0] if arguments else "")
    return os.path.basename(folder) == "scripts" and name in SCRIPTS


def hand_over(address: str, arguments: list[str]) -> None:
    """Let the preloaded process run the program, and end as it ends."""
    import json
    import signal
    import socket

    signals = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
    link = socket.socket(socket.AF_UNIX)
    link.connect(address)
    request = {"arguments": arguments, "folder": os.getcwd(), "environment": dict(os.environ)}
    request["ignored"] = [number for number in signals if signal.getsignal(number) == signal.SIG_IGN]
    socket.send_fds(link, [b"."], [0, 1, 2])
    answers = link.makefile("rw")
    print(json.dumps(request), file=answers, flush=True)
    pid = int(answers.readline())
    for number in signals:
        if number not in request["ignored"]:
            signal.signal(number, lambda number, frame: os.kill(pid, number))
    status = int(answers.readline())
    if status < 0:
        signal.signal(-status, signal.SIG_DFL)
        os.kill(os.getpid(), -status)
    os._exit(status)


main()
