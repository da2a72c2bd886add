"""Runs by HTTP to a server that others wrote: openwandb, which takes runs, metrics, configs and direct media.

Its licence (CC BY-NC) makes it a tool for tests only. It loses what artifacts hold, has no sweeps and no public API:
tests/wandb_server.py stands in for those.
"""

import json
import sqlite3
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import httpx
import pytest

from asr_with_nemo.data.an4 import Corpus
from tests.conftest import free_port, run_script

pytest.importorskip("openwandb", reason="is in requirements-dev.txt")

KEY = "local0000000000000000000000000000000000000000"  # which it makes by itself


@dataclass
class OpenWandb:
    """A server on loopback, and what it has taken."""

    url: str
    folder: Path

    def environment(self, project: Path) -> dict[str, str]:
        return {"WANDB_BASE_URL": self.url, "WANDB_API_KEY": KEY, "WANDB_CONFIG_DIR": str(project / "config")}

    def rows(self, question: str, *values: str) -> list[sqlite3.Row]:
        connection = sqlite3.connect(self.folder / "openwandb.db")
        try:
            connection.row_factory = sqlite3.Row
            return connection.execute(question, values).fetchall()
        finally:
            connection.close()

    def run(self, name: str) -> sqlite3.Row:
        (found,) = self.rows("SELECT * FROM runs WHERE display_name = ?", name)
        return found

    def history(self, run: str, metric: str) -> list[float]:
        rows = self.rows("SELECT value FROM metrics WHERE run_id = ? AND key = ? ORDER BY step", run, metric)
        return [row["value"] for row in rows]


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[OpenWandb]:
    folder = tmp_path_factory.mktemp("openwandb")
    port = free_port()
    command = [sys.executable, "-m", "openwandb", "serve", "--host", "127.0.0.1", "--port", str(port)]
    url = f"http://127.0.0.1:{port}"
    with open(folder / "log.txt", "w", encoding="utf-8") as log:
        process = subprocess.Popen(
            [*command, "--data-dir", str(folder), "--base-url", url], stdin=subprocess.DEVNULL, stdout=log, stderr=log
        )
        try:
            for _ in range(300):
                try:
                    httpx.get(url, timeout=1)
                    break
                except httpx.ConnectError:
                    assert process.poll() is None, (folder / "log.txt").read_text()
                    time.sleep(0.1)
            yield OpenWandb(url, folder)
        finally:
            process.terminate()
            process.wait()


@pytest.mark.slow
@pytest.mark.parametrize("way", ["online", "offline and then make sync"])
def test_a_training_is_there(way: str, server: OpenWandb, small_corpus: Corpus, tmp_path: Path):
    name = way.replace(" ", "-")
    environment = server.environment(tmp_path)
    settings = [
        f"data_dir={small_corpus.folder}",
        "trainer.max_epochs=2",
        "+trainer.limit_train_batches=2",
        f"exp_manager.wandb_logger_kwargs.name={name}",
        "exp_manager.wandb_logger_kwargs.log_model=false",
        "tracking.predictions_every=0",
    ]
    offline = {"WANDB_MODE": "offline"} if way != "online" else {}
    done = run_script("train.py", *settings, cwd=tmp_path, **environment, **offline)
    assert done.returncode == 0, done.stderr
    assert KEY not in done.stdout + done.stderr
    if offline:
        sent = run_script("sync.py", cwd=tmp_path, **environment)
        assert "sent: 1" in sent.stdout, sent.stdout + sent.stderr

    run = server.run(name)
    assert run["state"] == "finished"
    config = json.loads(run["config_json"])
    assert config["trainer"]["value"]["max_epochs"] == 2
    assert len(server.history(run["run_id"], "val_wer")) == 2
    assert len(server.history(run["run_id"], "val_loss")) == 2
    assert server.history(run["run_id"], "learning_rate")
    assert not [path for path in tmp_path.rglob("*") if path.is_file() and KEY.encode() in path.read_bytes()]


MEDIA = """
import numpy as np, wandb
from asr_with_nemo import tracking

print(tracking.describe_mode(tracking.configure_wandb()))
with wandb.init(project=tracking.project_name(), name="media") as run:
    sound = np.sin(np.arange(1600) / 5).astype(np.float32)
    picture = np.arange(48, dtype=np.uint8).reshape(4, 4, 3)
    run.log({"sound": wandb.Audio(sound, sample_rate=16000), "mel": wandb.Image(picture)})
"""


@pytest.mark.slow
def test_sound_and_pictures_are_there(server: OpenWandb, tmp_path: Path):
    (tmp_path / "media.py").write_text(MEDIA)
    done = run_script(str(tmp_path / "media.py"), cwd=tmp_path, **server.environment(tmp_path))
    assert done.returncode == 0, done.stderr
    assert done.stdout == "W&B: online, project ASR\n"
    run = server.run("media")
    files = {
        row["name"]: Path(row["path"]) for row in server.rows("SELECT * FROM files WHERE run_id = ?", run["run_id"])
    }
    (sound,) = [path for name, path in files.items() if name.startswith("media/audio/")]
    (picture,) = [path for name, path in files.items() if name.startswith("media/images/")]
    assert sound.read_bytes().startswith(b"RIFF")
    assert picture.read_bytes().startswith(b"\x89PNG")
