"""A newcomer sets the course up: what is installed, by which commands, and what set-up decides for itself."""

import ast
import hashlib
import importlib.metadata
import importlib.util
import itertools
import json
import os
import re
import shutil
import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path
from types import ModuleType

import pytest
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet

from asr_with_nemo.teaching import frame

ROOT = Path(__file__).resolve().parents[2]


def load_script() -> ModuleType:
    spec = importlib.util.spec_from_file_location("setup_env", ROOT / "scripts" / "setup_env.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


setup_env = load_script()


def names_in(*files: str) -> set[str]:
    return {setup_env.normalized(r.name) for file in files for r in setup_env.read_requirements(ROOT / file)}


def constraints() -> dict[str, str]:
    return {name: pin.version for name, pin in setup_env.read_constraints(ROOT / "constraints.txt").items()}


# What is installed


@pytest.mark.parametrize(("file", "reason"), [("requirements.txt", r"(all|\d\d): \S"), ("requirements-dev.txt", r"\S")])
def test_each_requirement_is_pinned_and_says_why(file, reason):
    lines = (ROOT / file).read_text(encoding="utf-8").splitlines()
    pinned = [line for line in lines if line and not line.startswith(("#", "-r"))]
    for line in pinned:
        assert re.fullmatch(rf"[\w.-]+(\[\w+\])?==[\w.]+ +# {reason}.*", line), f"{file}: {line}"
    assert pinned


def test_constraints_hold_each_requirement_in_the_same_version_and_fit_any_machine():
    held = constraints()
    for requirement in setup_env.read_requirements(ROOT / "requirements-dev.txt"):
        assert held[setup_env.normalized(requirement.name)] == requirement.version, requirement
    assert len(held) > len(names_in("requirements-dev.txt"))
    for name, version in held.items():
        assert re.fullmatch(r"[\w.]+", version), f"{name}: {version!r} is a local version"
    for name, pin in setup_env.read_constraints(ROOT / "constraints.txt").items():
        assert re.search(r"--hash=sha256:[0-9a-f]{64}\b", pin.text), f"{name} has no hash"


def test_constraints_fit_the_python_of_debian_12():
    """Its python3 is 3.11.2; where one pin wants more, pip tries every other version of everything, CUDA included."""
    held = constraints()
    for distribution in importlib.metadata.distributions():
        name, needs = distribution.metadata["Name"], distribution.metadata["Requires-Python"] or ""
        if held.get(setup_env.normalized(name)) == distribution.version:
            assert "3.11.2" in SpecifierSet(needs), f"{name} needs Python {needs}: hold an older one in constraints.txt"


def imported_names(source: str) -> set[str]:
    names = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            names |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.level == 0:
            names.add(node.module.split(".")[0])
    return names


def notebook_source(path: Path) -> str:
    """A notebook's code, without the lines that only IPython understands."""
    cells = json.loads(path.read_text(encoding="utf-8"))["cells"]
    lines = "\n".join("".join(cell["source"]) for cell in cells if cell["cell_type"] == "code").splitlines()
    return "\n".join(line for line in lines if not line.lstrip().startswith(("%", "!")))


@pytest.mark.parametrize(
    ("folders", "file"),
    [(("src", "scripts", "notebooks"), "requirements.txt"), (("tests", "scripts/tools"), "requirements-dev.txt")],
)
def test_whatever_is_imported_is_required(folders, file):
    distributions = importlib.metadata.packages_distributions()
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    extras = itertools.chain(*project["optional-dependencies"].values())  # imported where they are asked for
    required = names_in(file) | {setup_env.normalized(Requirement(extra).name) for extra in extras}
    own = {path.stem for folder in ("scripts", "tests") for path in (ROOT / folder).rglob("*.py")}
    own |= {"asr_with_nemo", "tests", *sys.stdlib_module_names}
    missing = []
    for folder in folders:
        for path in sorted((ROOT / folder).rglob("*")):
            if path.suffix not in (".py", ".ipynb") or ".ipynb_checkpoints" in path.parts:
                continue
            if folder == "scripts" and path.parent.name == "tools":  # for maintainers
                continue
            source = path.read_text(encoding="utf-8") if path.suffix == ".py" else notebook_source(path)
            for name in imported_names(source) - own:
                providers = {setup_env.normalized(d) for d in distributions.get(name, [])}
                if not providers & required:
                    missing.append(f"{path.relative_to(ROOT)}: {name}")
    assert not missing, f"not in {file}: {missing}"


def test_no_file_names_a_registry_or_a_place_on_one_machine():
    # In pieces, so that this file is not among those that are found.
    hosts = ["pypi" + ".org", "python" + "hosted.org", "registry.npm" + "js", "deb.debian" + ".org"]
    places = ["/work/" + "main", "/work/" + "shared", "/root/" + ".pyenv", "/opt/" + "wheels", "/opt/" + "pypi"]
    listing = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    )
    paths = [ROOT / name for name in listing.stdout.split("\0") if name]
    assert ROOT / "Makefile" in paths
    found = []
    for path in paths:
        if path.is_file():
            text = path.read_bytes().decode("utf-8", errors="ignore")
            found += [f"{path.relative_to(ROOT)}: {word}" for word in hosts + places if word in text]
    assert not found


