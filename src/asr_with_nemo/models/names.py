"""What a model can be called by, and the file that it is: models that ship, your own, W&B's, NVIDIA's, Hugging Face's.

The reader meets ready-made models after the data, but everything that takes a model takes a name; so this stands before
`decoding`, which imports it, and is the one place where names are resolved.

What is downloaded is kept in `cache_folder()`, a folder a model, with the file's SHA-256 beside it. A second call finds
it there, makes sure that it is still what was downloaded, and needs no network.
"""

import difflib
import logging
import os
import re
from collections.abc import Mapping, Sequence
from pathlib import Path

from asr_with_nemo.base.files import write_if_changed
from asr_with_nemo.data.archives import sha256_of
from asr_with_nemo.errors import InputError
from asr_with_nemo.tracking import artifacts
from asr_with_nemo.tracking.versions import fetch_model

logger = logging.getLogger(__name__)
ASSETS = Path(__file__).parents[1] / "assets"
BUILT_IN = ("an4",)
"""The models that ship with the course, by name."""
NGC = "https://api.ngc.nvidia.com/v2/models"
"""Where NVIDIA keeps NeMo's models."""
NGC_VARIABLE = "NGC_MODELS_URL"
"""The environment variable that names another place with the same paths below it, a mirror say."""
HUGGING_FACE = "https://huggingface.co"
"""Where Hugging Face is, unless HF_ENDPOINT says otherwise."""
CACHE_VARIABLE = "ASR_MODELS"
"""The environment variable that names another folder for what is downloaded."""
PATIENCE = 20.0
"""Seconds until the first byte of a model, over all the places where it may be."""
_QUARTZNET = (
    "nvidia/nemo/stt_en_quartznet15x5/versions/1.0.0rc1/files/stt_en_quartznet15x5.nemo",
    "nvidia/nemospeechmodels/versions/1.0.0a5/files/QuartzNet15x5Base-En.nemo",
)
FORGOTTEN = {"QuartzNet15x5Base-En": _QUARTZNET, "stt_en_quartznet15x5": _QUARTZNET}
"""Names that NeMo no longer knows, and where on NGC their files lie: the newer one, then the older."""
_HUGGING_FACE = re.compile(r"[\w-][\w.-]*/[\w-][\w.-]*")
_SUFFIX = re.compile(r"\.[A-Za-z]\w*")  # of a file; the .1b of parakeet-ctc-1.1b is part of a name


def model_path(model: str | os.PathLike, progress: bool = True, suffix: str = ".nemo") -> Path:
    """The file of a model; one that has to be downloaded is.

    A model is one of

    - "an4", which ships with the course;
    - the path of a `.nemo`, `.ckpt` or `.onnx` file;
    - "wandb:NAME:ALIAS", which a run has logged (`tracking.fetch`);
    - "QuartzNet15x5Base-En", or a name of NeMo's own for a CTC model, such as "stt_en_fastconformer_ctc_large";
    - "ORG/NAME" on Hugging Face, such as "nvidia/parakeet-ctc-0.6b", whose file is NAME.nemo.

    A name without a slash never means a file or folder that happens to lie where the program runs. What has a slash is
    a path where there is such a thing, or where it begins with a dot.

    Args:
        model: as above.
        progress: show a progress bar while something is downloaded.
        suffix: of the file of a model that ships: ".nemo", or ".onnx", which needs no NeMo (`runtime`).

    Raises:
        InputError: there is no model of that name, or it can't be had, with what can.
    """
    name = os.fspath(model)
    path = Path(name)
    if name.startswith(artifacts.PREFIX):
        return fetch_model(name.removeprefix(artifacts.PREFIX))
    if _SUFFIX.fullmatch(path.suffix) or name in ("", ".", ".."):
        return path
    if "/" in name:
        if path.exists() or not _HUGGING_FACE.fullmatch(name):
            return path
        return _cached(name) or _from_hugging_face(name, progress)
    if name in BUILT_IN:
        return _built_in(name, suffix)
    return _cached(name) or _from_ngc(name, progress)


def cache_folder() -> Path:
    """Where downloaded models are kept: `ASR_MODELS`, else a folder in the user's cache."""
    if os.environ.get(CACHE_VARIABLE):
        return Path(os.environ[CACHE_VARIABLE])
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "asr_with_nemo" / "models"


def cached_models() -> list[str]:
    """The names of the models that were downloaded before, in the order of the alphabet."""
    folder = cache_folder()
    files = [*folder.glob("*/*.nemo.sha256"), *folder.glob("*/*/*.nemo.sha256")]
    return sorted(file.parent.relative_to(folder).as_posix() for file in files)


