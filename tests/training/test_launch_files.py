"""The files of configs/launch do on a cluster what they say: here, processes on one machine stand for machines."""

import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import yaml

from asr_with_nemo.training.launch import Launch, launched
from tests.conftest import ROOT, free_port, put, stand_in

FILES = ROOT / "configs" / "launch"
LOOKS = """
import json, os
kinds = ("RANK", "WORLD", "LOCAL", "TORCHELASTIC", "SLURM")
print(json.dumps({name: value for name, value in os.environ.items() if name.startswith(kinds)}), flush=True)
"""
"""A training that only prints what it would find."""


def seen(said: str) -> list[dict[str, str]]:
    """What each process printed; two that print at once may share a line."""
    return [json.loads(one) for one in re.findall(r"\{[^{}\n]*\}", said)]


def ran_on_machines(commands: list[list[str]], folder: Path, environments: list[dict[str, str]]) -> str:
    """Run a command for each machine at once; return what all of them printed."""
    bare = os.environ | {"PATH": "/usr/bin:/bin", "OMP_NUM_THREADS": "1"}  # no environment is active in an image
    processes = [
        subprocess.Popen(
            command,
            cwd=folder,
            env=bare | own,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        for command, own in zip(commands, environments, strict=True)
    ]
    said = [process.communicate(timeout=120)[0] for process in processes]
    assert [process.returncode for process in processes] == [0] * len(processes), said
    return "".join(said)


@pytest.mark.slow
def test_kubernetes_starts_a_process_for_each_gpu_on_each_machine(tmp_path: Path):
    service, volume, job = yaml.safe_load_all((FILES / "kubernetes.yaml").read_text())
    spec, pod = job["spec"], job["spec"]["template"]["spec"]
    (container,) = pod["containers"]
    given = {entry["name"]: entry.get("value") for entry in container["env"]}
    assert spec["parallelism"] == spec["completions"] == int(given["NODES"]) == 2
    assert int(given["GPUS"]) == container["resources"]["limits"]["nvidia.com/gpu"]
    # A pod is found by name only in a service without an address that selects it, and has its name as subdomain.
    assert service["spec"]["clusterIP"] == "None"
    assert service["metadata"]["name"] == pod["subdomain"]
    assert service["spec"]["selector"] == {"job-name": job["metadata"]["name"]}
    assert f"--master-addr={job['metadata']['name']}-0.{pod['subdomain']}" in container["args"]
    assert volume["metadata"]["name"] == pod["volumes"][0]["persistentVolumeClaim"]["claimName"]
    assert volume["spec"]["accessModes"] == ["ReadWriteMany"]

    image = (ROOT / "docker/Dockerfile").read_text()
    python, *starts = container["command"]
    assert python == re.search(r" VENV=(\S+)", image)[1] + "/bin/python"
    assert f"USER {pod['securityContext']['fsGroup']}:" in image

    script, port = put(tmp_path / "looks.py", LOOKS), free_port()
    commands = []
    for machine in ("0", "1"):
        known = {"NODES": "2", "GPUS": "2", "JOB_COMPLETION_INDEX": machine}
        words = [re.sub(r"\$\((\w+)\)", lambda name, known=known: known[name[1]], word) for word in container["args"]]
        end = words.index("scripts/train.py")
        words = [word for word in words[:end] if not word.startswith("--master")]
        commands.append(
            [sys.executable, *starts, *words, "--master-addr=127.0.0.1", f"--master-port={port}", str(script)]
        )
    found = seen(ran_on_machines(commands, tmp_path, [{}, {}]))
    assert sorted(one["RANK"] for one in found) == ["0", "1", "2", "3"]
    assert [launched(one) for one in found] == [Launch("torchrun", 4, 2)] * 4


@pytest.mark.slow
def test_skypilot_starts_a_process_for_each_gpu_on_each_machine(tmp_path: Path):
    task = yaml.safe_load((FILES / "skypilot.yaml").read_text())
    assert {"name", "num_nodes", "resources", "setup", "run"} <= set(task)
    bucket = next(iter(task["file_mounts"]))
    assert f"exp_manager.exp_dir={bucket}/" in task["run"]  # what is left of a machine that is taken away
    assert task["envs"]["WANDB_DIR"] == bucket

    (tmp_path / ".venv").symlink_to(sys.prefix)
    (tmp_path / "scripts").mkdir()
    put(tmp_path / "scripts/train.py", LOOKS)
    run = task["run"].replace("29500", str(free_port()))
    shared = {
        "SKYPILOT_NUM_NODES": "2",
        "SKYPILOT_NUM_GPUS_PER_NODE": "2",
        "SKYPILOT_NODE_IPS": "127.0.0.1\n127.0.0.1",
    }
    environments = [shared | {"SKYPILOT_NODE_RANK": rank} for rank in ("0", "1")]
    found = seen(ran_on_machines([["bash", "-c", run]] * 2, tmp_path, environments))
    assert [launched(one) for one in found] == [Launch("torchrun", 4, 2)] * 4


def slurm(folder: Path, srun: str) -> dict[str, str]:
    """A folder with a course whose training only looks around, and Slurm's programs of which only a shadow is here."""
    (folder / ".venv").symlink_to(sys.prefix)
    (folder / "scripts").mkdir()
    put(folder / "scripts/train.py", LOOKS)
    stand_in(folder / "bin", "srun", srun)
    stand_in(folder / "bin", "scontrol", 'echo "scontrol $*"')
    return os.environ | {"PATH": f"{folder / 'bin'}{os.pathsep}{os.environ['PATH']}", "SLURM_JOB_ID": "7"}


SRUN = """
while [ "${1#-}" != "$1" ]; do shift; done
export SLURM_NTASKS=8 SLURM_STEP_ID=0 SLURM_STEP_NUM_NODES=2 SLURM_JOB_NAME=asr
"$@"
"""


def test_slurms_script_starts_the_training_with_srun_and_ends_as_it_does(tmp_path: Path):
    environment = slurm(tmp_path, SRUN)
    command = ["bash", str(FILES / "slurm.sh"), "trainer.max_epochs=1"]
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert [launched(one) for one in seen(done.stdout)] == [Launch("srun", 8, 2)]
    put(tmp_path / "scripts/train.py", "raise SystemExit(3)")
    assert subprocess.run(command, cwd=tmp_path, env=environment).returncode == 3
    text = (FILES / "slurm.sh").read_text()
    looks = "import os\nprint('cores', os.environ['SRUN_CPUS_PER_TASK'])"
    put(tmp_path / "scripts/train.py", looks)
    cores = {"SLURM_CPUS_PER_TASK": "8"}  # as sbatch sets it, which srun doesn't read
    assert subprocess.check_output(command, cwd=tmp_path, env=environment | cores, text=True) == "cores 8\n"
    tasks, gpus = (re.search(rf"#SBATCH --{name}-per-node=(\d+)", text)[1] for name in ("ntasks", "gpus"))
    assert tasks == gpus  # a process for each GPU


def test_slurms_script_queues_the_job_again_before_its_time_is_up(tmp_path: Path):
    environment = slurm(tmp_path, 'echo begun; sleep 2; echo "stopped by Slurm"; exit 1')
    process = subprocess.Popen(
        ["bash", str(FILES / "slurm.sh")], cwd=tmp_path, env=environment, stdout=subprocess.PIPE, text=True
    )
    assert process.stdout.readline() == "begun\n"
    time.sleep(0.2)  # until the shell waits
    process.send_signal(signal.SIGUSR1)
    said, _ = process.communicate(timeout=60)
    assert said.splitlines() == ["out of time: the job is queued again", "scontrol requeue 7", "stopped by Slurm"]
    assert process.returncode == 1
