"""Let a program that needs NeMo, or much of what it brings, be forked from a process that has imported it.

NeMo's import takes 10 to 15 seconds, and the tests start such programs by the hundred: commands, what commands start,
notebooks. This file is on their PYTHONPATH (tests/conftest.py). The program gets a process of its own, with the
arguments, environment, folder and files that it was started with (tests/preloaded.py); the one that was started passes
signals on to it and ends as it does. With COURSE_PRELOADED empty, a program runs as it would without this.
"""

import os
import sys

SCRIPTS = (
    "benchmarks/training.py",
    "build_lm.py",
    "compare_runs.py",
    "evaluate.py",
    "export.py",
    "finetune.py",
    "log_dataset.py",
    "make_report.py",
    "sweep.py",
    "sync.py",
    "tools/evaluate_live.py",
    "tools/make_results.py",
    "tools/run_study.py",
    "train.py",
    "training/heard.py",  # a test's
    "transcribe.py",
)
WITH_A_MODEL = {"prepare_corpus.py": "--align", "serve.py": ".nemo"}
"""Scripts that need NeMo only with such an argument."""
MODULES = ("ipykernel_launcher",)


def main() -> None:
    """Hand the program over if it is one of those."""
    prefix, _, address = os.environ.get("COURSE_PRELOADED", "").rpartition(os.pathsep)
    arguments = [argument for argument in sys.orig_argv[1:] if not argument.startswith(("-B", "-X"))]
    if prefix == sys.prefix and needs_nemo(arguments):
        try:
            hand_over(address, arguments)
        except Exception as error:  # Python would go on, and run a second time what has begun
            print(f"error: tests/preloaded.py can't be reached, or has ended: {error!r}", file=sys.stderr, flush=True)
            os._exit(1)


def needs_nemo(arguments: list[str]) -> bool:
    """Whether these are the arguments of a Python that will import NeMo."""
    if arguments[:1] == ["-m"]:
        return arguments[1] in MODULES
    if arguments[:1] == ["-c"]:  # multiprocessing's, for a process that was forked itself
        return "--multiprocessing-fork" in arguments and b"preloaded.py" in _read(f"/proc/{os.getppid()}/cmdline")
    folder, name = os.path.split(arguments[0] if arguments else "")
    room = os.path.basename(folder)
    if room == "scripts" and name in WITH_A_MODEL:
        return any(argument.endswith(WITH_A_MODEL[name]) for argument in arguments[1:])
    return (room == "scripts" and name in SCRIPTS) or f"{room}/{name}" in SCRIPTS


def _read(path: str) -> bytes:
    try:
        with open(path, "rb") as file:
            return file.read()
    except OSError:
        return b""


def _is_open(file: int) -> bool:
    try:
        os.fstat(file)
    except OSError:
        return False
    return True


def hand_over(address: str, arguments: list[str]) -> None:
    """Let the preloaded process run the program, and end as it ends."""
    import json
    import signal
    import socket

    signals = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
    files = [int(name) for name in os.listdir("/proc/self/fd")] if os.path.isdir("/proc/self/fd") else [0, 1, 2]
    files = [file for file in files if _is_open(file)]  # without the one that listed them
    request = {"arguments": arguments, "folder": os.getcwd(), "environment": dict(os.environ), "files": files}
    request["ignored"] = [number for number in signals if signal.getsignal(number) == signal.SIG_IGN]

    link = socket.socket(socket.AF_UNIX)
    link.connect(address)
    content = f"{json.dumps(request)}\n".encode()
    sent = socket.send_fds(link, [content], files)
    link.sendall(content[sent:])
    answers = link.makefile("r")
    pid = int(answers.readline())
    for number in signals:
        if number not in request["ignored"]:
            signal.signal(number, lambda number, frame: os.kill(pid, number))
    status = int(answers.readline())
    if status < 0:
        if -status != signal.SIGKILL:  # which has no handler
            signal.signal(-status, signal.SIG_DFL)
        os.kill(os.getpid(), -status)
    os._exit(status)


main()
