#!/usr/bin/env python3
"""Make .venv and install what the course needs; with unchanged requirements, do nothing.

`make setup` and every other target of the Makefile call it. Set in the environment:

    TORCH_BACKEND=cpu   take torch's build without CUDA (uv's names: cpu, cu130, auto ...)
    UNPINNED=1          take the newest versions instead of the pinned ones
    COURSE_ONLY=1       leave out what only the tests and tools need, as the containers and `make tutorial` do

Where torch is already there for the Python that runs this (a container, Colab), the environment sees what that Python
has, torch stays as it is, and only what is missing or of another major version is installed. On Colab and Kaggle, the
first cell of each notebook calls `set_up_kernel`.

Only the standard library is used, in words that an older Python understands well enough to be told that it is too old.
"""

from __future__ import annotations

import argparse
import hashlib
import importlib.metadata
import importlib.util
import json
import os
import platform
import re
import shutil
import site
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).resolve().parents[1]
COURSE_REQUIREMENTS = "requirements.txt"
REQUIREMENTS = "requirements-dev.txt"  # includes those of the course
CONSTRAINTS = "constraints.txt"
OLDEST, NEWEST = (3, 11), (3, 13)
PIP = "pip==26.3"  # the one that Python brings can be years old, and three times slower
UV = "uv==0.13.9"  # knows where the builds of torch lie: `--torch-backend`
OLDEST_TORCH = (2, 6)  # what nemo_toolkit 3.0.0 accepts
# numpy is one of them because a container's torch is built against its numpy.
TORCH_AND_KIN = ("torch", "torchvision", "torchaudio", "triton", "pytorch-triton", "numpy")
LOG_TAIL = 15


class SetupError(Exception):
    """Set-up can't go on; the message says why and what to do next."""


class Requirement(NamedTuple):
    """One line of a requirements file: `name[extras]==version`."""

    name: str
    extras: str
    version: str

    def __str__(self) -> str:
        return f"{self.unpinned}=={self.version}"

    @property
    def unpinned(self) -> str:
        return self.name + self.extras


def normalized(name: str) -> str:
    """A distribution's name as PyPI compares it (PEP 503)."""
    return re.sub(r"[-_.]+", "-", name).lower()


def read_requirements(path: Path) -> list[Requirement]:
    """The lines of a requirements file, those of the files that it includes first; each must be pinned by `==`."""
    requirements = []
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
        text = line.split("#")[0].strip()
        if text.startswith("-r "):
            requirements += read_requirements(path.parent / text[3:].strip())
        elif text:
            match = re.fullmatch(r"([\w.-]+)(\[[\w,.-]+\])?==([\w.!]+)", text)
            if match is None:
                raise SetupError(f"{path}:{number}: {text!r} is not `name==version`. Pin it, without a local version.")
            requirements.append(Requirement(match[1], match[2] or "", match[3]))
    return requirements


def check_python(version: tuple[int, ...]) -> None:
    """Raise `SetupError` unless the course runs on this Python."""
    if not OLDEST <= version[:2] <= NEWEST:
        raise SetupError(
            f"this is Python {version[0]}.{version[1]}; the course needs 3.11, 3.12 or 3.13. Install one of them and "
            "name it: make PYTHON=python3.12 setup"
        )


def check_venv_module(needs_pip: bool) -> None:
    """Raise `SetupError` where Debian and Ubuntu have split off `venv`, or the pip that it puts into an environment."""
    if not importlib.util.find_spec("venv") or (needs_pip and not importlib.util.find_spec("ensurepip")):
        raise SetupError(
            f"{sys.executable} can't make virtual environments. On Debian and Ubuntu: apt install python3-venv; then "
            "the same command again."
        )


def digest(root: Path, requirements: str, python: tuple[int, ...], unpinned: bool) -> str:
    """What a finished set-up stands for: the requirements' text, this folder and this Python."""
    content = hashlib.sha256()
    for name in dict.fromkeys((COURSE_REQUIREMENTS, requirements, CONSTRAINTS)):
        path = root / name
        content.update(path.read_bytes() if path.exists() else b"")
        content.update(b"\0")
    # The folder, because the package is installed in place.
    content.update(json.dumps([str(root), list(python[:2]), unpinned]).encode())
    return content.hexdigest()