# By which commands


def make(*arguments: str, path: str = os.environ["PATH"]) -> subprocess.CompletedProcess[str]:
    outer = ("MAKEFLAGS", "MAKELEVEL", "PYTHON")  # of the `make test` that runs these tests
    environment = {key: value for key, value in os.environ.items() if key not in outer} | {"PATH": path}
    command = [shutil.which("make"), *arguments]
    return subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)


def test_make_alone_lists_every_command():
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    targets = re.search(r"^\.PHONY: (.*)$", makefile, re.MULTILINE)[1].split()
    listed = re.findall(r"^  ([a-z]+) +[A-Z]", make().stdout, re.MULTILINE)
    assert listed == targets
    assert {"tutorial", "course", "test", "lab", "notebooks", "lint", "help"} <= set(listed)


def test_make_passes_over_a_python_that_does_not_run(tmp_path):
    """pyenv leaves a `python3` that only says that there is none."""
    for name, command in (("python3", "exit 127"), ("python3.12", f'exec "{sys.executable}" "$@"')):
        (tmp_path / name).write_text(f"#!/bin/sh\n{command}\n", encoding="utf-8")
        (tmp_path / name).chmod(0o755)
    done = make("-n", "setup", path=f"{tmp_path}:{os.environ['PATH']}")
    assert "\npython3.12 scripts/setup_env.py" in done.stdout

    (tmp_path / "python3.12").unlink()
    done = make("setup", path=str(tmp_path))
    assert done.returncode != 0
    assert "no Python 3.11, 3.12 or 3.13 is found" in done.stderr


def test_continuous_integration_runs_make_test():
    script = ROOT / ".ci" / "run"
    assert os.access(script, os.X_OK)
    assert subprocess.run(["bash", "-n", script], check=False).returncode == 0
    assert "\nmake test" in script.read_text(encoding="utf-8")
    assert "run: .ci/run" in (ROOT / ".github" / "workflows" / "tests.yml").read_text(encoding="utf-8")


# What set-up decides


@pytest.mark.parametrize("version", [(3, 8, 18), (3, 10, 13), (3, 14, 0)])
def test_another_python_is_told_what_is_needed(version):
    with pytest.raises(setup_env.SetupError, match=r"the course needs 3\.11, 3\.12 or 3\.13"):
        setup_env.check_python(version)


def test_the_python_of_these_tests_will_do():
    setup_env.check_python(sys.version_info)


