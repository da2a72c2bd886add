"""The data as a table that one can look at and listen to: in Weights & Biases, and in a notebook without it.

A table is a list of rows, a row a dict of column → value; a value that is a path is a recording or a picture.
`wandb_table` makes a `wandb.Table` of it, `browse` a table for the notebook.

The pictures are not drawn by matplotlib, which takes more than fifty times as long: a spectrogram is a matrix of small
numbers, and a PNG with a palette is the same, so its pixels are the decibels themselves.
"""

import hashlib
import json
import os
import struct
import tempfile
import zlib
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import librosa
import matplotlib
import numpy as np
import scipy.fft
import scipy.sparse
import soundfile
from IPython.display import HTML
from isal import isal_zlib
from PIL import Image, ImageDraw, ImageFont
from tqdm import tqdm

from asr_with_nemo import an4, artifacts, audio, manifest, pages, tracking
from asr_with_nemo.errors import InputError

if TYPE_CHECKING:
    import wandb

Row = dict[str, object]
"""Column → value; a `Path` is a recording or, by its suffix, a picture."""

MEDIA = "pictures"
"""The folder beside a manifest where pictures are kept."""
PLAYABLE = {".wav", ".flac", ".mp3", ".ogg"}
"""What every browser plays."""
EMBEDDED = 4_000_000
"""Bytes of sound and pictures, at most, in a table that has to carry them itself."""


# --- Pictures of sound ------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class PictureSettings:
    """How recordings are pictured; what is kept under other settings is not used.

    Attributes:
        window, hop: seconds of a frame, and from a frame to the next.
        lowest: Hz at the lower end of the spectrogram's log axis.
        bands: of the mel spectrogram.
        decibels: from the loudest down to the darkest colour.
        colours: the name of a matplotlib colour map.
    """

    window: float = 0.02
    hop: float = 0.01
    lowest: float = 62.5
    bands: int = 64
    decibels: float = 80
    colours: str = "magma"


FFT = 512
HEIGHT = 192  # pixels of the part that shows sound: three a mel band
WIDEST = 1_000  # columns; of a longer recording, several frames share one
COLUMN = 2  # pixels
LEFT, TOP, RIGHT, BOTTOM = 42, 20, 74, 36  # pixels around it: Hz, title, dB, seconds
BAR = 12  # pixels, the width of the colour scale
TICKS = (125, 250, 500, 1000, 2000, 4000, 8000)  # Hz
LINE = 13  # pixels, of a line of text
LEVELS = 240  # of colour; the palette's other 16 are greys, for letters
BLACK, WHITE = LEVELS, 255
_LAYOUT = 1  # goes up when pictures come to look different: then those that are kept are made again


class Pictured(NamedTuple):
    """The files that show a recording: what a browser plays, and its two pictures."""

    audio: Path
    spectrogram: Path
    mel: Path