def installed_versions(names: list[str], python: str = sys.executable) -> dict[str, str]:
    """Those of the named distributions that a Python finds, by normalized name, with their versions."""
    code = (
        "import importlib.metadata as m, json, sys\n"
        "found = {}\n"
        "for name in sys.argv[1:]:\n"
        "    try: found[name] = m.version(name)\n"
        "    except m.PackageNotFoundError: pass\n"
        "print(json.dumps(found))"
    )
    wanted = [normalized(name) for name in names]
    answer = subprocess.run([python, "-c", code, *wanted], capture_output=True, text=True, check=True)
    return json.loads(answer.stdout)


def torch_to_keep(python: str = sys.executable) -> dict[str, str]:
    """torch and its kin with their versions, if that Python has a torch that NeMo accepts; else nothing."""
    versions = installed_versions(list(TORCH_AND_KIN), python)
    if "torch" not in versions:
        return {}
    if tuple(int(n) for n in re.findall(r"\d+", versions["torch"])[:2]) < OLDEST_TORCH:
        print(f"  torch {versions['torch']} is there, but NeMo needs 2.6 or later: another one is installed beside it")
        return {}
    return versions


def to_install(
    requirements: list[Requirement], have: dict[str, str], kept: dict[str, str], unpinned: bool
) -> list[str]:
    """What pip is asked for.

    Beside a torch that stays (`kept`, which is part of `have`) only what is missing or of another major version; else
    everything.
    """

    def fits(requirement: Requirement) -> bool:
        name = normalized(requirement.name)
        if name in kept:
            return True
        return name in have and have[name].split(".")[0] == requirement.version.split(".")[0]

    chosen = [r for r in requirements if not (kept and fits(r))]
    return [r.unpinned if unpinned else str(r) for r in chosen]


def venv_python(venv: Path) -> Path:
    return venv / "bin" / "python"


def make_venv(venv: Path, see_system: bool) -> None:
    """Make the environment, or keep the one that is there if it is of this Python and runs."""
    if venv.exists() and not _usable(venv, see_system):
        print(f"  {venv.name} is of another Python or doesn't run: it is made anew")
        shutil.rmtree(venv)
    if not venv.exists():
        # A pip that is seen will do: Colab's Python has one, but not the module that makes another.
        sees_pip = see_system and importlib.util.find_spec("pip") is not None
        check_venv_module(needs_pip=not sees_pip)
        options = [*(["--system-site-packages"] if see_system else []), *(["--without-pip"] if sees_pip else [])]
        subprocess.run([sys.executable, "-m", "venv", *options, str(venv)], check=True)
        if see_system and sys.prefix != sys.base_prefix:
            # --system-site-packages shows the base Python's packages. Where torch lies in an environment of its own
            # (NVIDIA's NeMo containers), that one's packages are shown by a path file. It calls `addsitedir`, because
            # NeMo lies there as a path file too, and a plain line would not follow it.
            lines = [f"import site; site.addsitedir({folder!r})\n" for folder in site.getsitepackages()]
            (_site_packages(venv) / "outer-environment.pth").write_text("".join(lines), encoding="utf-8")
    remove_half_installed(_site_packages(venv))


def _usable(venv: Path, see_system: bool) -> bool:
    code = "import sys, pip; print(*sys.version_info[:2])"
    python = venv_python(venv)
    if not python.exists():
        return False
    answer = subprocess.run([str(python), "-c", code], capture_output=True, text=True, check=False)
    config = (venv / "pyvenv.cfg").read_text(encoding="utf-8")
    sees_system = "include-system-site-packages = true" in config
    return answer.stdout.split() == [str(n) for n in sys.version_info[:2]] and sees_system == see_system


def _site_packages(venv: Path) -> Path:
    return venv / "lib" / f"python{sys.version_info[0]}.{sys.version_info[1]}" / "site-packages"


