"""A model by its name: the package's, a file, NVIDIA's or Hugging Face's; their servers are replaced by a local one."""

import hashlib
import threading
from collections.abc import Iterator
from pathlib import Path

import huggingface_hub.constants
import numpy as np
import pytest
import torch

from asr_with_nemo.data import an4, download, manifest
from asr_with_nemo.errors import DownloadFailed, InputError
from asr_with_nemo.models import names
from asr_with_nemo.models.loading import load_model
from asr_with_nemo.models.names import FORGOTTEN, NGC, cached_models, model_path, nemo_models
from asr_with_nemo.recognition import decoding
from tests.conftest import pack_nemo
from tests.data.test_download import Handler, Server

NEWER, OLDER = (f"/{path}" for path in FORGOTTEN["QuartzNet15x5Base-En"])


class Hub(Server):
    """Serves the files that it was given, each at its path."""

    def __init__(self) -> None:
        super().__init__()
        self.RequestHandlerClass = HubHandler
        self.files: dict[str, bytes] = {}
        self.asked: list[str] = []
        self.refusal: int | None = None  # the status of every answer to HEAD

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"


class HubHandler(Handler):
    server: Hub

    def do_GET(self) -> None:
        self.server.asked.append(self.path)
        if self.path not in self.server.files:
            return self.head(404, {"Content-Length": "0"})
        self.server.content = self.server.files[self.path]
        super().do_GET()

    def do_HEAD(self) -> None:
        """Answer as Hugging Face does, which is asked for a file's version before the file."""
        self.server.asked.append(self.path)
        self.server.requests.append(dict(self.headers))
        content = self.server.files.get(self.path)
        status = self.server.refusal or (404 if content is None else 200)
        headers = {"X-Repo-Commit": "0" * 40, "ETag": '"1"', "Content-Length": str(len(content or b""))}
        self.head(status, headers if status == 200 else {"Content-Length": "0"})


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    server = Hub()
    threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()
    monkeypatch.setenv("NGC_MODELS_URL", server.url)
    yield server
    server.over.set()
    server.shutdown()
    server.server_close()


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty cache, short pauses, and nothing outside of this machine."""
    monkeypatch.setattr(download, "FIRST_PAUSE", 0.02)
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    monkeypatch.setenv("NGC_MODELS_URL", "http://127.0.0.1:9")  # where nobody listens
    monkeypatch.setenv("ASR_MODELS", str(tmp_path / "models"))
    return tmp_path / "models"


# --- Names and paths --------------------------------------------------------------------------------------------------


def test_a_name_is_a_model_that_ships(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    shipped = names.ASSETS / "an4.nemo"
    monkeypatch.chdir(tmp_path)
    (tmp_path / "an4").mkdir()  # the name of the corpus's folder, say, is no model
    assert model_path("an4") == model_path(Path("an4")) == shipped
    with pytest.raises(InputError, match=r"an4: a folder"):
        load_model("./an4")


def test_a_copy_without_the_model_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(names, "ASSETS", tmp_path)
    with pytest.raises(InputError, match=r"assets/an4\.nemo"):
        model_path("an4")


def test_a_path_stays_as_it_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "runs" / "an4").mkdir(parents=True)
    for path in ("mine.nemo", "runs/last.ckpt", "runs/an4", "./mine", "../mine", "/some/where/mine", "a/b/c"):
        assert model_path(path) == Path(path)


@pytest.mark.slow
def test_a_name_that_nobody_knows_gets_the_nearest_ones():
    with pytest.raises(InputError, match=r"an5: .*an4"):
        model_path("an5")
    with pytest.raises(InputError, match="mean stt_en_fastconformer_ctc_large"):
        model_path("stt_en_fastconformer_ctc_lagre")


# --- NVIDIA's ---------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def old_quartznet(tmp_path_factory: pytest.TempPathFactory) -> tuple[bytes, "torch.nn.Module"]:
    """A file with QuartzNet15x5's layers and random weights, written as NeMo 1.0 did, and the model itself."""
    import io

    import yaml
    from nemo.collections.asr.models import EncDecCTCModel
    from omegaconf import OmegaConf

    def block(filters: int, kernel: int, repeat: int, **more: object) -> dict:
        layers = {"filters": filters, "kernel": [kernel], "repeat": repeat, "stride": [1], "dilation": [1]}
        return layers | {"dropout": 0.0, "residual": repeat > 1, "separable": True} | more

    groups = [(256, 33), (256, 39), (512, 51), (512, 63), (512, 75)]
    blocks = [block(256, 33, 1, stride=[2])]
    blocks += [block(*group, repeat=5) for group in groups for _ in range(3)]
    blocks += [block(512, 87, 1, dilation=[2]), block(1024, 1, 1, separable=False)]
    letters = [*" abcdefghijklmnopqrstuvwxyz'"]
    modules = "nemo.collections.asr.modules"
    features = {"sample_rate": 16_000, "features": 64, "n_fft": 512, "window": "hann", "normalize": "per_feature"}
    features |= {"window_size": 0.02, "window_stride": 0.01, "frame_splicing": 1, "dither": 1e-5, "stft_conv": False}
    parts = {
        "preprocessor": ("AudioToMelSpectrogramPreprocessor", features),
        "spec_augment": ("SpectrogramAugmentation", {"rect_freq": 50, "rect_masks": 5, "rect_time": 120}),
        "encoder": ("ConvASREncoder", {"feat_in": 64, "activation": "relu", "conv_mask": True, "jasper": blocks}),
        "decoder": ("ConvASRDecoder", {"feat_in": 1024, "num_classes": 28, "vocabulary": letters}),
    }
    today = {part: {"_target_": f"{modules}.{name}"} | settings for part, (name, settings) in parts.items()}
    old = {part: {"cls": f"{modules}.{name}", "params": settings} for part, (name, settings) in parts.items()}
    old |= {
        "target": "nemo.collections.asr.models.ctc_models.EncDecCTCModel",
        "train_ds": {"manifest_filepath": "/data/train.json", "labels": letters, "batch_size": 32, "is_tarred": False},
        "optim": {"name": "novograd", "lr": 0.01, "betas": [0.8, 0.5], "sched": {"name": "CosineAnnealing"}},
    }
    torch.manual_seed(0)
    model = EncDecCTCModel(cfg=OmegaConf.create(today | {"labels": letters, "sample_rate": 16_000})).eval()
    weights = io.BytesIO()
    torch.save(model.state_dict(), weights, _use_new_zipfile_serialization=False)
    members = {"./model_config.yaml": yaml.safe_dump(old).encode(), "./model_weights.ckpt": weights.getvalue()}
    file = pack_nemo(tmp_path_factory.mktemp("quartznet") / "old.nemo", members, "w:gz")
    return file.read_bytes(), model