def power(samples: np.ndarray, settings: PictureSettings) -> np.ndarray:
    """The short-time power spectrum of mono samples at 16 kHz, (T,): (frames, 257), a frame centred on each hop."""
    hop = round(settings.hop * audio.SAMPLE_RATE)
    frames = np.lib.stride_tricks.sliding_window_view(np.pad(samples, FFT // 2), FFT)[::hop]
    spectrum = scipy.fft.rfft(frames * _window(settings.window))
    return spectrum.real**2 + spectrum.imag**2


@lru_cache
def _window(seconds: float) -> np.ndarray:
    length = round(seconds * audio.SAMPLE_RATE)
    window = np.zeros(FFT, np.float32)
    window[(FFT - length) // 2 :][:length] = np.hanning(length)
    return window


def log_rows(power: np.ndarray, lowest: float) -> np.ndarray:
    """Spread the frequencies of a power spectrum over a log axis from `lowest` Hz: (frames, HEIGHT), upwards.

    A row shows the strongest of the bins it covers, so that no tone gets lost between two rows.
    """
    return np.maximum.reduceat(power, _first_bins(lowest), axis=1)


@lru_cache
def _first_bins(lowest: float) -> np.ndarray:
    edges = np.geomspace(lowest, audio.SAMPLE_RATE / 2, HEIGHT + 1)
    return np.round(edges[:-1] * FFT / audio.SAMPLE_RATE).astype(int)


@lru_cache
def _mel_filters(bands: int) -> scipy.sparse.csr_array:
    # (bands, 257). Sparse, since a dense product starts threads of its own in each of the threads that draw.
    return scipy.sparse.csr_array(librosa.filters.mel(sr=audio.SAMPLE_RATE, n_fft=FFT, n_mels=bands))


def levels(power: np.ndarray, decibels: float) -> np.ndarray:
    """Power as colours: uint8 from 0, `decibels` or more below the loudest, to LEVELS - 1, the loudest."""
    loudest = max(float(power.max()), 1e-10)  # digital silence stays dark
    relative = 10 * np.log10(np.maximum(power / loudest, 10 ** (-decibels / 10)))
    return np.round((1 + relative / decibels) * (LEVELS - 1)).astype(np.uint8)


def draw(samples: np.ndarray, settings: PictureSettings = PictureSettings()) -> dict[str, np.ndarray]:
    """Draw a recording: its spectrogram over a log axis and its mel spectrogram, in dB below the loudest.

    Args:
        samples: mono at 16 kHz, (T,).
        settings: how.

    Returns:
        "spectrogram" and "mel" → a picture with its axes in Hz and seconds and a colour scale, (height, width), uint8
        indices of `palette`.
    """
    strength = power(samples, settings)
    together = -(-len(strength) // WIDEST)  # frames in a column
    if together > 1:
        strength = np.maximum.reduceat(strength, np.arange(0, len(strength), together))
    seconds = settings.hop * together / COLUMN  # of a pixel
    matrices = {
        "spectrogram": log_rows(strength, settings.lowest),
        "mel": (_mel_filters(settings.bands) @ strength.T).T,
    }
    pictures = {}
    for kind, matrix in matrices.items():
        columns = levels(matrix, settings.decibels).T[::-1]  # the highest first
        rows = np.arange(HEIGHT) * len(columns) // HEIGHT
        pixels = np.repeat(columns[rows], COLUMN, axis=1)
        canvas = _frame(kind, pixels.shape[1], seconds, settings).copy()
        canvas[TOP : TOP + HEIGHT, LEFT : LEFT + pixels.shape[1]] = pixels
        pictures[kind] = canvas
    return pictures


def encode(picture: np.ndarray, palette: bytes) -> bytes:
    """A picture of palette indices, (height, width), as a PNG.

    Pillow's compressor takes five times as long as this one, and with it the pictures would take twice as long.
    """
    height, width = picture.shape
    lines = np.zeros((height, width + 1), np.uint8)  # each begins with the number of its filter: none
    lines[:, 1:] = picture
    parts = {
        b"IHDR": struct.pack(">IIBBBBB", width, height, 8, 3, 0, 0, 0),  # 8 bits, a palette
        b"PLTE": palette,
        b"IDAT": isal_zlib.compress(lines, 2),
        b"IEND": b"",
    }
    chunks = (
        struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))
        for name, data in parts.items()
    )
    return b"\x89PNG\r\n\x1a\n" + b"".join(chunks)


@lru_cache
def palette(colours: str) -> bytes:
    """The red, green and blue of each index: `LEVELS` of a matplotlib colour map, then greys from black to white."""
    colours = matplotlib.colormaps[colours](np.linspace(0, 1, LEVELS), bytes=True)[:, :3]
    greys = np.repeat(np.linspace(0, 255, 256 - LEVELS).astype(np.uint8)[:, None], 3, axis=1)
    return np.concatenate([colours, greys]).tobytes()


def row_of(frequency: float, kind: str, settings: PictureSettings = PictureSettings()) -> float:
    """Where a frequency in Hz lies in a picture: pixels from its top."""
    top = audio.SAMPLE_RATE / 2
    if kind == "mel":  # a band's centre is in the middle of its row; a mel filter bank has its ends outside
        share = librosa.hz_to_mel(frequency) / librosa.hz_to_mel(top)
        height = (share * (settings.bands + 1) - 0.5) / settings.bands
    else:
        height = np.log(frequency / settings.lowest) / np.log(top / settings.lowest)
    return TOP + HEIGHT * (1 - float(np.clip(height, 0, 1)))


@lru_cache
def _font() -> ImageFont.FreeTypeFont:
    return ImageFont.load_default(11)


@lru_cache(maxsize=256)
def _frame(kind: str, width: int, seconds: float, settings: PictureSettings) -> np.ndarray:
    """All of a picture but the sound: axes, their labels, and the colour scale, (height, width) of palette indices.

    Letters are drawn over the greys: between white and black lie just the shades that smooth them.
    """
    image = Image.new("L", (LEFT + width + RIGHT, TOP + HEIGHT + BOTTOM), WHITE)
    pen = ImageDraw.Draw(image)
    pen.font = _font()
    right, bottom = LEFT + width, TOP + HEIGHT
    pen.rectangle((LEFT - 1, TOP - 1, right, bottom), outline=BLACK)
    pen.text((4, 3), "Hz", BLACK)
    pen.text((LEFT, 3), {"mel": "mel spectrogram"}.get(kind, kind), BLACK)
    previous = bottom + LINE
    for frequency in TICKS:
        y = row_of(frequency, kind, settings)
        if settings.lowest < frequency and previous - y >= LINE:  # the mel scale is dense at the bottom
            pen.line((LEFT - 5, y, LEFT - 2, y), BLACK)
            pen.text((LEFT - 7, y), f"{frequency:g}", BLACK, anchor="rm")
            previous = y

    step = next((step for step in (0.1, 0.2, 0.5, 1, 2, 5, 10, 30, 60) if step / seconds >= 50), 300)
    for number in range(int(width * seconds / step) + 1):
        x = LEFT + number * step / seconds
        pen.line((x, bottom + 1, x, bottom + 4), BLACK)
        pen.text((x, bottom + 6), f"{number * step:g}", BLACK, anchor="mt")
    pen.text((LEFT + width / 2, bottom + 20), "seconds", BLACK, anchor="mt")

    left = right + 10
    scale = np.linspace(LEVELS - 1, 0, HEIGHT).round().astype(np.uint8)
    image.paste(Image.fromarray(np.repeat(scale[:, None], BAR, axis=1)), (left, TOP))
    for quarter in range(5):
        y = TOP + quarter * (HEIGHT - 1) / 4
        pen.text((left + BAR + 4, y), f"{-settings.decibels * quarter / 4 or 0:g} dB", BLACK, anchor="lm")
    return np.asarray(image)


def make_pictures(
    files: Iterable[str | os.PathLike],
    folder: str | os.PathLike,
    settings: PictureSettings = PictureSettings(),
    progress: bool = True,
) -> list[Pictured]:
    """Draw recordings into a folder, each once: a picture is found again by what its recording holds.

    Args:
        files: recordings.
        folder: where pictures are kept; a recording that no browser plays, or of another rate than 16 kHz, gets a WAV
            there too.
        settings: how to draw.
        progress: show a progress bar.

    Raises:
        InputError: a recording can't be read, or the folder can't be written.
    """
    files = [Path(file) for file in files]
    digest = hashlib.sha256(repr((_LAYOUT, settings)).encode()).hexdigest()[:8]
    folder = _writable(Path(folder) / digest)
    different = list(dict.fromkeys(files))
    with ThreadPoolExecutor(os.cpu_count()) as pool:  # Fourier transform and compression leave the interpreter free
        made = pool.map(lambda file: _picture(file, folder, settings), different)
        bar = tqdm(made, "pictures", total=len(different), unit="file", delay=1, disable=not progress)
        try:
            by_file = dict(zip(different, bar, strict=True))
        except BaseException:
            pool.shutdown(cancel_futures=True)
            raise
    return [by_file[file] for file in files]


def _writable(folder: Path) -> Path:
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise InputError(
            f"{folder}: pictures can't be written there ({error.strerror}); name another folder"
        ) from error
    return folder


def _picture(path: Path, folder: Path, settings: PictureSettings) -> Pictured:
    name = _kept_name(path)
    sound = playable(path, folder, name)
    files = {kind: folder / f"{name}-{kind}.png" for kind in ("spectrogram", "mel")}
    if not all(file.is_file() for file in files.values()):
        for kind, picture in draw(audio.load_audio(path), settings).items():
            partial = files[kind].with_suffix(f".{os.getpid()}.partial")
            try:
                partial.write_bytes(encode(picture, palette(settings.colours)))
                os.replace(partial, files[kind])
            except OSError as error:
                raise InputError(f"{files[kind]}: can't be written ({error.strerror})") from error
    return Pictured(sound, files["spectrogram"], files["mel"])


def _kept_name(path: Path) -> str:
    """The start of the name of what is made of a recording: its own name, and a digest of what it holds."""
    try:
        return f"{path.stem}-{hashlib.sha256(path.read_bytes()).hexdigest()[:16]}"
    except OSError as error:
        raise InputError(f"{path}: the recording can't be read ({error.strerror})") from error


def playable(path: Path, folder: Path, name: str | None = None) -> Path:
    """A recording as a file of 16 kHz that a browser plays: itself where it is one, else a WAV kept in `folder`.

    Raises:
        InputError: the recording can't be read, or the WAV not be written.
    """
    try:
        if path.suffix.lower() in PLAYABLE and soundfile.info(path).samplerate == audio.SAMPLE_RATE:
            return path
    except soundfile.LibsndfileError:
        pass  # `load_audio` tells what is wrong, or knows another way
    wav = _writable(folder) / f"{name or _kept_name(path)}.wav"
    if not wav.is_file():
        samples = audio.load_audio(path)
        try:
            audio.write_wav(wav, np.round(np.clip(samples, -1, 1) * 32_767).astype(np.int16))
        except OSError as error:
            raise InputError(f"{wav}: can't be written ({error.strerror})") from error
    return wav


# --- Tables -----------------------------------------------------------------------------------------------------------


def dataset_rows(
    manifests: Sequence[str | os.PathLike],
    pictures: str | os.PathLike | None = None,
    settings: PictureSettings = PictureSettings(),
    progress: bool = True,
) -> list[Row]:
    """The utterances of manifests as rows to look at: Filename, Audio File, Duration, Transcript, Spectrogram...

    Args:
        manifests: one or more.
        pictures: the folder where pictures are kept; by default `MEDIA` beside the first manifest.
        settings: how to draw them.
        progress: show a progress bar.

    Raises:
        InputError: a manifest or a recording can't be used, or the folder can't be written.
    """
    manifests = [Path(path) for path in manifests]
    utterances = [(path, utterance) for path in manifests for utterance in _whole_files(path)]
    files = [utterance["audio_filepath"] for _, utterance in utterances]
    pictured = make_pictures(files, pictures or manifests[0].parent / MEDIA, settings, progress)
    splits = {path: _splits(path) for path in manifests}
    return [
        {
            "Filename": os.path.relpath(utterance["audio_filepath"], path.parent.absolute()),
            "Audio File": made.audio,
            "Duration": round(utterance["duration"], 3),
            "Transcript": utterance["text"],
            "Spectrogram": made.spectrogram,
            "Mel-Spectrogram": made.mel,
            "Speaker": str(utterance.get("speaker") or ""),
            "Split": splits[path].get(utterance["audio_filepath"], _split_name(path)),
        }
        for (path, utterance), made in zip(utterances, pictured, strict=True)
    ]


def _whole_files(path: Path) -> list[manifest.Utterance]:
    utterances = manifest.read_manifest(path)
    if any(utterance.get("offset") for utterance in utterances):
        raise InputError(f"{path}: cuts utterances out of longer files (offset); cut the files first")
    return utterances


def _split_name(path: Path) -> str:
    return path.stem.removesuffix("_manifest")


def _splits(path: Path) -> dict[str, str]:
    """Recording → its split: of the manifests beside this one that hold it, the one with the fewest utterances.

    So what train_all holds is known to be of train or of dev.
    """
    beside = {other: manifest.read_manifest(other, check_audio=False) for other in path.parent.glob("*_manifest.json")}
    splits: dict[str, str] = {}
    for other in sorted(beside, key=lambda other: -len(beside[other])):
        splits |= {utterance["audio_filepath"]: _split_name(other) for utterance in beside[other]}
    return splits


def prediction_rows(rows: Sequence, folder: str | os.PathLike) -> list[Row]:
    """What a model heard as rows to look at: FileName, Audio, Prediction, Ground Truth, WER.

    Args:
        rows: of `evaluation.Row`, as `evaluation.evaluate` gives them.
        folder: of the manifest, which their files are relative to.

    Raises:
        InputError: a recording isn't there, or can't be read.
    """
    folder = Path(folder)
    table = []
    for row in rows:
        path = folder.absolute() / row.file
        if not path.is_file():
            raise InputError(f"{path}: the recording isn't there; expected it where the manifest has it")
        rate = row.words.rate
        table.append(
            {
                "FileName": row.file,
                "Audio": playable(path, folder / MEDIA),
                "Prediction": row.hypothesis,
                "Ground Truth": row.reference,
                "WER": None if rate is None else round(rate, 4),
            }
        )
    return table


def wandb_table(rows: Sequence[Row], progress: bool = True) -> "wandb.Table":
    """Rows as a table for `run.log`, recordings with a player and pictures as pictures: the files as they are.

    Raises:
        InputError: there are no rows.
    """
    import wandb

    def shown(value: object) -> object:
        if not isinstance(value, Path):
            return value
        return wandb.Image(str(value)) if value.suffix == ".png" else wandb.Audio(str(value))

    table = wandb.Table(columns=pages.columns_of(rows))
    for row in tqdm(rows, "table", unit="row", delay=1, disable=not progress):
        table.add_data(*map(shown, row.values()))
    return table


def read_table(folder: str | os.PathLike, name: str) -> list[Row]:
    """The rows of a `wandb.Table` that was logged under a name, from the folder of its artifact.

    Raises:
        InputError: the folder doesn't hold it, or what it holds is no table.
    """
    path = Path(folder) / f"{name}.table.json"
    text = manifest.read_text(path, "a table", "no such table; expected the artifact of a wandb.Table")
    try:
        content = json.loads(text)
        columns, lines = content["columns"], content["data"]
    except (ValueError, KeyError, TypeError) as error:
        raise InputError(f"{path}: can't be read as a wandb.Table ({error!r})") from error

    def value(cell: object) -> object:
        if isinstance(cell, dict) and "path" in cell:  # a recording or a picture
            file = Path(folder) / cell["path"]
            return file if file.is_file() else None
        return cell if cell is None or isinstance(cell, int | float | str) else json.dumps(cell)

    return [dict(zip(map(str, columns), map(value, line), strict=True)) for line in lines]


def browse(
    rows: Sequence[Row],
    page: int = 8,
    sort: str = "",
    descending: bool = False,
    beside: str | os.PathLike | None = "notebooks",
) -> HTML:
    """Rows as a table for the notebook, without an account or a network: sorted by a click, a page of rows at a time.

    The notebook stays small: it links to recordings and pictures, and the browser gets those of the page that is shown.
    Files that lie outside the course's folder can't be linked to, and none in Colab: then the table carries them
    itself, up to `EMBEDDED` bytes.

    Args:
        rows: as `dataset_rows` and `prediction_rows` give them.
        page: rows at a time.
        sort: the column to begin with; by default in the order given.
        descending: begin with the largest.
        beside: the folder where the notebook lies, or one of the same depth; None for a table that carries its files
            itself in any case.

    Raises:
        InputError: there are no rows, or no such column.
    """
    return HTML(pages.table(rows, page, sort, descending, beside, EMBEDDED))


# --- The corpus as artifacts ------------------------------------------------------------------------------------------


def recordings_artifact(manifests: Sequence[str | os.PathLike]) -> "wandb.Artifact":
    """The raw recordings that manifests lead to, each with its digest; for AN4 the SPHERE files, with the transcripts.

    The manifests beside them count too, as in `manifests_artifact`. The files themselves aren't sent: W&B notes where
    they lie, and by the digest anybody can tell that theirs are the same.

    Raises:
        InputError: a manifest can't be used, or a recording isn't there.
    """
    folder = _folder(manifests)
    manifests = _with_those_beside(manifests, folder)
    raw = []
    for recording in _recordings(manifests):
        sphere = recording.with_suffix(".sph")
        raw.append(sphere if sphere.is_file() else recording)
    artifact = _artifact(folder, "recordings", "what was recorded, before any processing", len(raw))
    return _refer(artifact, [*raw, *sorted(folder.glob("etc/*.transcription"))], folder)


def manifests_artifact(manifests: Sequence[str | os.PathLike]) -> "wandb.Artifact":
    """Manifests, with the digests of the sound files they lead to, and what `an4.prepare` noted of their origin.

    Those that lie beside them (`*_manifest.json`) are a part of it too, where their recordings are there: so the same
    files are the same artifact, whichever of a corpus's manifests are asked for, and the input of a training is what
    `log_corpus` logged.

    Raises:
        InputError: a manifest can't be used, or a recording isn't there.
    """
    folder = _folder(manifests)
    manifests = _with_those_beside(manifests, folder)
    recordings = _recordings(manifests)
    artifact = _artifact(folder, "manifests", "what a model is trained and measured on", len(recordings))
    artifact.metadata["utterances"] = {
        Path(path).name: len(manifest.read_manifest(path, check_audio=False)) for path in manifests
    }
    for path in [*map(Path, manifests), folder / an4.STATE]:
        if path.is_file():
            artifact.add_file(str(path), name=_name(path.absolute(), folder))
    return _refer(artifact, recordings, folder)


def log_corpus(run: "wandb.Run", manifests: Sequence[str | os.PathLike]) -> "wandb.Artifact":
    """Log a corpus as two artifacts, the manifests made of the recordings, and return the second.

    Raises:
        InputError: a manifest can't be used, or a recording isn't there.
    """
    tracking.use(run, recordings_artifact(manifests))
    made = manifests_artifact(manifests)
    run.log_artifact(made)
    return made


def _folder(manifests: Sequence[str | os.PathLike]) -> Path:
    return Path(manifests[0]).absolute().parent


def _with_those_beside(manifests: Sequence[str | os.PathLike], folder: Path) -> list[Path]:
    given = [Path(path).absolute() for path in manifests]
    for path in sorted(folder.glob("*_manifest.json")):
        if path not in given:
            try:
                manifest.read_manifest(path)
            except InputError:  # it is nothing that was asked for
                continue
            given.append(path)
    return sorted(given)


def _recordings(manifests: Sequence[str | os.PathLike]) -> list[Path]:
    utterances = (utterance for path in manifests for utterance in manifest.read_manifest(path))
    return [Path(file) for file in dict.fromkeys(utterance["audio_filepath"] for utterance in utterances)]


def _artifact(folder: Path, kind: str, description: str, recordings: int) -> "wandb.Artifact":
    import wandb

    corpus = an4.corpus_of(folder / an4.STATE)
    name = artifacts.valid_name(f"{corpus}-{kind}")
    metadata = {"corpus": corpus, "recordings": recordings}
    return wandb.Artifact(name, type="dataset", description=f"{corpus}: {description}", metadata=metadata)


def _refer(artifact: "wandb.Artifact", files: Iterable[Path], folder: Path) -> "wandb.Artifact":
    for file in files:
        file = Path(os.path.abspath(file))
        artifact.add_reference(file.as_uri(), name=_name(file, folder))  # notes its MD5 and size
    return artifact


def _name(file: Path, folder: Path) -> str:
    """Of a file in an artifact; one from outside the manifests' folder keeps its whole path, as names may repeat."""
    return str(file.relative_to(folder) if file.is_relative_to(folder) else file.relative_to(file.anchor))