def remove_half_installed(site_packages: Path) -> None:
    """Forget packages that a killed pip left incomplete, which pip itself would take for installed.

    pip writes INSTALLER after a package's own files.
    """
    for info in site_packages.glob("*.dist-info"):
        if not (info / "INSTALLER").exists():
            shutil.rmtree(info)


class Runner:
    """Runs commands, with their whole output in a log and the lines that matter on the screen."""

    def __init__(self, log: Path) -> None:
        self.log = log
        log.write_text("", encoding="utf-8")

    def run(self, command: list[str], env: dict[str, str] | None = None) -> None:
        """Run a command; a failure is a `SetupError` with its last lines."""
        lines, found = [], 0
        process = subprocess.Popen(
            command, cwd=ROOT, env=env, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, errors="replace"
        )
        with process, open(self.log, "a", encoding="utf-8") as log:
            log.write(f"$ {' '.join(command)}\n")
            for line in process.stdout:
                log.write(line)
                log.flush()
                lines.append(line.rstrip())
                found += line.startswith("Collecting ")
                if line.startswith("Collecting ") and found % 50 == 0:
                    print(f"  {found} packages found ...", flush=True)
                if shown := self.worth_showing(line.strip()):
                    print(f"  {shown}", flush=True)
        if process.returncode != 0:
            tail = "\n".join(f"  {line}" for line in lines[-LOG_TAIL:])
            raise SetupError(
                f"this command failed:\n  {' '.join(command)}\n{tail}\nThe whole log is {self.log}. When the cause is "
                "mended (the network? a full disk? it takes 3 GB, more with CUDA), the same command goes on from here; "
                "after `rm -rf .venv` it starts afresh."
            )

    @staticmethod
    def worth_showing(line: str) -> str | None:
        """What the user sees of a line of pip's: downloads that take a while, and the long quiet part at the end."""
        if re.match(r"Downloading \S+ \(([\d.]+ GB|\d{2,}(\.\d+)? MB)\)", line):
            return line
        count = line.count(",") + 1
        if line.startswith("Installing collected packages: ") and count > 10:
            return f"installing {count} packages ..."
        return None


