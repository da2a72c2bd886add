"""A process that has imported NeMo, and forks itself for each command that it is told to run.

NeMo's import takes 10 to 15 seconds, and the tests run commands that need it by the dozen. A command still has a
process, an environment and a working folder of its own. `tests.conftest.run_script` starts this and talks to it: a JSON
request a line, and for each its exit status.
"""

import json
import os
import runpy
import sys


def main() -> None:
    """Answer requests until there are no more."""
    requests, answers = os.fdopen(os.dup(0)), os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # what NeMo says of itself is no answer
    import nemo.collections.asr  # noqa: F401

    for line in iter(requests.readline, ""):
        request = json.loads(line)
        child = os.fork()
        if child == 0:
            become(request)
            runpy.run_path(request["command"][0], run_name="__main__")
            return
        _, status = os.waitpid(child, 0)
        print(os.waitstatus_to_exitcode(status), file=answers, flush=True)


def become(request: dict) -> None:
    """Take over a command's arguments, environment, folder, and files for what it prints."""
    os.environ.clear()
    os.environ.update(request["environment"])
    os.chdir(request["cwd"])
    places = [(os.devnull, os.O_RDONLY)] + [(file, os.O_WRONLY) for file in (request["stdout"], request["stderr"])]
    for number, (file, mode) in enumerate(places):
        opened = os.open(file, mode)
        os.dup2(opened, number)
        os.close(opened)
    sys.argv = request["command"]
    sys.path[0] = os.path.dirname(sys.argv[0])


if __name__ == "__main__":
    main()
