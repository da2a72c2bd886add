"""The machine that a program runs on: cores, GPU, package versions; and the log level of the libraries."""

import logging
import math
import os
import platform
import shutil
import subprocess
import warnings
from importlib import metadata
from pathlib import Path

_INSTRUCTION_SETS = {
    "avx2": "AVX2",
    "avx512f": "AVX-512",
    "avx512_bf16": "AVX-512 bf16",
    "amx_bf16": "AMX bf16",
}  # the flag in /proc/cpuinfo, and the usual name


def has_working_gpu() -> bool:
    """Return whether this torch can compute on this machine's NVIDIA GPU; a K80 is visible, but no longer supported.

    Of several processes that share a machine's GPUs, each tries its own: a try takes some of the GPU's memory for good.
    """
    import torch

    if not torch.cuda.is_available():
        return False
    own = os.environ.get("LOCAL_RANK") or os.environ.get("SLURM_LOCALID") or ""
    number = int(own) if own.isdecimal() and int(own) < torch.cuda.device_count() else 0
    try:
        return bool((torch.ones(8, device=f"cuda:{number}") * 2).sum().item() == 16)
    except RuntimeError:
        return False


def quieten() -> None:
    """Limit the logs of NeMo, Lightning and their dependencies to errors."""
    warnings.filterwarnings("ignore")
    for name in ("lightning.pytorch", "lightning.fabric", "pytorch_lightning"):
        logging.getLogger(name).setLevel(logging.ERROR)
        # A package sets its own level when it is imported, perhaps after this call, but not that of its modules.
        logging.getLogger(f"{name}.utilities.rank_zero").setLevel(logging.ERROR)
    # Of several processes that Lightning starts, it ends all with SIGKILL when one has died, and says so here.
    logging.getLogger("lightning.fabric.strategies.launchers.subprocess_script").setLevel(logging.INFO)
    logging.getLogger("hydra.utils").setLevel(logging.CRITICAL)  # it logs errors that it raises, and that NeMo catches
    from nemo.utils import logging as nemo_logging

    nemo_logging.setLevel(nemo_logging.ERROR)


def device_name(device: str = "cpu") -> str:
    """Return the name of the processor, or of the GPU `device`, such as "cuda:0"."""
    if device.startswith("cuda"):
        import torch

        return torch.cuda.get_device_name(device)
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
        return next(line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):  # not Linux, or not x86
        return platform.processor() or platform.machine()


def instruction_sets() -> tuple[str, ...]:
    """Return the processor's instruction sets that decide how fast it trains, the oldest first; empty if unknown.

    Without AVX-512, a training on a CPU takes a multiple of the time; without bf16, it computes in fp32.
    """
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:  # not Linux
        return ()
    flags = set(next((line.partition(":")[2].split() for line in lines if line.startswith("flags")), []))
    return tuple(name for flag, name in _INSTRUCTION_SETS.items() if flag in flags)


def idle_cores(seconds: float = 0.5) -> float:
    """Measure how many of the cores that this process may use are not busy with other processes' work.

    Args:
        seconds: how long is measured.
    """
    import psutil  # the server's image has none

    mine = psutil.Process()
    used = sum(mine.cpu_times()[:2])
    shares = psutil.cpu_percent(seconds, percpu=True)
    used = sum(mine.cpu_times()[:2]) - used
    usable = os.sched_getaffinity(0) if hasattr(os, "sched_getaffinity") else range(len(shares))
    return sum(1 - shares[core] / 100 for core in usable if core < len(shares)) + used / seconds


def time_on_cores() -> tuple[float, float] | None:
    """Return the seconds for which this process's threads have computed, and have waited for a core to compute on.

    None where the system doesn't tell (Linux does).
    """
    computed = waited = 0
    for file in Path("/proc/self/task").glob("*/schedstat"):
        try:
            own = file.read_text(encoding="ascii").split()
        except OSError:  # the thread has ended
            continue
        computed, waited = computed + int(own[0]), waited + int(own[1])
    return (computed / 1e9, waited / 1e9) if computed else None


def describe_machine(device: str) -> dict[str, object]:
    """Return a description of the machine for a results file: device, cores, instruction sets, platform."""
    return {
        "device": device,
        "cores": usable_cores(),
        "instruction_sets": list(instruction_sets()),
        "platform": platform.platform(),
    }


def package_versions() -> dict[str, str]:
    """Return the versions of Python and of the packages that affect results."""
    packages = {name: metadata.version(name) for name in ("torch", "nemo_toolkit", "kaldialign", "scipy")}
    return {"python": platform.python_version(), **packages}


def code_commit() -> str | None:
    """Return the commit of this code, with `-dirty` if code differs from it; None outside a repository.

    Code is what computes: the package, the commands, configs, requirements; not results, texts and notebooks.
    """
    if not shutil.which("git"):
        return None
    git = ["git", "-C", str(Path(__file__).parent)]
    commit = subprocess.run([*git, "rev-parse", "--short=12", "HEAD"], capture_output=True, text=True, check=False)
    if commit.returncode:
        return None
    code = [f":/{name}" for name in ("src", "scripts", "configs", "requirements*", "pyproject.toml")]
    code.append(":(top,exclude)*.md")
    status = [*git, "status", "--porcelain", "--untracked-files=no", "--", *code]
    changed = subprocess.run(status, capture_output=True, text=True, check=False)
    return commit.stdout.strip() + ("-dirty" if changed.returncode or changed.stdout.strip() else "")


def usable_cores() -> int:
    """Return the number of threads that may compute at a time: `OMP_NUM_THREADS` if it is set, else `own_cores`."""
    if os.environ.get("OMP_NUM_THREADS", "").isdecimal():
        return max(1, int(os.environ["OMP_NUM_THREADS"]))
    return own_cores()


def own_cores() -> int:
    """Return the number of cores that this process and those that it starts may use.

    Those of its CPU affinity, limited by the CPU quota of its control group, which `docker run --cpus` sets.
    """
    mine = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, min(mine, _quota() or mine))


def _quota() -> int | None:
    """Return the CPU quota of the control group (version 2), rounded up to whole cores; None without a quota."""
    try:
        quota, period = Path("/sys/fs/cgroup/cpu.max").read_text(encoding="ascii").split()
        return math.ceil(int(quota) / int(period))
    except (OSError, ValueError):  # no such file, or "max": no limit
        return None
