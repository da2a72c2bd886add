"""The containers: their files are sound, nothing listens for everybody, and `make docker` picks what fits."""

import importlib.metadata
import json
import os
import re
import shutil
import subprocess
import tomllib
from pathlib import Path

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from tests.conftest import ROOT, put, stand_in

DOCKER = ROOT / "docker"
COMPOSE = yaml.safe_load((DOCKER / "compose.yaml").read_text(encoding="utf-8"))
SERVICES = COMPOSE["services"]
DOCKERFILES = ["Dockerfile", "Dockerfile.cpu", "Dockerfile.serve"]
COURSE = {"cpu", "gpu"}
"""The services with the course in them; the other one is the server."""


def instructions(name: str) -> list[str]:
    """A Dockerfile's instructions, each on a line, without comments."""
    lines = [line for line in (DOCKER / name).read_text(encoding="utf-8").splitlines() if not line.startswith("#")]
    return [line for line in "\n".join(lines).replace("\\\n", " ").splitlines() if line.strip()]


# The files


@pytest.mark.parametrize("name", DOCKERFILES)
def test_hadolint_finds_nothing(name: str):
    # The wheel's program lies beside this Python.
    hadolint = Path(shutil.which("hadolint", path=f"{Path(os.sys.executable).parent}:{os.environ['PATH']}"))
    done = subprocess.run([hadolint, DOCKER / name], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout
    assert done.stdout == ""


def compose() -> list[str] | None:
    """Docker's compose, the plugin or the older program; both read a file without an engine."""
    for command in (["docker", "compose"], ["docker-compose"]):
        if shutil.which(command[0]) and subprocess.run([*command, "version"], capture_output=True).returncode == 0:
            return command
    return None


@pytest.mark.skipif(compose() is None, reason="no compose here (Debian: docker-compose)")
@pytest.mark.parametrize("profile", SERVICES)
def test_compose_reads_its_file(profile: str):
    command = [*compose(), "--file", DOCKER / "compose.yaml", "--profile", profile, "config"]
    secrets = {"JUPYTER_TOKEN": "abc", "ASR_API_KEY": "def"}
    done = subprocess.run(command, env=os.environ | secrets, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    service = yaml.safe_load(done.stdout)["services"][profile]
    assert ("JUPYTER_TOKEN" if profile in COURSE else "ASR_API_KEY") in str(service["environment"])
    for token in ("", None):
        environment = {key: value for key, value in os.environ.items() if key != "JUPYTER_TOKEN"}
        environment |= {} if token is None else {"JUPYTER_TOKEN": token}
        refused = subprocess.run(command, env=environment, capture_output=True, text=True)
        assert refused.returncode != 0
        assert "make docker" in refused.stderr


@pytest.mark.parametrize("script", sorted(DOCKER.glob("*.sh")), ids=lambda path: path.name)
def test_scripts_are_programs_of_bash(script: Path):
    assert os.access(script, os.X_OK) or script.name == "on_instance.sh"  # which is sent, not called
    assert subprocess.run(["bash", "-n", script]).returncode == 0


def test_the_articles_limits_hold_for_the_gpu():
    gpu = SERVICES["gpu"]
    assert gpu["shm_size"] == "16gb"
    assert gpu["ulimits"] == {"memlock": -1, "stack": 67108864}
    (device,) = gpu["deploy"]["resources"]["reservations"]["devices"]
    assert device == {"driver": "nvidia", "count": "all", "capabilities": ["gpu"]}
    for name, service in SERVICES.items():
        assert service["profiles"] == [name]
        assert ("..:/course" in service.get("volumes", [])) == (name in COURSE)
        assert (DOCKER / service["build"]["context"] / service["build"]["dockerfile"]).resolve().is_file()


def test_the_base_images_are_arguments_with_a_release_as_default():
    assert "ARG NEMO_IMAGE=nvcr.io/nvidia/nemo-speech:26.07.00" in instructions("Dockerfile")
    bases = {line for name in DOCKERFILES[1:] for line in instructions(name) if line.startswith("ARG PYTHON_IMAGE")}
    assert re.fullmatch(r"ARG PYTHON_IMAGE=python:3\.1\d-slim-\w+", bases.pop()) and not bases
    for name in DOCKERFILES:
        assert not any(":latest" in line for line in instructions(name))


@pytest.mark.parametrize("name", DOCKERFILES)
def test_images_run_as_somebody(name: str):
    assert [line for line in instructions(name) if line.startswith("USER ")][-1] == "USER 1000:1000"


@pytest.mark.parametrize("name", DOCKERFILES[:2])
def test_a_notebook_makes_no_new_layer_of_packages(name: str):
    lines = instructions(name)
    whole = next(number for number, line in enumerate(lines) if re.match(r"COPY .* \. \.$", line))
    packages = next(number for number, line in enumerate(lines) if "setup_env.py --venv" in line)
    assert packages < whole
    copied = " ".join(line for line in lines[:packages] if line.startswith("COPY"))
    for file in ("requirements.txt", "constraints.txt", "setup_env.py"):
        assert file in copied


def test_the_server_is_small_and_locked_up():
    lines = instructions("Dockerfile.serve")
    last = len(lines) - [line.startswith("FROM ") for line in reversed(lines)].index(True)
    assert not [line for line in lines[last:] if line.startswith("RUN ")]  # no tool is left in it
    assert [line for line in lines[last:] if line.startswith("COPY ")] == ["COPY --from=build /opt/serve /opt/serve"]
    assert any(line.startswith("HEALTHCHECK ") and "/healthz" in line for line in lines)
    packages = next(number for number, line in enumerate(lines) if "--constraint constraints.txt" in line)
    assert packages < lines.index("COPY src src")
    serve = SERVICES["serve"]
    assert serve["read_only"] and serve["tmpfs"] == "/tmp" and serve["cap_drop"] == ["ALL"]


IN_THE_IMAGE = """
import importlib.abc, importlib.metadata, sys
there = set(sys.argv[2:])
providers = importlib.metadata.packages_distributions()


class OnlyThose(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path, target=None):
        names = {one.lower().replace("_", "-") for one in providers.get(name.partition(".")[0], [])}
        if names and not names & there:
            raise ModuleNotFoundError(f"{name} is not in the image", name=name)


sys.meta_path.insert(0, OnlyThose())
sys.path[0] = sys.argv[1]
import python_multipart, serve, transcribe, uvicorn.protocols.websockets.auto
from asr_with_nemo.deployment import app, runtime
from asr_with_nemo.recognition import beam, decoding
recognizer = runtime.Recognizer("an4")
search = beam.load(decoding.language_model_path("an4"), recognizer.labels)
app.create_app(recognizer, search)
"""


def test_what_the_server_imports_is_all_in_its_image():
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]["optional-dependencies"]
    there, asked = {"asr-with-nemo"}, [Requirement(line) for line in extras["serve"]]
    while asked:
        name = canonicalize_name(asked.pop().name)
        if name not in there:
            there.add(name)
            lines = map(Requirement, importlib.metadata.requires(name) or [])
            asked += [line for line in lines if not line.marker or line.marker.evaluate({"extra": ""})]
    assert not there & {"torch", "nemo-toolkit", "wandb", "pandas", "httpx"}
    done = subprocess.run(
        [os.sys.executable, "-c", IN_THE_IMAGE, ROOT / "scripts", *there], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr


def test_what_is_made_or_secret_stays_out_of_the_image():
    ignored = (ROOT / ".dockerignore").read_text(encoding="utf-8").splitlines()
    assert {".git", ".venv", "build", "data/*", "runs", "wandb"} <= set(ignored)


def test_the_devcontainer_is_the_image_for_the_cpu_with_what_tests_need():
    text = (ROOT / ".devcontainer/devcontainer.json").read_text(encoding="utf-8")
    config = json.loads(re.sub(r"^\s*//.*$", "", text, flags=re.MULTILINE))
    dockerfile = (ROOT / ".devcontainer" / config["build"]["dockerfile"]).resolve()
    assert dockerfile == DOCKER / "Dockerfile.cpu"
    assert config["build"]["args"] == {"COURSE_ONLY": ""}
    assert config["workspaceFolder"] == "/course"
    assert f"useradd --uid 1000 --home-dir /home/course --no-create-home --shell /bin/bash {config['remoteUser']}" in (
        dockerfile.read_text()
    )


# Who may listen


def test_nothing_is_published_but_on_this_machine_and_with_a_token():
    assert SERVICES["serve"]["ports"] == ["127.0.0.1:${PORT:-8000}:8000"]
    assert SERVICES["serve"]["environment"] == ["ASR_API_KEY"]  # without which the server doesn't start
    assert all("network_mode" not in service for service in SERVICES.values())
    for service in (SERVICES[name] for name in COURSE):
        assert service["ports"] == ["127.0.0.1:${PORT:-8888}:8888"]
        (token,) = [entry for entry in service["environment"] if entry.startswith("JUPYTER_TOKEN")]
        # `:?` refuses an empty one as well as none.
        assert re.fullmatch(r"JUPYTER_TOKEN=\$\{JUPYTER_TOKEN:\?.+\}", token)


def test_everybodys_address_stands_only_inside_the_containers():
    listing = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    ).stdout.split("\0")
    named = set()
    for name in listing:
        path = ROOT / name
        if name and path.is_file() and not name.startswith("tests/"):
            text = path.read_text(encoding="utf-8", errors="ignore")
            for line in text.splitlines():
                if "0.0.0.0" in line and not line.lstrip().startswith("#"):
                    named.add((name, line.strip()))
    lab = 'CMD ["make", "lab", "LISTEN=0.0.0.0", "LAB_OPTIONS=--no-browser"]'
    serve = (
        'ENTRYPOINT ["python", "/opt/serve/scripts/serve.py", "--host=0.0.0.0"]'  # which asks for a key: test_serving
    )
    assert named == {("docker/Dockerfile", lab), ("docker/Dockerfile.cpu", lab), ("docker/Dockerfile.serve", serve)}
    # And nobody takes the token away.
    for name in ("Makefile", "docker/compose.yaml", "docker/on_instance.sh", "docker/start.sh", *DOCKERFILES):
        text = (DOCKER / name if name in DOCKERFILES else ROOT / name).read_text(encoding="utf-8")
        assert not re.search(r"token\s*=\s*(''|\"\")|disable_check|--IdentityProvider|allow_unauth", text)


def test_make_lab_listens_on_this_machine_only():
    lines = subprocess.run(["make", "-n", "lab"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    assert "--ServerApp.ip=127.0.0.1" in lines


# make docker

ENGINE = """
case "$*" in
    "compose version"*|"info") echo "$RUNTIMES" ;;
    *) echo "docker $*"; env | grep -E '^(JUPYTER_TOKEN|ASR_API_KEY|PORT|COURSE_USER)=' ;;
esac
"""
NVIDIA_SMI = 'case "$*" in -L) echo "GPU 0: a GPU" ;; *) echo "$CAPABILITY" ;; esac'


def make_docker(folder: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    """`make docker` on a machine whose only programs are those in `folder` and the system's."""
    for tool in ("bash", "env", "id", "od", "tr", "grep", "sort", "head", "dirname", "sh", "make"):
        if not (folder / tool).exists():
            (folder / tool).symlink_to(shutil.which(tool))
    kept = {
        key: value
        for key, value in os.environ.items()
        if key not in ("JUPYTER_TOKEN", "ASR_API_KEY", "PORT", "PROFILE")
    }
    return subprocess.run(
        ["make", "docker"],
        cwd=ROOT,
        env=kept | {"PATH": str(folder)} | environment,
        capture_output=True,
        text=True,
    )


@pytest.mark.parametrize(
    ("capability", "runtimes", "profile", "why"),
    [
        (None, "runc", "cpu", "No NVIDIA GPU is found"),
        ("8.6", "Runtimes: nvidia runc", "gpu", ""),
        ("8.6", "Runtimes: runc", "cpu", "Container Toolkit"),
        ("3.7", "Runtimes: nvidia runc", "cpu", "compute capability is 3.7; CUDA 13 needs 7.5"),
        ("12.0", "Runtimes: nvidia runc", "gpu", ""),
    ],
)
def test_make_docker_picks_what_fits(tmp_path: Path, capability: str | None, runtimes: str, profile: str, why: str):
    folder = stand_in(tmp_path, "docker", ENGINE)
    if capability:
        stand_in(tmp_path, "nvidia-smi", NVIDIA_SMI)
    done = make_docker(folder, RUNTIMES=runtimes, CAPABILITY=capability or "")
    assert done.returncode == 0, done.stderr
    assert why in done.stderr
    command = next(line for line in done.stdout.splitlines() if line.startswith("docker compose"))
    assert command == (
        f"docker compose --project-name asr-with-nemo --file docker/compose.yaml --profile {profile} up --build"
    )
    # A token is made, handed on, and told.
    token = re.search(r"^JUPYTER_TOKEN=([0-9a-f]{48})$", done.stdout, re.MULTILINE)[1]
    assert f"http://127.0.0.1:8888/lab?token={token}" in done.stdout
    assert f"COURSE_USER={os.getuid()}:{os.getgid()}" in done.stdout


def test_each_start_has_another_token_unless_one_is_given(tmp_path: Path):
    folder = stand_in(tmp_path, "docker", ENGINE)
    tokens = {re.search(r"^JUPYTER_TOKEN=(\w+)$", make_docker(folder).stdout, re.MULTILINE)[1] for _ in range(2)}
    assert len(tokens) == 2
    done = make_docker(folder, JUPYTER_TOKEN="mine", PORT="8890", PROFILE="gpu")
    assert "http://127.0.0.1:8890/lab?token=mine" in done.stdout
    assert "--profile gpu" in done.stdout


def test_the_server_gets_a_key(tmp_path: Path):
    folder = stand_in(tmp_path, "docker", ENGINE)
    done = make_docker(folder, PROFILE="serve")
    assert done.returncode == 0, done.stderr
    key = re.search(r"^ASR_API_KEY=([0-9a-f]{48})$", done.stdout, re.MULTILINE)[1]
    assert f"http://127.0.0.1:8000/, with the API key\n    {key}\n" in done.stdout
    assert "--profile serve" in done.stdout and "PORT=8000" in done.stdout.split()
    assert "ASR_API_KEY=mine" in make_docker(folder, PROFILE="serve", ASR_API_KEY="mine").stdout


def test_make_docker_says_what_is_missing(tmp_path: Path):
    put(tmp_path / "nothing", "")
    assert "no docker here" in make_docker(tmp_path).stderr
    stand_in(tmp_path, "docker", '[ "$1" = info ]')
    assert "no compose" in make_docker(tmp_path).stderr
    stand_in(tmp_path, "docker", '[ "$1" = compose ]')
    assert "engine doesn't answer" in make_docker(tmp_path).stderr
    stand_in(tmp_path, "docker", ENGINE)
    done = make_docker(tmp_path, PROFILE="tpu")
    assert "expected cpu, gpu or serve" in done.stderr
    assert done.returncode != 0