def nemo_models() -> dict[str, str]:
    """The CTC models that this NeMo knows by name, and where on NGC their files lie."""
    from nemo.collections.asr.models import EncDecCTCModel, EncDecCTCModelBPE

    listed = [*EncDecCTCModel.list_available_models(), *EncDecCTCModelBPE.list_available_models()]
    return {model.pretrained_model_name: model.location for model in listed}


def _built_in(name: str, suffix: str) -> Path:
    file = ASSETS / f"{name}{suffix}"
    if not file.is_file():
        raise InputError(
            f"{name}: this copy of the course lacks the model, assets/{file.name} in the package; get the repository "
            "whole, or train a model with scripts/train.py"
        )
    return file


# --- The cache --------------------------------------------------------------------------------------------------------


def _place(name: str) -> Path:
    return cache_folder() / name / f"{name.rpartition('/')[2]}.nemo"


def _cached(name: str) -> Path | None:
    """The file of a model that was downloaded before, or put there by hand; one that is damaged is removed."""
    file = _place(name)
    digest = _digest_beside(file)
    if not file.is_file():
        return None
    if not digest.is_file():
        return _keep(file)
    if digest.read_text(encoding="utf-8").split()[:1] == [sha256_of(file)]:
        return file
    logger.warning("%s: no longer what was downloaded; it is thrown away", file)
    file.unlink()
    digest.unlink()
    return None


def _digest_beside(file: Path) -> Path:
    return file.with_name(f"{file.name}.sha256")


def _keep(file: Path) -> Path:
    """Note the digest of a file that has come whole, in the format of `sha256sum`."""
    digest = _digest_beside(file)
    try:
        write_if_changed(digest, f"{sha256_of(file)}  {file.name}\n")
    except OSError as error:
        raise InputError(f"{digest}: can't be written ({error.strerror}); set {CACHE_VARIABLE}") from error
    return file


# --- Places -----------------------------------------------------------------------------------------------------------


def _from_ngc(name: str, progress: bool) -> Path:
    """Raises InputError where NGC has no model of that name, or it can't be had."""
    base = (os.environ.get(NGC_VARIABLE) or NGC).rstrip("/")
    if name in FORGOTTEN:
        places = [f"{base}/{path}" for path in FORGOTTEN[name]]
    else:
        known = nemo_models()
        if name not in known:
            near = difflib.get_close_matches(name, [*BUILT_IN, *FORGOTTEN, *known], n=3)
            hint = f"did you mean {' or '.join(near)}? " if near else ""
            raise InputError(
                f"{name}: no such model; {hint}the models that ship are named {', '.join(BUILT_IN)}, NeMo has CTC "
                "models such as stt_en_fastconformer_ctc_large, Hugging Face such as nvidia/parakeet-ctc-0.6b, and a "
                "model of yours is a .nemo or .ckpt file, as scripts/train.py makes one, or wandb:NAME:ALIAS"
            )
        places = [known[name].replace(NGC, base)]
    return _downloaded(name, places, progress)


def _from_hugging_face(name: str, progress: bool) -> Path:
    """Raises InputError where Hugging Face has no such model, or it can't be had."""
    from huggingface_hub import get_token

    base = (os.environ.get("HF_ENDPOINT") or HUGGING_FACE).rstrip("/")
    token = get_token()
    try:
        return _downloaded(
            name,
            [f"{base}/{name}/resolve/main/{_place(name).name}"],
            progress,
            headers={"Authorization": f"Bearer {token}"} if token else {},
        )
    except InputError as error:
        if re.search(r"answered 40[134]", str(error)):
            raise InputError(
                f"{name}: no such file or folder here, and Hugging Face gives no {_place(name).name}; look there "
                "whether the name is right and has such a file; one that is private, or whose terms you have to "
                f"accept first, needs HF_TOKEN\n{error}"
            ) from error
        raise


def _downloaded(name: str, places: Sequence[str], progress: bool, headers: Mapping[str, str] | None = None) -> Path:
    from asr_with_nemo.data.download import (
        DownloadError,  # a program that only listens has no HTTP client
        download_first,
    )

    file = _place(name)
    try:
        download_first(places, file, give_up_after=PATIENCE, progress=progress, headers=headers)
    except DownloadError as error:
        there = f"{', '.join(BUILT_IN)}, built in; in {cache_folder()}: {', '.join(cached_models()) or 'nothing yet'}"
        raise InputError(f"{name}: {error}\nWithout a network there are: {there}.") from error
    return _keep(file)


SUMMARY = "training.json"