def set_up(root: Path, venv: Path, environment: dict[str, str]) -> None:
    """Bring the environment to what the requirements say; the mark `.ready` comes last."""
    unpinned = environment.get("UNPINNED", "") not in ("", "0")
    backend = environment.get("TORCH_BACKEND", "")
    course_only = environment.get("COURSE_ONLY", "") not in ("", "0")
    file = COURSE_REQUIREMENTS if course_only else REQUIREMENTS
    mark = venv / ".ready"
    wanted = digest(root, file, sys.version_info, unpinned)
    # What is enough for the tests is enough for the course.
    enough = {wanted, digest(root, REQUIREMENTS, sys.version_info, unpinned)}
    if any(ready(mark, one, backend) for one in enough):
        print(f"{venv.name} is ready: the requirements have not changed")
        return

    if venv.exists() and not os.access(venv, os.W_OK):
        raise SetupError(
            f"{venv} was made for other requirements than these, by another user, and can't be changed by you. In a "
            "container: build its image anew (`make docker` does so)."
        )
    started = time.perf_counter()
    mark.unlink(missing_ok=True)
    requirements = read_requirements(root / file)
    kept = torch_to_keep()
    print(f"set-up of {venv.name} with Python {platform.python_version()}: a few minutes the first time", flush=True)
    make_venv(venv, see_system=bool(kept))
    python = str(venv_python(venv))
    pip = [python, "-m", "pip", "--disable-pip-version-check", "--no-input", "install"]
    runner = Runner(venv / "setup.log")
    pip_environment = dict(environment)
    have = installed_versions([r.name for r in requirements], python)
    if installed_versions(["pip"], python)["pip"] != PIP.split("==")[1]:
        runner.run([*pip, PIP], pip_environment)

    if kept:
        print("  kept as they are: " + ", ".join(f"{name} {version}" for name, version in kept.items()))
        if pip_environment.pop("PIP_CONSTRAINT", None):
            print("  PIP_CONSTRAINT, which is set here, is not followed: it pins more than torch")
        constraints = venv / "kept.txt"
        constraints.write_text("".join(f"{n}=={v}\n" for n, v in kept.items()), encoding="utf-8")
        options = ["-c", str(constraints)]
    elif unpinned:
        options = ["--upgrade", "--upgrade-strategy", "eager"]
    else:
        options = []  # below, when torch is there

    torch = next((r for r in requirements if r.name == "torch"), None)
    if not kept and backend:
        runner.run([*pip, UV], pip_environment)
        command = torch_backend_command(python, torch.unpinned if unpinned else str(torch), backend)
        print(f"  torch for the backend {backend}, by uv ...", flush=True)
        runner.run(command, pip_environment)
    elif needs_hint(kept, have):
        print(HINT, flush=True)

    if not kept and not unpinned:
        options = ["-c", str(venv / "versions.txt")]
        pins = read_constraints(root / CONSTRAINTS)
        # pip checks the hashes of all that it installs, or of nothing. torch comes first and without: it has a build
        # for each backend, from another index, and the CUDA builds bring packages and versions of their own.
        if torch:
            plain = [f"{name}=={pin.version}\n" for name, pin in pins.items() if not of_cuda(name)]
            (venv / "versions.txt").write_text("".join(plain), encoding="utf-8")
            print("  torch and what it needs ...", flush=True)
            runner.run([*pip, "--no-compile", *options, str(torch)], pip_environment)
        there = installed_versions([name for name in pins if of_cuda(name)], python)
        hashed = [pin.text for name, pin in pins.items() if name not in there]
        (venv / "versions.txt").write_text("".join(hashed), encoding="utf-8")

    names = to_install(requirements, have, kept, unpinned)
    if names:
        print(f"  pip looks for {len(names)} packages and what they need ...", flush=True)
        # Python compiles at the first import, and only what is imported: all of it takes longer than to unpack it.
        runner.run([*pip, "--no-compile", *options, *names], pip_environment)
    runner.run([*pip, "--no-deps", "--no-build-isolation", "--editable", str(root)], pip_environment)

    partial = mark.with_name(".ready.partial")
    partial.write_text(json.dumps({"digest": wanted, "torch_backend": backend}) + "\n", encoding="utf-8")
    os.replace(partial, mark)
    print(f"{venv.name} is ready, after {time.perf_counter() - started:.0f} s")


class Pin(NamedTuple):
    """A package in constraints.txt: its version, and its lines, with the hashes of the version's files."""

    version: str
    text: str


def read_constraints(path: Path) -> dict[str, Pin]:
    """The pins of constraints.txt by normalized name."""
    pins = {}
    for text in re.findall(r"^[^#\s].*\n(?: +--hash=.*\n)*", path.read_text(encoding="utf-8"), re.MULTILINE):
        name, _, version = text.split()[0].partition("==")
        pins[normalized(name)] = Pin(version, text)
    return pins


def of_cuda(name: str) -> bool:
    """Whether it is one of the packages of which torch's builds for CUDA choose the version."""
    return name.startswith("cuda-")


def ready(mark: Path, wanted: str, backend: str) -> bool:
    """Whether a set-up ended with the same requirements (and the same backend of torch, if one is asked for)."""
    try:
        done = json.loads(mark.read_text(encoding="utf-8"))
    except (FileNotFoundError, json.JSONDecodeError):
        return False
    same_backend = not backend or backend == done["torch_backend"]
    return done["digest"] == wanted and same_backend and venv_python(mark.parent).exists()


def torch_backend_command(python: str, torch: str, backend: str) -> list[str]:
    return [python, "-m", "uv", "pip", "install", "--python", python, f"--torch-backend={backend}", torch]


HINT = """\
  No NVIDIA driver is found here. pip may all the same bring torch with CUDA, several GB of which nothing would run.
  To take the small build for CPUs instead, stop this (Ctrl-C) and run: TORCH_BACKEND=cpu make setup"""


