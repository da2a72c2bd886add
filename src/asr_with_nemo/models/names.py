"""Resolve a model's name to its file: models that ship, your own, W&B's, NVIDIA's and Hugging Face's.

Downloaded models are kept in `cache_folder()`, a folder a model, each with the SHA-256 of its file next to it. A second
call finds the file there, verifies it, and needs no network.
"""

import difflib
import functools
import logging
import os
import re
from collections.abc import Sequence
from pathlib import Path

from asr_with_nemo.base.files import write_if_changed
from asr_with_nemo.data.archives import sha256_of
from asr_with_nemo.errors import DownloadFailed, InputError
from asr_with_nemo.tracking import artifacts
from asr_with_nemo.tracking.versions import fetch_model

logger = logging.getLogger(__name__)
ASSETS = Path(__file__).parents[1] / "assets"
BUILT_IN = ("an4",)
"""Names of the models that ship with the course."""
NGC = "https://api.ngc.nvidia.com/v2/models"
"""Base URL of NeMo's models at NVIDIA."""
_NGC_VARIABLE = "NGC_MODELS_URL"  # environment variable: another base URL with the same paths, such as a mirror
_CACHE_VARIABLE = "ASR_MODELS"  # environment variable: another folder for downloaded models
_PATIENCE = 20.0  # seconds until the first byte of a model, over all its URLs
_QUARTZNET = (
    "nvidia/nemo/stt_en_quartznet15x5/versions/1.0.0rc1/files/stt_en_quartznet15x5.nemo",
    "nvidia/nemospeechmodels/versions/1.0.0a5/files/QuartzNet15x5Base-En.nemo",
)
FORGOTTEN = {"QuartzNet15x5Base-En": _QUARTZNET, "stt_en_quartznet15x5": _QUARTZNET}
"""Names that NeMo no longer lists, and the paths of their files on NGC: the newer one, then the older."""
SUMMARY = "training.json"
"""The file next to a trained model that describes its training."""
_HUGGING_FACE_NAME = re.compile(r"[\w-][\w.-]*/[\w-][\w.-]*")
_SUFFIX = re.compile(r"\.[A-Za-z]\w*")  # of a file; the .1b of parakeet-ctc-1.1b is part of a name


def model_path(model: str | os.PathLike, progress: bool = True, suffix: str = ".nemo") -> Path:
    """Return the path of a model's file, downloading it first if needed.

    A model is one of

    - "an4", which ships with the course;
    - the path of a `.nemo`, `.ckpt` or `.onnx` file;
    - "wandb:NAME:ALIAS", which a run has logged (`tracking.fetch`);
    - "QuartzNet15x5Base-En", or one of NeMo's names for a CTC model, such as "stt_en_fastconformer_ctc_large";
    - "ORG/NAME" on Hugging Face, such as "nvidia/parakeet-ctc-0.6b", whose file is NAME.nemo.

    A name without a slash and without a suffix is never taken for a file or folder in the working directory. A name
    with a slash is a path if that path exists or if it begins with a dot.

    Args:
        model: one of the above.
        progress: show a progress bar during a download.
        suffix: of the file of a model that ships: ".nemo", or ".onnx", which needs no NeMo (`deployment.runtime`).

    Raises:
        DownloadFailed: the download of a model failed; the message lists the models that are available.
        InputError: unknown model; the message lists them too.
    """
    name = os.fspath(model)
    path = Path(name)
    if name.startswith(artifacts.PREFIX):
        return fetch_model(name.removeprefix(artifacts.PREFIX))
    if _SUFFIX.fullmatch(path.suffix) or name in ("", ".", ".."):
        return path
    if "/" in name:
        if path.exists() or not _HUGGING_FACE_NAME.fullmatch(name):
            return path
        return _cached(name) or _from_hugging_face(name, progress)
    if name in BUILT_IN:
        return _built_in(name, suffix)
    return _cached(name) or _from_ngc(name, progress)


def cache_folder() -> Path:
    """Return the folder of downloaded models: `ASR_MODELS`, else a folder in the user's cache."""
    if os.environ.get(_CACHE_VARIABLE):
        return Path(os.environ[_CACHE_VARIABLE])
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "asr_with_nemo" / "models"


def cached_models() -> list[str]:
    """Return the names of the downloaded models, sorted."""
    folder = cache_folder()
    files = [*folder.glob("*/*.nemo.sha256"), *folder.glob("*/*/*.nemo.sha256")]
    return sorted(file.parent.relative_to(folder).as_posix() for file in files)


def nemo_models() -> dict[str, str]:
    """Return the CTC models that this NeMo lists: name → URL of the file on NGC."""
    from nemo.collections.asr.models import EncDecCTCModel, EncDecCTCModelBPE

    listed = [*EncDecCTCModel.list_available_models(), *EncDecCTCModelBPE.list_available_models()]
    return {model.pretrained_model_name: model.location for model in listed}


def _built_in(name: str, suffix: str) -> Path:
    file = ASSETS / f"{name}{suffix}"
    if not file.is_file():
        raise InputError(
            f"{name}: this copy of the course lacks the model's file, assets/{file.name} in the package; clone the "
            "whole repository, or train a model with scripts/train.py"
        )
    return file


# --- The cache --------------------------------------------------------------------------------------------------------