def test_a_requirement_without_a_version_is_refused_by_file_and_line(tmp_path):
    (tmp_path / "requirements.txt").write_text("# why\nnumpy>=2\n", encoding="utf-8")
    with pytest.raises(setup_env.SetupError, match=r"requirements\.txt:2: 'numpy>=2'"):
        setup_env.read_requirements(tmp_path / "requirements.txt")


def container(folder: Path, **versions: str) -> str:
    """A real environment which lists these distributions as installed; its Python."""
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(folder)], check=True)
    site_packages = next(folder.glob("lib/python*/site-packages"))
    for name, version in versions.items():
        info = site_packages / f"{name}-{version}.dist-info"
        info.mkdir()
        (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n", encoding="utf-8")
    return str(folder / "bin" / "python")


def test_a_containers_torch_stays_and_only_what_is_missing_is_installed(tmp_path):
    python = container(
        tmp_path / "outer", torch="2.8.0a0+5228986c39.nv25.6", numpy="1.26.4", pandas="2.2.3", scipy="1.15.0"
    )
    kept = setup_env.torch_to_keep(python)
    assert kept == {"torch": "2.8.0a0+5228986c39.nv25.6", "numpy": "1.26.4"}

    requirements = setup_env.read_requirements(ROOT / "requirements-dev.txt")
    have = setup_env.installed_versions([r.name for r in requirements], python)
    asked = setup_env.to_install(requirements, have, kept, unpinned=False)
    names = {re.split(r"[=\[]", text)[0] for text in asked}
    # torch and numpy stay, though numpy is of another major version; scipy is near enough, pandas is not.
    assert names == {r.name for r in requirements} - {"torch", "numpy", "scipy"}
    assert any(text.startswith("nemo_toolkit[asr]==") for text in asked)


def test_a_torch_too_old_for_nemo_is_not_kept(tmp_path, capsys):
    assert setup_env.torch_to_keep(container(tmp_path / "outer", torch="1.13.1", numpy="1.26.4")) == {}
    assert "torch 1.13.1 is there, but NeMo needs" in capsys.readouterr().out


def test_without_torch_everything_is_installed_pinned_or_on_request_not():
    requirements = setup_env.read_requirements(ROOT / "requirements-dev.txt")
    have = {"torch": "2.0.0", "numpy": "2.4.6"}  # what an earlier set-up put into .venv is not kept for its own sake
    pinned = setup_env.to_install(requirements, have, {}, unpinned=False)
    assert pinned == [str(r) for r in requirements]
    newest = setup_env.to_install(requirements, have, {}, unpinned=True)
    assert "torch" in newest
    assert "nemo_toolkit[asr]" in newest
    assert not any("==" in text for text in newest)


def test_a_package_that_a_killed_pip_left_incomplete_is_forgotten(tmp_path):
    for name, complete in (("whole-1.0", True), ("half-1.0", False)):
        info = tmp_path / f"{name}.dist-info"
        info.mkdir()
        (info / "METADATA").touch()
        if complete:
            (info / "INSTALLER").touch()
    setup_env.remove_half_installed(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["whole-1.0.dist-info"]


def little_course(folder: Path) -> Path:
    """A course that needs little, with the real set-up."""
    setuptools = constraints()["setuptools"]
    files = {
        "src/little/__init__.py": "",
        "pyproject.toml": '[project]\nname = "little"\nversion = "0.1.0"\n',
        "requirements.txt": f"iniconfig==1.1.1  # all: small\nsetuptools=={setuptools}\n",
        "requirements-dev.txt": "-r requirements.txt\ntoml==0.10.2\n",
        "constraints.txt": "iniconfig==1.1.1\n",
    }
    for name, text in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text, encoding="utf-8")
    (folder / "scripts").mkdir()
    shutil.copy(ROOT / "scripts" / "setup_env.py", folder / "scripts")
    return folder


def test_what_lies_in_the_containers_environment_by_a_path_file_is_found_too(tmp_path):
    """NVIDIA's container has torch in an environment of its own, and NeMo there as a path file to its source."""
    outer = container(tmp_path / "outer", torch="2.12.0", numpy="2.4.6")
    (tmp_path / "source").mkdir()
    (tmp_path / "source" / "editable.py").touch()
    (next((tmp_path / "outer").glob("lib/python*/site-packages")) / "editable.pth").write_text(f"{tmp_path}/source\n")
    code = "import setup_env; from pathlib import Path; setup_env.make_venv(Path('inner'), see_system=True)"
    environment = os.environ | {"PYTHONPATH": str(ROOT / "scripts")}
    subprocess.run([outer, "-c", code], cwd=tmp_path, env=environment, check=True, capture_output=True)
    found = subprocess.run(
        [tmp_path / "inner/bin/python", "-c", "import editable; print(editable.__file__)"],
        capture_output=True,
        text=True,
        check=True,
    )
    assert found.stdout.strip() == f"{tmp_path}/source/editable.py"
    assert setup_env.installed_versions(["torch"], str(tmp_path / "inner/bin/python")) == {"torch": "2.12.0"}


def test_an_environment_of_another_user_is_not_touched(tmp_path, monkeypatch):
    little_course(tmp_path)
    (tmp_path / "venv").mkdir()
    monkeypatch.setattr(os, "access", lambda *_: False)
    with pytest.raises(setup_env.SetupError, match="make docker"):
        setup_env.set_up(tmp_path, tmp_path / "venv", {})


@pytest.mark.slow
def test_the_notebooks_first_cell_sets_up_on_colab_and_leaves_its_python_alone(tmp_path):
    """This Python, with its torch and an iniconfig too new for the little course, stands for Colab's."""
    course = little_course(tmp_path / "little")
    git = ["git", "-C", str(course), "-c", "user.name=a", "-c", "user.email=b"]
    for arguments in (["init", "-q"], ["add", "--all"], ["commit", "-q", "-m", "all"]):
        subprocess.run([*git, *arguments], check=True)
    looks = """
import importlib.metadata, iniconfig, little, torch, shutil, sys, subprocess
print(little.__file__, iniconfig.__file__, torch.__file__, importlib.metadata.version("iniconfig"), sep="\\n")
code = "import iniconfig, little; print(iniconfig.__file__)"
print(subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.strip())
"""
    (tmp_path / "content").mkdir()
    before = importlib.metadata.version("iniconfig")
    cell = frame.hosted_setup(f"file://{course}")
    done = subprocess.run(
        [sys.executable, "-c", cell + looks + "\n" + cell],  # again, as when a reader runs it twice
        cwd=tmp_path / "content",
        env={k: v for k, v in os.environ.items() if k != "PYTHONPATH"} | {"COLAB_RELEASE_TAG": "release"},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    little, iniconfig, torch, version, in_a_program = done.stdout.splitlines()[-5:]
    clone = tmp_path / "content" / "little"
    assert little == f"{clone}/src/little/__init__.py"
    assert iniconfig.startswith(f"{clone}/.venv/")
    assert in_a_program == iniconfig
    assert version == "1.1.1"
    assert not torch.startswith(str(tmp_path))
    assert importlib.metadata.version("iniconfig") == before != version
    assert not list(clone.glob(".venv/lib/python*/site-packages/toml"))  # what only tests need


@pytest.mark.slow
def test_set_up_runs_once_and_again_only_when_the_requirements_change(tmp_path):
    """The whole script, with a course that needs little."""
    little_course(tmp_path)
    python = tmp_path / ".venv" / "bin" / "python"
    plain = {k: v for k, v in os.environ.items() if k not in ("UNPINNED", "TORCH_BACKEND", "COURSE_ONLY")}

    def set_up(by: str | Path = sys._base_executable, **environment: str) -> str:
        command = [by, tmp_path / "scripts" / "setup_env.py"]
        done = subprocess.run(command, env=plain | environment, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    def version(name: str) -> str:
        return setup_env.installed_versions([name], str(python))[name]

    assert ".venv is ready, after" in set_up()
    assert version("iniconfig") == "1.1.1"
    assert version("little") == "0.1.0"

    for file in ("requirements.txt", "constraints.txt"):
        (tmp_path / file).touch()
    assert set_up() == ".venv is ready: the requirements have not changed\n"
    assert set_up(COURSE_ONLY="1") == ".venv is ready: the requirements have not changed\n", "it has more than enough"

    for file in ("requirements.txt", "constraints.txt"):
        path = tmp_path / file
        path.write_text(path.read_text(encoding="utf-8").replace("1.1.1", "2.1.0"), encoding="utf-8")
    # Called by the environment's own Python, as in an activated shell.
    assert ".venv is ready, after" in set_up(by=python)
    assert version("iniconfig") == "2.1.0"

    next(tmp_path.glob(".venv/lib/python*/site-packages/iniconfig-*.dist-info/INSTALLER")).unlink()
    (tmp_path / ".venv" / ".ready").unlink()  # as if it had been killed
    assert ".venv is ready, after" in set_up(COURSE_ONLY="1")
    assert ".venv is ready, after" in set_up(), "the tests need more than the course"
    assert version("iniconfig") == "2.1.0"


def wheel(folder: Path, content: str) -> str:
    """Write a package of one module, tiny 1.0, and return the file's SHA-256."""
    path = folder / "tiny-1.0-py3-none-any.whl"
    files = {
        "tiny.py": content,
        "tiny-1.0.dist-info/METADATA": "Metadata-Version: 2.1\nName: tiny\nVersion: 1.0\n",
        "tiny-1.0.dist-info/WHEEL": "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
    }
    files["tiny-1.0.dist-info/RECORD"] = "".join(f"{name},,\n" for name in (*files, "tiny-1.0.dist-info/RECORD"))
    with zipfile.ZipFile(path, "w") as archive:
        for name, text in files.items():
            archive.writestr(zipfile.ZipInfo(name), text)
    return hashlib.sha256(path.read_bytes()).hexdigest()


@pytest.mark.slow
def test_a_package_that_was_exchanged_is_not_installed(tmp_path):
    """The index that pip asks has another file than the one whose hash is in constraints.txt."""
    course = little_course(tmp_path / "little")
    digest = wheel(tmp_path, "right = True\n")
    setuptools = setup_env.read_constraints(ROOT / "constraints.txt")["setuptools"]
    (course / "requirements-dev.txt").write_text(f"tiny==1.0\nsetuptools=={setuptools.version}\n")
    (course / "constraints.txt").write_text(f"tiny==1.0 \\\n    --hash=sha256:{digest}\n{setuptools.text}")

    def set_up() -> subprocess.CompletedProcess[str]:
        links = f"{tmp_path} {os.environ.get('PIP_FIND_LINKS', '')}"
        environment = {k: v for k, v in os.environ.items() if k not in ("UNPINNED", "TORCH_BACKEND", "COURSE_ONLY")}
        command = [sys._base_executable, course / "scripts" / "setup_env.py"]
        return subprocess.run(
            command, env=environment | {"PIP_FIND_LINKS": links}, capture_output=True, text=True, check=False
        )

    wheel(tmp_path, "wrong = True\n")
    refused = set_up()
    assert refused.returncode == 1
    assert "tiny==1.0" in refused.stderr and digest in refused.stderr
    site_packages = next(course.glob(".venv/lib/python*/site-packages"))
    assert not (site_packages / "tiny.py").exists() and not (course / ".venv" / ".ready").exists()

    wheel(tmp_path, "right = True\n")
    allowed = set_up()
    assert allowed.returncode == 0, allowed.stderr
    assert (site_packages / "tiny.py").read_text() == "right = True\n"