@pytest.mark.slow
def test_quartznet_comes_over_a_bad_line_and_is_then_there_without_one(
    old_quartznet: tuple[bytes, "torch.nn.Module"], hub: Hub, cache: Path, small_corpus: an4.Corpus
):
    content, original = old_quartznet
    hub.files = {OLDER: content}  # the newer file isn't there
    hub.moods = ["breaks", *["503"] * 5]
    with pytest.raises(InputError, match=r"503[\s\S]*an4, .*models: nothing yet"):
        model_path("QuartzNet15x5Base-En", progress=False)
    assert hub.asked[:2] == [NEWER, OLDER]
    assert cached_models() == []

    hub.requests.clear()
    file = model_path("QuartzNet15x5Base-En", progress=False)
    assert hub.ranges_asked() == ["bytes=100000-"]  # goes on where it ended
    assert file.read_bytes() == content
    digest = hashlib.sha256(content).hexdigest()
    assert Path(f"{file}.sha256").read_text(encoding="utf-8") == f"{digest}  QuartzNet15x5Base-En.nemo\n"
    assert sorted(path.name for path in file.parent.iterdir()) == [file.name, f"{file.name}.sha256"]

    hub.files.clear()
    hub.asked.clear()
    model = load_model("QuartzNet15x5Base-En")
    assert hub.asked == []
    assert cached_models() == ["QuartzNet15x5Base-En"]
    # What NeMo 1.0 didn't write down is where NeMo 3 looks for it.
    assert "".join(model.cfg.labels) == " abcdefghijklmnopqrstuvwxyz'"
    assert model.cfg.sample_rate == 16_000
    assert sum(weights.numel() for weights in model.parameters()) == 18_924_381
    sounds = [utterance["audio_filepath"] for utterance in manifest.read_manifest(small_corpus.manifest("dev"))][:2]
    for one, other in zip(decoding.log_probs(model, sounds), decoding.log_probs(original, sounds), strict=True):
        np.testing.assert_array_equal(one, other)
    assert len(model.transcribe(sounds, verbose=False)) == 2


def test_the_newer_file_is_asked_for_first(hub: Hub):
    hub.files = {NEWER: b"newer", OLDER: b"older"}
    assert model_path("QuartzNet15x5Base-En", progress=False).read_bytes() == b"newer"
    assert hub.asked == [NEWER]


def test_a_file_that_was_put_there_by_hand_is_as_good(cache: Path):
    file = cache / "QuartzNet15x5Base-En" / "QuartzNet15x5Base-En.nemo"
    file.parent.mkdir(parents=True)
    file.write_bytes(b"from a colleague")
    assert model_path("QuartzNet15x5Base-En") == file
    assert cached_models() == ["QuartzNet15x5Base-En"]


