#!/usr/bin/env python3
"""Damage files of every kind that the course reads, for some minutes, and record what was found."""

import contextlib
import os
import random
import shutil
import sys
import tempfile
import time
from pathlib import Path
from typing import Annotated

import typer

from asr_with_nemo.cli import run
from asr_with_nemo.errors import InputError
from asr_with_nemo.recognition.results import save_measurement

ROOT = Path(__file__).resolve().parents[2]


def edits_of(draw: random.Random, tokens: list[bytes]) -> list[tuple[float, int, bytes]]:
    """Draw one to four edits, as in `tests/test_fuzz.py`: a place, a number of bytes, and what replaces them."""
    return [
        (
            draw.random(),
            draw.randint(0, 40),
            draw.choice(tokens) if draw.random() < 0.5 else draw.randbytes(draw.randint(0, 8)),
        )
        for _ in range(draw.randint(1, 4))
    ]


def main(
    minutes: Annotated[float, typer.Option(min=0.01, help="How long, shared by all kinds of files.")] = 3.0,
    seed: Annotated[int, typer.Option(help="Of the damage.")] = 0,
    output: Annotated[Path | None, typer.Option(help="Write the figures to this file.")] = None,
) -> None:
    """Damage files of every kind that the course reads: each must be read, or refused with an error that names it.

    The readers are those of tests/test_fuzz.py. A finding is printed as an entry of its list FOUND, where it is kept
    once it is mended.

    Examples:

        python scripts/tools/fuzz.py --minutes 3 --output results/fuzz.json
    """
    sys.path.insert(0, str(ROOT))
    from tests import test_fuzz

    draw, started, rows, findings = random.Random(seed), time.perf_counter(), [], []
    kinds = list(test_fuzz.READERS)
    with tempfile.TemporaryDirectory() as scratch, contextlib.chdir(scratch):
        for number, kind in enumerate(kinds, 1):
            tried, found, ends = 0, 0, started + 60 * minutes * number / len(kinds)
            while time.perf_counter() < ends or not tried:
                edits = edits_of(draw, test_fuzz.TOKENS)
                tried += 1
                try:
                    test_fuzz.check(kind, edits, Path(scratch) / "case")
                    if strays := set(os.listdir()) - {"case"}:
                        for stray in strays:
                            (shutil.rmtree if os.path.isdir(stray) else os.remove)(stray)
                        raise AssertionError(f"something was written: {sorted(strays)}")
                except Exception as error:  # whatever a reader raises that is no InputError
                    found += 1
                    findings.append(f"({kind!r}, {edits!r}),  # {type(error).__name__}: {str(error)[:200]}")
                    print(findings[-1], flush=True)
            rows.append({"kind of file": kind, "inputs": f"{tried:,}", "findings": str(found)})
    took = (time.perf_counter() - started) / 60
    inputs = sum(int(row["inputs"].replace(",", "")) for row in rows)
    print(f"{inputs:,} inputs of {len(kinds)} kinds in {took:.1f} minutes, findings: {len(findings)}")
    if output:
        save_measurement(
            output,
            "Damaged files",
            f"{inputs:,} files of {len(kinds)} kinds, each damaged in one to four places, in {took:.1f} minutes on one "
            f"core: {len(findings)} that were neither read nor refused with an error that names the file. "
            f"{len(test_fuzz.FOUND)} earlier findings are mended and kept as tests.",
            rows,
            f"python scripts/tools/fuzz.py --minutes {minutes:g} --seed {seed} --output results/{output.name}",
            inputs=inputs,
            minutes=round(took, 2),
            findings=findings,
            kept=len(test_fuzz.FOUND),
            seed=seed,
        )
    if findings:
        raise InputError(f"{len(findings)} findings: mend them, and keep them in FOUND of tests/test_fuzz.py")


if __name__ == "__main__":
    run(main)