def _cached_file(name: str) -> Path:
    return cache_folder() / name / f"{name.rpartition('/')[2]}.nemo"


def _cached(name: str) -> Path | None:
    """Return the file of a model that was downloaded, or copied there by hand; a damaged file is removed."""
    file = _cached_file(name)
    digest = _digest_file(file)
    if not file.is_file():
        return None
    if not digest.is_file():
        return _keep(file)
    if digest.read_text(encoding="utf-8").split()[:1] == [sha256_of(file)]:
        return file
    logger.warning("%s: changed since it was downloaded; removed, and downloaded again", file)
    file.unlink()
    digest.unlink()
    return None


def _digest_file(file: Path) -> Path:
    return file.with_name(f"{file.name}.sha256")


def _keep(file: Path) -> Path:
    """Write the digest of a complete file, in the format of `sha256sum`, and return the file."""
    digest = _digest_file(file)
    try:
        write_if_changed(digest, f"{sha256_of(file)}  {file.name}\n")
    except OSError as error:
        raise InputError(
            f"{digest}: can't be written ({error.strerror}); set {_CACHE_VARIABLE} to a folder that can be"
        ) from error
    return file


# --- Downloads --------------------------------------------------------------------------------------------------------


def _from_ngc(name: str, progress: bool) -> Path:
    """Download a model of NVIDIA's.

    Raises:
        DownloadFailed: the download failed.
        InputError: NeMo lists no such model.
    """
    base = (os.environ.get(_NGC_VARIABLE) or NGC).rstrip("/")
    if name in FORGOTTEN:
        urls = [f"{base}/{path}" for path in FORGOTTEN[name]]
    else:
        known = nemo_models()
        if name not in known:
            near = difflib.get_close_matches(name, [*BUILT_IN, *FORGOTTEN, *known], n=3)
            hint = f"did you mean {' or '.join(near)}? " if near else ""
            raise InputError(
                f"{name}: no such model; {hint}available: {', '.join(BUILT_IN)}, built in; NeMo's CTC models such as "
                "stt_en_fastconformer_ctc_large, Hugging Face's such as nvidia/parakeet-ctc-0.6b; your own as "
                "a .nemo or .ckpt file, as scripts/train.py writes, or as wandb:NAME:ALIAS"
            )
        urls = [known[name].replace(NGC, base)]
    return _download(name, urls, progress)


def _download(name: str, urls: Sequence[str], progress: bool) -> Path:
    # Imported here: a program that only listens has no HTTP client.
    from asr_with_nemo.data.download import DownloadError, download_first

    file = _cached_file(name)
    try:
        download_first(urls, file, give_up_after=_PATIENCE, progress=progress)
    except DownloadError as error:
        raise DownloadFailed(f"{name}: {error}\n{_available()}") from error
    return _keep(file)


def _from_hugging_face(name: str, progress: bool) -> Path:
    """Download NAME.nemo of the model ORG/NAME into the cache, not into Hugging Face's own.

    `HF_ENDPOINT` names a mirror, `HF_TOKEN` (or a login with `hf auth login`) gives access to private and gated models.
    A connection that breaks is resumed by `huggingface_hub`; its notes stay in a folder .cache next to the file.

    Raises:
        DownloadFailed: the download failed.
        InputError: Hugging Face has no such model or file.
    """
    # Imported here: a program that only listens lacks them.
    from huggingface_hub import get_hf_file_metadata, hf_hub_download, hf_hub_url
    from huggingface_hub.errors import HfHubHTTPError
    from tqdm import tqdm

    file = _cached_file(name)
    base = (os.environ.get("HF_ENDPOINT") or "https://huggingface.co").rstrip("/")
    url = f"{base}/{name}"
    try:
        url = hf_hub_url(name, file.name, endpoint=base)
        # Asked first, because without a network hf_hub_download retries for longer than a user waits.
        get_hf_file_metadata(url, timeout=_PATIENCE, endpoint=base)
        bar = functools.partial(tqdm, delay=1.0, disable=not progress)
        hf_hub_download(name, file.name, local_dir=file.parent, endpoint=base, tqdm_class=bar)
        return _keep(file)
    except InputError:
        raise
    except Exception as error:  # of the hub, of its HTTP client, of its storage, of the disk
        status = error.response.status_code if isinstance(error, HfHubHTTPError) else None
        kind = DownloadFailed
        if status in (401, 403, 404):
            kind = InputError
            reason = (
                f"no such file or folder here, and Hugging Face gives no {file.name} ({url} answered {status}); check "
                "there that the name is right and that the model has this file; one that is private or gated (whose "
                "terms you have to accept first) needs HF_TOKEN; a SALM, such as nvidia/canary-qwen-2.5b, has no such "
                "file: NeMo's examples/speechlm2/salm_generate.py runs it"
            )
        else:
            cause = (str(error).strip() or type(error).__name__).splitlines()[0]
            reason = (
                f"{url} could not be downloaded: {cause}. Check the network and the disk and run again, or save the "
                f"file as {file} yourself"
            )
        raise kind(f"{name}: {reason}.\n{_available()}") from error


def _available() -> str:
    """Return the line of an error that lists the models which need no download."""
    cached = ", ".join(cached_models()) or "nothing yet"
    return f"Available without a network: {', '.join(BUILT_IN)}, built in; in {cache_folder()}: {cached}."
