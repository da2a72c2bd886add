"""A process that has imported NeMo, and forks itself for each program that it is asked to run.

The tests start it (tests/conftest.py) and tests/preload/sitecustomize.py talks to it: a connection a program, which
carries a JSON request with its files, the number of its process, and its exit status.
"""

import contextlib
import fcntl
import json
import os
import runpy
import selectors
import signal
import socket
import sys
import threading

import matplotlib
import nemo.collections.asr  # noqa: F401
import typer  # noqa: F401

MOST_FILES = 32
FREE = 1000
"""A file number from which on none is in use."""


SECONDS_OF_A_REQUEST = 10
"""For which a part of a request is waited for, once it has begun; the others wait meanwhile."""


def main() -> None:
    """Answer requests until standard input ends."""
    listener = socket.socket(fileno=int(sys.argv[1]))
    path = [place for place in sys.path[1:] if place not in os.environ.get("PYTHONPATH", "").split(os.pathsep)]
    with selectors.DefaultSelector() as selector:
        selector.register(0, selectors.EVENT_READ)
        selector.register(listener, selectors.EVENT_READ)
        while True:
            for key, _ in selector.select():
                if key.fileobj == 0:
                    return
                if key.fileobj is listener:
                    selector.register(listener.accept()[0], selectors.EVENT_READ)
                    continue
                if key.data:  # a program has ended
                    pid, link = key.data
                    _, status = os.waitpid(pid, 0)
                    selector.unregister(key.fd)
                    os.close(key.fd)
                    answer(link, os.waitstatus_to_exitcode(status))
                    link.close()
                    continue
                link = key.fileobj
                selector.unregister(link)
                request, files = receive(link)
                pid = os.fork() if request else None
                if pid == 0:
                    for other in list(selector.get_map().values()):  # they must end when the preloaded process does
                        if other.data or isinstance(other.fileobj, socket.socket):
                            (other.data[1] if other.data else other.fileobj).close()
                    link = socket.socket(fileno=fcntl.fcntl(link.detach(), fcntl.F_DUPFD, FREE))
                    selector.close()
                    become(request, files, path)
                    threading.Thread(target=end_with, args=(link,), daemon=True).start()
                    run(request["arguments"])
                    return
                for file in files:
                    os.close(file)
                if pid is None:
                    link.close()
                    continue
                answer(link, pid)
                selector.register(os.pidfd_open(pid), selectors.EVENT_READ, (pid, link))


def receive(link: socket.socket) -> tuple[dict | None, list[int]]:
    """Read a request and the files that come with it; None if the program is gone before all of it is here."""
    files: list[int] = []
    link.settimeout(SECONDS_OF_A_REQUEST)
    try:
        content, files, _, _ = socket.recv_fds(link, 1 << 20, MOST_FILES)
        while content[-1:] != b"\n":
            more = link.recv(1 << 20)
            if not more:
                return None, files
            content += more
        request = json.loads(content)
    except (OSError, ValueError):
        return None, files
    link.settimeout(None)
    return request, files


def answer(link: socket.socket, number: int) -> None:
    """Tell a program that was started something, if it is still there."""
    with contextlib.suppress(OSError):
        link.sendall(f"{number}\n".encode())


def become(request: dict, files: list[int], path: list[str]) -> None:
    """Take over a program's files, environment, folder and signals."""
    above = [fcntl.fcntl(file, fcntl.F_DUPFD, FREE) for file in files]  # out of the way of one another
    for number, file in zip(request["files"], above, strict=True):
        os.dup2(file, number)
        os.close(file)
    os.environ.clear()
    os.environ.update(request["environment"])
    os.chdir(request["folder"])
    at_once = bool(os.environ.get("PYTHONUNBUFFERED"))
    for number, stream in ((1, sys.stdout), (2, sys.stderr)):
        stream.reconfigure(line_buffering=number == 2 or os.isatty(number), write_through=at_once)
    for number in request["ignored"]:
        signal.signal(number, signal.SIG_IGN)
    sys.path[:] = ["", *filter(None, os.environ.get("PYTHONPATH", "").split(os.pathsep)), *path]
    # NeMo has imported what reads this at its import.
    inline = "module://matplotlib_inline.backend_inline" if "ipykernel_launcher" in request["arguments"] else None
    if backend := os.environ.get("MPLBACKEND", inline):
        matplotlib.rcParams["backend"] = backend


def end_with(link: socket.socket) -> None:
    """Die when the program that was started is killed."""
    if not link.recv(1):
        os.kill(os.getpid(), signal.SIGKILL)


def run(arguments: list[str]) -> None:
    """Run a script or, after -m, a module, or, after -c, Python."""
    sys.orig_argv = [sys.executable, *arguments]
    if arguments[0] == "-c":
        sys.argv = ["-c", *arguments[2:]]
        exec(arguments[1], {"__name__": "__main__"})
    elif arguments[0] == "-m":
        sys.argv = arguments[1:]
        sys.path[0] = os.getcwd()
        runpy.run_module(arguments[1], run_name="__main__", alter_sys=True)
    else:
        sys.argv = arguments
        sys.path[0] = os.path.dirname(os.path.abspath(arguments[0]))
        runpy.run_path(arguments[0], run_name="__main__")


if __name__ == "__main__":
    main()
