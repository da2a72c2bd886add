"""docs/article.md: its blocks run in order, on a small corpus, with a stand-in for W&B's server and with none."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.conftest import ROOT
from tests.wandb_server import WandbServer

ARTICLE = (ROOT / "docs" / "article.md").read_text(encoding="utf-8")
NEEDS_ACCOUNT = "<!-- needs an account -->\n"
# W&B's agent asks for work every five seconds; a test has no such patience.
HURRY = "from wandb.agents.pyagent import Agent\nAgent.HEARTBEAT_SLEEP_SECONDS = 0.05\n"
BLOCK = re.compile(rf"({NEEDS_ACCOUNT})?```python\n(.*?)```", re.DOTALL)


def run(folder: Path, program: str, archive: Path, **environment: str) -> str:
    """Run a program in a course's folder, and return what it printed."""
    for name in ("data", "build"):
        (folder / name).mkdir()
    (folder / "configs").symlink_to(ROOT / "configs")
    (folder / "blocks.py").write_text(program, encoding="utf-8")
    known = {key: value for key, value in os.environ.items() if not key.startswith("WANDB_")}
    own = {"AN4_ARCHIVE": str(archive), "HOME": str(folder), "MPLBACKEND": "agg", "WANDB_DATA_DIR": str(folder)}
    done = subprocess.run(
        [sys.executable, "blocks.py"],
        cwd=folder,
        env=known | own | environment,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=600,
    )
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    return done.stdout


@pytest.mark.slow
def test_all_blocks_run_in_order_with_an_account(tmp_path: Path, small_archive: Path):
    program = HURRY + "".join(block for _, block in BLOCK.findall(ARTICLE))
    with WandbServer() as server:
        printed = run(tmp_path, program, small_archive, **server.environment(tmp_path))
        (sweep,) = server.sweeps.values()
        assert len(sweep.trials) == 2
        jasper = server.run("jasper")
        assert jasper.config["model"]["encoder"]["jasper"][0]["stride"] == [2]
        assert any("val_wer" in row for row in jasper.history)
        assert server.artifact(f"model-{jasper.id}:best")
        assert {"predictions", "dataset"} <= {run.display_name for run in server.runs.values()}
    assert re.search(r"WER [\d.]+%, \d+ errors in \d+ words", printed)


@pytest.mark.slow
def test_without_an_account_the_others_run(tmp_path: Path, small_archive: Path):
    blocks = BLOCK.findall(ARTICLE)
    assert sum(bool(marked) for marked, _ in blocks) == 2
    program = "".join(block for marked, block in blocks if not marked)
    printed = run(tmp_path, program, small_archive, WANDB_MODE="offline")
    assert re.search(r"WER [\d.]+%, \d+ errors in \d+ words", printed)


def test_each_section_has_its_code_and_leads_to_a_notebook():
    sections = re.split(r"^## ", ARTICLE, flags=re.MULTILINE)[1:]
    assert len(sections) == 14
    for section in sections:
        title = section.partition("\n")[0]
        assert "```python\n" in section, title
        links = re.findall(r"\(\.\./notebooks/(\w+\.ipynb)\)", section)
        assert links, title
        assert all((ROOT / "notebooks" / link).is_file() for link in links), title


def test_the_blocks_are_formatted():
    program = "\n\n".join(block for _, block in BLOCK.findall(ARTICLE))
    command = [sys.executable, "-m", "ruff", "format", "--check", "--line-length=120", "-"]
    for _, block in BLOCK.findall(ARTICLE):
        done = subprocess.run(command, input=block, capture_output=True, text=True)
        assert done.returncode == 0, block
    compile(program, "article.md", "exec")
