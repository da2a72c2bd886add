#!/usr/bin/env python3
"""Run every stage under every fault, and print what held."""

import fnmatch
import hashlib
import json
import os
import re
import shlex
import shutil
import signal
import socket
import subprocess
import sys
import tarfile
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, NamedTuple

import typer
from fault_stages import STAGES, Stage
from hostile_inputs import HOSTILE, PLAYLIST, USABLE, VICTIM
from rich.console import Console
from rich.table import Table

from asr_with_nemo.cli import run
from asr_with_nemo.data import an4, manifest
from asr_with_nemo.errors import InputError
from asr_with_nemo.own_data import sharding
from asr_with_nemo.recognition.results import save_measurement

ROOT = Path(__file__).resolve().parents[2]
ASSETS = ROOT / "src" / "asr_with_nemo" / "assets"
WITHIN = 15
"""Most seconds that a command may take to end when it is told to; on a busy machine, half of its usual time."""


class Cell(NamedTuple):
    """A stage's folder, and what starts its command there."""

    stage: Stage
    folder: Path
    seconds: float
    """How long the undisturbed command takes."""
    expected: dict[str, str]
    """Its files' digests."""


class Ended(NamedTuple):
    """A command that has ended: its exit status, what it printed, and the seconds since it was told to end."""

    status: int
    text: str
    seconds: float = 0.0


class Fault(Exception):
    """A cell isn't as it should be."""


# --- Commands and folders ---------------------------------------------------------------------------------------------


def _start(
    cell: Cell, log: Path, wrap: str = "", changes: dict[str, str | None] | None = None
) -> subprocess.Popen[bytes]:
    """Start a stage's command in a process group of its own, with the output in `log`.

    Args:
        cell: its stage and folder.
        log: file for what it prints.
        wrap: shell commands that come before it, in a mount namespace of their own.
        changes: environment variables; None removes one.
    """
    script, *arguments = cell.stage.command
    command = [sys.executable, str(ROOT / "scripts" / script), *arguments]
    if wrap:
        command = ["unshare", "--mount", "sh", "-c", f'{wrap}\nexec "$@"', "sh", *command]
    environment = {key: value for key, value in os.environ.items() if not key.startswith(("WANDB_", "AN4_"))}
    environment |= {"WANDB_MODE": "offline", "WANDB_DIR": str(cell.folder / "out"), "OMP_NUM_THREADS": "1"}
    for name, value in (changes or {}).items():
        environment.pop(name, None)
        if value is not None:
            environment[name] = value
    with open(log, "ab") as file:
        return subprocess.Popen(
            command,
            cwd=cell.folder,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=file,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )


def _finish(process: subprocess.Popen, log: Path, within: float) -> Ended:
    started = time.perf_counter()
    try:
        status = process.wait(within)
    except subprocess.TimeoutExpired as error:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        raise Fault(f"still running after {within:.0f} s") from error
    return Ended(status, log.read_text(encoding="utf-8", errors="replace"), time.perf_counter() - started)


def _run(cell: Cell, wrap: str = "", changes: dict[str, str | None] | None = None) -> Ended:
    log = cell.folder / "log"
    log.unlink(missing_ok=True)
    return _finish(_start(cell, log, wrap, changes), log, 60 + 10 * cell.seconds)


def _digests(cell: Cell) -> dict[str, str]:
    """Return name → digest of the files that are the same in every run; a `.nemo` by its members.

    The times in the names of files that are staged for W&B are left out; the newest of several counts.
    """
    found = {}
    for path in sorted((cell.folder / "out").rglob("*")):
        if not path.is_file() or not any(fnmatch.fnmatch(path.name, pattern) for pattern in cell.stage.same):
            continue
        digest = hashlib.sha256()
        if path.suffix == ".nemo":
            with tarfile.open(path) as archive:
                for member in sorted(filter(tarfile.TarInfo.isfile, archive), key=lambda member: member.name):
                    digest.update(member.name.encode() + archive.extractfile(member).read())
        else:
            digest.update(path.read_bytes())
        name = path.relative_to(cell.folder).as_posix()
        found[re.sub(r"(/staging/.*/)\d+", r"\1TIME", name)] = digest.hexdigest()
    return found