def needs_hint(kept: dict[str, str], have: dict[str, str]) -> bool:
    """Whether pip may be about to fetch CUDA for a machine without a GPU."""
    return sys.platform == "linux" and not kept and "torch" not in have and shutil.which("nvidia-smi") is None


def set_up_kernel() -> None:
    """Set up on Colab or Kaggle, and let the notebook that is running import what the course needs.

    The notebook's own Python stays untouched: what the course needs beyond it lies in .venv, which this kernel, and
    the programs that it starts, look into first.
    """
    check_python(sys.version_info)
    venv = ROOT / ".venv"
    set_up(ROOT, venv, {**os.environ, "COURSE_ONLY": "1"})
    folder = str(_site_packages(venv))
    before = list(sys.path)
    site.addsitedir(folder)  # at the end of sys.path, with what its path files name
    added = [path for path in sys.path if path not in before]
    sys.path[:] = added + before
    importlib.invalidate_caches()
    os.environ["PYTHONPATH"] = os.pathsep.join([*added, *filter(None, [os.environ.get("PYTHONPATH")])])
    os.environ["PATH"] = os.pathsep.join([str(venv / "bin"), os.environ["PATH"]])


def freeze(root: Path, venv: Path) -> None:
    """Write constraints.txt: each version in the environment, without local parts (`+cpu`), which differ by machine.

    The hashes are those of all files of a version, for any machine, as the package index has them; uv asks for them.
    """
    python = str(venv_python(venv))
    pip = [python, "-m", "pip", "--disable-pip-version-check"]
    runner = Runner(venv / "setup.log")
    runner.run([*pip, "install", UV])
    listing = subprocess.run(
        [*pip, "freeze", "--all", "--exclude-editable"], capture_output=True, text=True, check=True
    )
    found = re.findall(r"^([\w.-]+)==([^+\s]+)", listing.stdout, re.MULTILINE)
    pins = [f"{name}=={version}\n" for name, version in found if normalized(name) not in ("pip", "wheel", "uv")]
    header = (
        "# Every version that the tests ran with, and the hashes of its files: the direct requirements and all that\n"
        "# they bring along. Written by `make constraints` (scripts/setup_env.py --freeze), not by hand, on\n"
        f"# {platform.system()} with Python {sys.version_info[0]}.{sys.version_info[1]}.\n"
    )
    target = root / CONSTRAINTS
    with tempfile.TemporaryDirectory() as scratch:
        plain, hashed = Path(scratch) / "plain.txt", Path(scratch) / "hashed.txt"
        plain.write_text("".join(pins), encoding="utf-8")
        options = ["--no-deps", "--generate-hashes", "--no-header", "--no-annotate", "--output-file", str(hashed)]
        runner.run([python, "-m", "uv", "pip", "compile", *options, str(plain)])
        partial = target.with_name(f"{CONSTRAINTS}.partial")
        partial.write_text(header + hashed.read_text(encoding="utf-8"), encoding="utf-8")
        os.replace(partial, target)
    print(f"{target.name}: {len(pins)} versions")


def main() -> None:
    """Parse the command line and run; what can't go on is one message and exit status 1."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--venv", type=Path, default=ROOT / ".venv", help="the environment's folder")
    parser.add_argument("--freeze", action="store_true", help=f"write {CONSTRAINTS} from what the environment has")
    arguments = parser.parse_args()
    venv = arguments.venv.absolute()
    try:
        if arguments.freeze:
            freeze(ROOT, venv)
        else:
            check_python(sys.version_info)
            if Path(sys.prefix).resolve() == venv.resolve():
                # Called from the environment itself, activated: it can't be judged or made anew from inside.
                os.execv(sys._base_executable, [sys._base_executable, *sys.argv])
            set_up(ROOT, venv, dict(os.environ))
    except SetupError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(1)
    except KeyboardInterrupt:
        print("\nstopped: the same command goes on from here", file=sys.stderr)
        sys.exit(130)


if __name__ == "__main__":
    main()