def test_a_file_that_has_changed_on_the_disk_is_fetched_again(hub: Hub):
    hub.files = {NEWER: b"what was trained"}
    file = model_path("stt_en_quartznet15x5", progress=False)
    file.write_bytes(b"what a disk made of it")
    assert model_path("stt_en_quartznet15x5", progress=False).read_bytes() == b"what was trained"


@pytest.mark.slow
def test_a_name_of_nemos_own_is_fetched_from_where_nemo_says(hub: Hub):
    name = "stt_en_fastconformer_ctc_large"
    path = nemo_models()[name].removeprefix(NGC)
    hub.files = {path: b"a model"}
    assert model_path(name, progress=False).read_bytes() == b"a model"
    hub.files.clear()
    assert model_path(name, progress=False).read_bytes() == b"a model"


def test_without_a_network_the_error_says_what_there_is(hub: Hub, monkeypatch: pytest.MonkeyPatch, cache: Path):
    hub.files = {NEWER: b"newer"}
    model_path("stt_en_quartznet15x5", progress=False)
    monkeypatch.setenv("NGC_MODELS_URL", "http://127.0.0.1:9")
    with pytest.raises(DownloadFailed, match="127.0.0.1:9") as error:
        model_path("QuartzNet15x5Base-En", progress=False)
    message = str(error.value)
    assert message.startswith("QuartzNet15x5Base-En: ")
    assert message.endswith(f"an4, built in; in {cache}: stt_en_quartznet15x5.")


# --- Hugging Face's ---------------------------------------------------------------------------------------------------


@pytest.fixture
def hugging_face(hub: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Hub:
    monkeypatch.setenv("HF_ENDPOINT", hub.url)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_DISABLE_TELEMETRY", True)  # it asks the real server
    monkeypatch.setattr(huggingface_hub.constants, "HF_TOKEN_PATH", str(tmp_path / "no token"))
    monkeypatch.delenv("HF_TOKEN", raising=False)
    return hub


def test_a_model_on_hugging_face_is_kept_like_any_other(
    hugging_face: Hub, cache: Path, monkeypatch: pytest.MonkeyPatch
):
    hugging_face.files = {"/tester/parakeet-1.1b/resolve/main/parakeet-1.1b.nemo": b"a bird"}
    file = model_path("tester/parakeet-1.1b", progress=False)
    assert file == cache / "tester" / "parakeet-1.1b" / "parakeet-1.1b.nemo"
    assert file.read_bytes() == b"a bird"
    assert Path(f"{file}.sha256").read_text(encoding="utf-8").split() == [
        hashlib.sha256(b"a bird").hexdigest(),
        file.name,
    ]
    hugging_face.files.clear()
    hugging_face.asked.clear()
    assert model_path("tester/parakeet-1.1b") == file
    assert hugging_face.asked == []
    assert cached_models() == ["tester/parakeet-1.1b"]

    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    assert model_path("tester/parakeet-1.1b") == file
    with pytest.raises(InputError, match=r"127\.0\.0\.1:9[\s\S]*an4, .*models: tester/parakeet-1\.1b"):
        model_path("tester/parrot", progress=False)
    assert cached_models() == ["tester/parakeet-1.1b"]


def test_a_damaged_model_of_hugging_face_is_fetched_again(hugging_face: Hub):
    hugging_face.files = {"/tester/bird/resolve/main/bird.nemo": b"a bird"}
    model_path("tester/bird", progress=False).write_bytes(b"damaged")
    assert model_path("tester/bird", progress=False).read_bytes() == b"a bird"


def test_a_download_from_hugging_face_survives_a_broken_line(hugging_face: Hub):
    content = bytes(300_000)
    hugging_face.files = {"/tester/bird/resolve/main/bird.nemo": content}
    hugging_face.moods = ["breaks"]
    assert model_path("tester/bird", progress=False).read_bytes() == content


@pytest.mark.parametrize("status", [401, 403, 404, 500])
def test_a_refusal_of_hugging_face_names_the_model_its_url_and_the_token(hugging_face: Hub, status: int):
    hugging_face.refusal = status
    with pytest.raises(InputError, match=rf"tester/parrot: .*/parrot\.nemo.*{status}") as error:
        model_path("tester/parrot", progress=False)
    assert ("HF_TOKEN" in str(error.value)) == (status != 500)
    assert isinstance(error.value, DownloadFailed) == (status == 500)
    assert cached_models() == []


def test_a_token_opens_a_model_on_hugging_face(hugging_face: Hub, monkeypatch: pytest.MonkeyPatch):
    hugging_face.files = {"/tester/secret/resolve/main/secret.nemo": b"psst"}
    monkeypatch.setenv("HF_TOKEN", "hf_a_token")
    model_path("tester/secret", progress=False)
    asked = {name.lower(): value for name, value in hugging_face.requests[-1].items()}
    assert asked["authorization"] == "Bearer hf_a_token"