def _group_is_alive(group: int) -> bool:
    try:
        os.killpg(group, 0)
    except ProcessLookupError:
        return False
    return True


def _no_traceback(ended: Ended) -> None:
    if "Traceback" in ended.text:
        raise Fault(f"a traceback: {ended.text.strip().splitlines()[-1][:150]}")


def _explained(ended: Ended, name: str, above: bool = False) -> None:
    """Check that a command failed with an error that names a file; or names it above, where each row has its own."""
    _no_traceback(ended)
    if ended.status == 0:
        raise Fault("exit status 0")
    errors = ended.text.rpartition("error: ")[2]
    if name not in (ended.text if above else errors) or errors == ended.text:
        raise Fault(f"the error doesn't name {name}: {ended.text.strip()[-150:]!r}")


def _nothing_half_made(cell: Cell) -> None:
    left = [path.name for path in (cell.folder / "out").rglob("*") if "partial" in path.name]
    if left:
        raise Fault(f"left behind: {', '.join(left[:3])}")


def _works(cell: Cell, changes: dict[str, str | None] | None = None) -> None:
    """Check that the command, given again, ends in the very files of an undisturbed run."""
    ended = _run(cell, changes=changes)
    _no_traceback(ended)
    if ended.status:
        raise Fault(f"afterwards: exit status {ended.status}: {ended.text.strip()[-150:]!r}")
    found = _digests(cell)
    if found != cell.expected:
        different = {name for name in found.keys() | cell.expected.keys() if found.get(name) != cell.expected.get(name)}
        raise Fault(f"other files than undisturbed: {', '.join(sorted(different)[:3])}")
    _nothing_half_made(cell)


# --- Faults -----------------------------------------------------------------------------------------------------------


def _killed(cell: Cell, share: float = 0.6) -> None:
    process = _start(cell, cell.folder / "log")
    _wait(process, share * cell.seconds)
    if process.poll() is not None:
        raise Fault("ended before it was killed; try this cell again when the machine does nothing else")
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    _works(cell)


def _killed_early(cell: Cell) -> None:
    _killed(cell, 0.3)


def _wait(process: subprocess.Popen, seconds: float) -> None:
    try:
        process.wait(seconds)
    except subprocess.TimeoutExpired:
        return


def _told_to_end(cell: Cell, number: signal.Signals, everyone: bool) -> None:
    log = cell.folder / "log"
    process = _start(cell, log)
    _wait(process, 0.6 * cell.seconds)
    finished = process.poll() is not None
    if not finished:
        (os.killpg if everyone else os.kill)(process.pid, number)
    ended = _finish(process, log, max(WITHIN, 0.5 * cell.seconds))
    if not finished and ended.status != 0:
        _no_traceback(ended)
        deadline = time.monotonic() + 5
        while _group_is_alive(process.pid):
            if time.monotonic() > deadline:
                os.killpg(process.pid, signal.SIGKILL)
                raise Fault("a process of it goes on")
            time.sleep(0.05)
        _nothing_half_made(cell)
    _works(cell)


def _interrupted(cell: Cell) -> None:
    _told_to_end(cell, signal.SIGINT, everyone=True)  # what a terminal's Ctrl-C does


def _terminated(cell: Cell) -> None:
    _told_to_end(cell, signal.SIGTERM, everyone=False)  # what a scheduler does


def _full_disk(cell: Cell) -> None:
    size = sum(path.stat().st_size for path in _undisturbed(cell).rglob("*") if path.is_file())
    room = max(4096, size // 3 // 4096 * 4096)
    # What was written into the small file system is copied out, as it would stay on a full disk.
    wrap = f"mkdir small; mount -t tmpfs -o size={room} tmpfs small; mkdir small/out; mount --bind small/out out"
    ended = _run(cell, f"{wrap}\ntrap 'cp -r small/out kept' EXIT; \"$@\"; exit $?")
    kept = cell.folder / "kept"
    _no_traceback(ended)
    if ended.status == 0 and cell.stage.reports:
        pass  # W&B gives up its log, and the training goes on
    elif ended.status == 0:
        raise Fault("exit status 0 on a full disk")
    elif not any(word in ended.text for word in ("space", "full", "disk")):
        raise Fault(f"doesn't say that the disk is full: {ended.text.strip()[-150:]!r}")
    shutil.rmtree(cell.folder / "out")
    kept.rename(cell.folder / "out")
    _nothing_half_made(cell)
    _works(cell)


def _read_only(cell: Cell) -> None:
    ended = _run(cell, "mount --bind out out; mount -o remount,bind,ro out")
    _explained(ended, "out")
    _works(cell)


def _damaged(cell: Cell, content: Callable[[bytes], bytes], may_go_on: bool = False) -> None:
    path = cell.folder / "in" / cell.stage.main
    whole = path.read_bytes()
    path.write_bytes(content(whole))
    ended = _run(cell)
    if may_go_on and ended.status == 0:  # with fewer rows it is another corpus, whose splits a further run would keep
        shutil.rmtree(cell.folder / "out")
        (cell.folder / "out").mkdir()
    else:
        _explained(ended, path.name, cell.stage.by_rows)
    _no_traceback(ended)
    _nothing_half_made(cell)
    path.write_bytes(whole)
    _works(cell)


def _truncated(cell: Cell) -> None:
    _damaged(cell, lambda whole: whole[: len(whole) // 2 - 3], cell.stage.by_rows)


def _corrupt(cell: Cell) -> None:
    _damaged(cell, lambda whole: hashlib.shake_256(whole).digest(min(len(whole), 100_000)))


def _emptied(cell: Cell) -> None:
    _damaged(cell, lambda whole: b"")


def _hostile(cell: Cell) -> None:
    trap, whole = cell.folder / "sprung", cell.folder.parents[1] / "in"
    path = cell.folder / "in" / cell.stage.main
    for number, write in enumerate(HOSTILE[cell.stage.hostile], 1):
        write(path, trap)
        theirs = list(trap.with_name(VICTIM).glob("*"))
        ended = _run(cell)
        if trap.exists() or not all(file.exists() for file in theirs):
            raise Fault(f"what the input {number} asked for was done")
        if ended.status or not (cell.stage.name in _TEXTS_ONLY or write in USABLE):
            # A manifest is right in itself; what it names is not.
            named = next((name for name in (PLAYLIST, trap.name) if name in ended.text), path.name)
            _explained(ended, named, cell.stage.by_rows)
        _no_traceback(ended)
        for folder in ("in", "out"):  # what it made of a hostile input is no part of an undisturbed run's files
            shutil.rmtree(cell.folder / folder)
        _set_up(whole, cell.folder)
    _works(cell)


def _two_at_once(cell: Cell) -> None:
    logs = [cell.folder / f"log{number}" for number in range(2)]
    both = [_start(cell, log) for log in logs]
    ended = [_finish(process, log, 60 + 20 * cell.seconds) for process, log in zip(both, logs, strict=True)]
    for one in ended:
        _no_traceback(one)
    if all(one.status for one in ended):
        raise Fault(f"both failed: {ended[0].text.strip()[-150:]!r}")
    _works(cell)


def _no_home(cell: Cell) -> None:
    _works(cell, {"HOME": None, "XDG_CACHE_HOME": None})


def _no_temporary_folder(cell: Cell) -> None:
    wrap = "for folder in /tmp /var/tmp; do mount -t tmpfs -o ro,size=4k tmpfs $folder; done"
    inside = [folder for folder in ("/tmp", "/var/tmp") if cell.folder.is_relative_to(folder)]
    if inside:
        # The cell stays in sight, in a place that no test needs.
        wrap = f"mount --bind {cell.folder} /mnt; {wrap}; cd /mnt; export WANDB_DIR=/mnt/out"
    ended = _run(cell, wrap, {"TMPDIR": None})
    _no_traceback(ended)
    if ended.status and "tempor" not in ended.text:
        raise Fault(f"the error doesn't name the temporary folder: {ended.text.strip()[-150:]!r}")
    _works(cell)


def _other_locale(cell: Cell) -> None:
    _works(cell, {"LC_ALL": "C", "LANG": "C", "PYTHONUTF8": "0", "PYTHONIOENCODING": None})


def _dead_server(cell: Cell) -> None:
    _works(cell, _online(1))


def _slow_server(cell: Cell) -> None:
    with socket.create_server(("127.0.0.1", 0), backlog=100) as listener:  # takes connections, and never answers
        _works(cell, _online(listener.getsockname()[1]))


def _online(port: int) -> dict[str, str | None]:
    return {"WANDB_MODE": None, "WANDB_API_KEY": "0" * 40, "WANDB_BASE_URL": f"http://127.0.0.1:{port}"}


FAULTS: dict[str, Callable[[Cell], None]] = {
    "kill -9, early": _killed_early,
    "kill -9, late": _killed,
    "SIGINT": _interrupted,
    "SIGTERM": _terminated,
    "full disk": _full_disk,
    "read-only": _read_only,
    "truncated": _truncated,
    "corrupt": _corrupt,
    "empty": _emptied,
    "hostile": _hostile,
    "two at once": _two_at_once,
    "no HOME": _no_home,
    "no /tmp": _no_temporary_folder,
    "locale C": _other_locale,
    "dead server": _dead_server,
    "slow server": _slow_server,
}
"""What is done to a stage, by its name in the table."""
_MOUNTS = {"full disk", "read-only", "no /tmp"}
_SERVERS = {"dead server", "slow server"}
_MARKS = {"ok": "OK", "": "–"}
_TEXTS_ONLY = {"language model"}
"""Stages that open no recording of a manifest, so that they may go on if those are hostile."""


# --- The matrix -------------------------------------------------------------------------------------------------------


def _make_inputs(folder: Path, stages: Sequence[Stage]) -> Path:
    """Make the inputs of all stages from 60 utterances of the built-in corpus."""
    inputs = folder / "in"
    corpus = an4.prepare(folder / "made", source="synthetic", utterances=60, progress=False)
    shutil.copytree(corpus.folder, inputs / "corpus")
    with tarfile.open(inputs / "an4.tar.gz", "w:gz", compresslevel=1) as archive:
        for path in sorted([*corpus.folder.glob("etc/*"), *corpus.folder.rglob("*.sph")]):
            archive.add(path, f"an4/{path.relative_to(corpus.folder)}")
    clips = inputs / "recordings" / "clips"
    clips.mkdir(parents=True)
    rows = ["path,text,speaker"]
    for number, row in enumerate(manifest.read_manifest(corpus.manifest("train"))[:24]):
        shutil.copyfile(row["audio_filepath"], clips / f"{number}.wav")
        rows.append(f"clips/{number}.wav,{row['text']},{row['speaker']}")
    (inputs / "recordings" / "table.csv").write_text("\n".join(rows) + "\n", encoding="utf-8")
    for name in ("an4.nemo", "an4.onnx", "an4.arpa"):
        shutil.copyfile(ASSETS / name, inputs / name)
    train = inputs / "corpus" / "train_manifest.json"
    if any("shards" in stage.main for stage in stages):
        sharding.make(train, sharding.default_place(train), 1, workers=1, progress=False)
    if any(stage.main == "start.ckpt" for stage in stages):
        _make_checkpoint(folder)
    return inputs


def _make_checkpoint(folder: Path) -> None:
    """Train for an epoch, and keep its checkpoint as an input."""
    settings = ("data_dir=in/corpus", "trainer.max_epochs=1", "exp_manager.exp_dir=first", "seed=0")
    command = [sys.executable, str(ROOT / "scripts" / "train.py"), *settings]
    done = subprocess.run(
        command, cwd=folder, env=os.environ | {"WANDB_MODE": "disabled"}, capture_output=True, text=True
    )
    if done.returncode:
        raise InputError(f"no checkpoint to resume from: {done.stderr.strip()[-400:]}")
    last = next((folder / "first").rglob("last.ckpt"))
    shutil.copyfile(last, folder / "in" / "start.ckpt")


def _undisturbed(cell: Cell) -> Path:
    return cell.folder.parent / "undisturbed" / "out"


def _set_up(inputs: Path, folder: Path) -> None:
    shutil.copytree(inputs, folder / "in")
    (folder / "out").mkdir()


@contextmanager
def _workplace(keep: Path | None) -> Iterator[Path]:
    if keep:
        keep.mkdir(parents=True, exist_ok=True)
        if any(keep.iterdir()):
            raise InputError(f"{keep}: isn't empty; name another folder, or remove what an earlier run kept")
        yield keep.absolute()
        return
    with tempfile.TemporaryDirectory() as scratch:
        yield Path(scratch)


def _can_mount() -> bool:
    try:
        return subprocess.run(["unshare", "--mount", "true"], capture_output=True).returncode == 0
    except OSError:
        return False


def try_all(
    stages: Sequence[Stage], faults: Sequence[str], folder: Path, said: Callable[[str], object]
) -> dict[tuple[str, str], str]:
    """Run stages under faults, and return (stage, fault) → "ok", "" where it doesn't apply, or what went wrong.

    Args:
        stages: the rows.
        faults: the columns, names of `FAULTS`.
        folder: where to work; each cell has a folder of its own in it, removed if it held.
        said: called with a line a cell.
    """
    inputs = _make_inputs(folder, stages)
    mounts = _can_mount()
    table = {}
    for stage in stages:
        place = folder / stage.name.replace(" ", "_").replace(",", "")
        _set_up(inputs, place / "undisturbed")
        first = Cell(stage, place / "undisturbed", 60, {})
        started = time.perf_counter()
        ended = _run(first)
        if ended.status:
            raise InputError(f"{stage.name}: fails undisturbed: {ended.text.strip()[-400:]}")
        seconds, expected = time.perf_counter() - started, _digests(first)
        if not expected:
            raise InputError(f"{stage.name}: made none of {', '.join(stage.same)}")
        for fault in faults:
            left_out = stage.only and fault not in stage.only
            if left_out or (fault in _SERVERS and not stage.reports) or (fault in _MOUNTS and not mounts):
                table[stage.name, fault] = ""
                continue
            cell = Cell(stage, place / fault.replace(" ", "_"), seconds, expected)
            _set_up(inputs, cell.folder)
            started = time.perf_counter()
            try:
                FAULTS[fault](cell)
                table[stage.name, fault] = "ok"
                shutil.rmtree(cell.folder)
            except Fault as problem:
                table[stage.name, fault] = str(problem)
            said(f"{stage.name}, {fault}: {table[stage.name, fault]} ({time.perf_counter() - started:.0f} s)")
    return table


def main(
    stage: Annotated[list[str] | None, typer.Option(help="Only stages whose name has this in it.")] = None,
    fault: Annotated[list[str] | None, typer.Option(help="Only faults whose name has this in it.")] = None,
    quick: Annotated[bool, typer.Option("--quick", help="Only the stages that take a second or two.")] = False,
    keep: Annotated[Path | None, typer.Option(help="Work in this folder, and keep the cells with a fault.")] = None,
    output: Annotated[Path | None, typer.Option(help="Write the table to this file too: results/faults.json.")] = None,
    update: Annotated[bool, typer.Option("--update", help="Keep the cells of --output that aren't tried now.")] = False,
) -> None:
    """Run every stage under every fault, each in a folder of its own, and print what held.

    A cell is OK if the command ends in time, says what is wrong and where, without a traceback, leaves nothing
    half-written, and, given again without the fault, ends in the same files as an undisturbed run, to the last bit.
    Disks that are full or can't be written need Linux and root, and are left out elsewhere.

    Examples:

        python scripts/tools/faults.py

        python scripts/tools/faults.py --output results/faults.json

        python scripts/tools/faults.py --stage evaluate --fault hostile --output results/faults.json --update

        python scripts/tools/faults.py --quick --stage corpus --fault SIG --keep build/faults
    """
    if update and not (output and output.is_file()):
        raise InputError("--update keeps what --output has; name a results file that is there")
    # The background of a shell ignores Ctrl-C, and what is started there would, too.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    stages = [one for one in STAGES if (one.quick or not quick) and _asked(one.name, stage)]
    faults = [name for name in FAULTS if _asked(name, fault)]
    started = time.perf_counter()
    with _workplace(keep) as folder:
        cells = try_all(stages, faults, folder, lambda line: print(line, flush=True))
    minutes = (time.perf_counter() - started) / 60
    if update:
        earlier, more = _earlier(output)
        cells, minutes = earlier | cells, minutes + more
    names = [one.name for one in STAGES if any(one.name == stage for stage, _ in cells)]
    rows = [
        {"fault": name} | {one: _MARKS.get(cells.get((one, name), ""), "FAULT") for one in names}
        for name in FAULTS
        if any(name == fault for _, fault in cells)
    ]
    table = Table(title="Stages under faults")
    for column in ("", *names):
        table.add_column(column)
    for row in rows:
        table.add_row(*row.values())
    Console(width=max(100, Console().width)).print(table)
    wrong = {key: problem for key, problem in cells.items() if problem not in ("ok", "")}
    tried = sum(problem != "" for problem in cells.values())
    said = f"{tried} cells in {minutes:.1f} minutes, {tried - len(wrong)} OK, faults: {len(wrong)}"
    print(said)
    if output:
        asked = [
            f" --{name} {shlex.quote(word)}"
            for name, words in (("stage", stage), ("fault", fault))
            for word in words or ()
            if not update
        ]
        save_measurement(
            output,
            "Stages under faults",
            f"Each stage under each fault: {said}. A cell is OK if the command says what is wrong and where, leaves "
            "nothing half-written, does nothing that an input asks for, and, given again, ends in the same files.",
            rows,
            f"python scripts/tools/faults.py{' --quick' * quick}{''.join(asked)} --output results/{output.name}",
            cells=tried,
            ok=tried - len(wrong),
            faults={f"{one}, {name}": problem for (one, name), problem in wrong.items()},
            minutes=round(minutes, 1),
        )
    if wrong:
        raise InputError("; ".join(f"{one}, {name}: {problem}" for (one, name), problem in wrong.items()))


def _earlier(output: Path) -> tuple[dict[tuple[str, str], str], float]:
    """Return the cells of a results file, as `try_all` does, and their minutes."""
    try:
        found = json.loads(output.read_text(encoding="utf-8"))
        results = {mark: result for result, mark in _MARKS.items()}
        cells = {
            (stage, row["fault"]): results[mark] if mark in results else found["faults"][f"{stage}, {row['fault']}"]
            for row in found["rows"]
            for stage, mark in row.items()
            if stage != "fault"
        }
        return cells, found["minutes"]
    except (ValueError, KeyError, TypeError) as error:
        raise InputError(f"{output}: isn't a results file of this command; leave out --update") from error


def _asked(name: str, words: Sequence[str] | None) -> bool:
    return not words or any(word.lower() in name.lower() for word in words)


if __name__ == "__main__":
    run(main)
