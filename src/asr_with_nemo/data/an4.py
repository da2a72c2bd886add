"""AN4, the corpus of the course: download, conversion to WAVs, and manifests.

AN4 (also "Census") was recorded at Carnegie Mellon University in 1991: speakers spell names and say numbers, dates,
addresses and commands. It has 948 training utterances and 130 test utterances, by other speakers.
Source: A. Acero, "Acoustical and Environmental Robustness in Automatic Speech Recognition", Kluwer, 1993.
"""

import filecmp
import json
import os
import re
import shutil
from dataclasses import asdict, dataclass, field
from pathlib import Path

from asr_with_nemo.base.files import alone_in, make_writable, replacing, write_if_changed
from asr_with_nemo.data import archives, audio, download, manifest, synthetic
from asr_with_nemo.errors import InputError

PLACES = (
    "https://dldata-public.s3.us-east-2.amazonaws.com/an4_sphere.tar.gz",  # NVIDIA's copy
    "https://huggingface.co/datasets/espnet/an4/resolve/main/an4_sphere.tar.gz",  # ESPnet's copy
    "http://www.speech.cs.cmu.edu/databases/an4/an4_sphere.tar.gz",  # CMU itself, often down
)
"""URLs that are known to have served the archive."""
ARCHIVE_NAME = "an4_sphere.tar.gz"
_GIVE_UP_AFTER = 30.0
"""Seconds after which a machine without a network continues without AN4."""
SPLITS = {"train": "an4_clstk", "test": "an4test_clstk"}
"""Split → the folder of its recordings below wav/."""
_TRAIN_UTTERANCES, _DEV_UTTERANCES = 948, 100
_DEV_SEED = 0  # fixed, so that the dev set is always the same, whatever the seed of a training
_TRANSCRIPT = re.compile(r"(?P<words>.*?)\s*\((?P<id>[^()\s]+)\)\s*")


@dataclass
class Corpus:
    """A corpus that `prepare` made.

    Attributes:
        name: "an4" or "synthetic".
        folder: folder of its `etc`, `wav` and manifests.
        utterances: number of utterances of each manifest, by its file name.
        limit: number of utterances requested; None for the whole corpus.
        problems: damaged or missing files, one message each; empty for a complete corpus.
        changed: whether this call changed any file.
    """

    name: str
    folder: Path
    utterances: dict[str, int] = field(default_factory=dict)
    problems: list[str] = field(default_factory=list)
    changed: bool = True
    limit: int | None = None

    def manifest(self, split: str) -> Path:
        """Return the path of a split's manifest: "train", "dev", "train_all" or "test"."""
        return self.folder / f"{split}_manifest.json"

    @property
    def example(self) -> Path:
        """The recording that the course uses as an example, a SPHERE file; its WAV is next to it.

        cen2-mgah-b, in which a man spells G L E N N; in the synthetic corpus, another spelled first name.
        """
        folder = self.folder / "wav" / SPLITS["train"]
        spelled_in_an4 = folder / "mgah" / "cen2-mgah-b.sph"
        if spelled_in_an4.is_file():
            return spelled_in_an4
        return min(folder.rglob("cen2-*.sph"), default=None) or min(folder.rglob("*.sph"))

    @property
    def title(self) -> str:
        """The corpus's name for pictures and results."""
        title = "AN4" if self.name == "an4" else "synthetic stand-in, not AN4"
        return title if self.limit is None else f"{title} ({self.limit} utterances of it)"


def prepare(
    data_dir: str | os.PathLike = "data",
    source: str = "auto",
    archive: str | None = None,
    utterances: int | None = None,
    seed: int = 0,
    progress: bool = True,
) -> Corpus:
    """Prepare a corpus for training: recordings as WAVs, and manifests for train, dev, train_all and test.

    Files of an earlier call are kept; an interrupted call is continued.

    Args:
        data_dir: destination; the corpus is in `an4/` or `synthetic/` below it.
        source: "an4", "synthetic", or "auto": AN4 if it is available, else the synthetic corpus.
        archive: AN4's archive, a file or a URL; by default the environment variable `AN4_ARCHIVE`, then the archive in
            `data_dir`, then `PLACES`.
        utterances: limit of the number of utterances (train and test in AN4's proportion), for a quick try.
        seed: of the synthetic corpus.
        progress: show progress bars.

    Raises:
        InputError: the archive is unavailable, damaged or isn't AN4's; `data_dir` can't be written.
    """
    if source not in ("auto", "an4", "synthetic"):
        raise InputError(f"source {source!r}: expected auto, an4 or synthetic")
    if utterances is not None and not synthetic.SMALLEST_SIZE <= utterances <= synthetic.FULL_SIZE:
        raise InputError(
            f"{utterances} utterances: expected {synthetic.SMALLEST_SIZE} (for three splits) to {synthetic.FULL_SIZE}"
        )
    data_dir = Path(data_dir)
    archive = archive or os.environ.get("AN4_ARCHIVE") or None
    stand_in = data_dir / "synthetic"
    settled = not archive and not (data_dir / "an4").exists() and not (data_dir / ARCHIVE_NAME).exists()
    # If the synthetic corpus exists, the URLs aren't tried again on every run; --source an4 tries them.
    if source == "synthetic" or (source == "auto" and settled and _read_state(stand_in)):
        return _prepare_synthetic(data_dir, utterances, seed, progress)
    try:
        return _prepare_an4(data_dir, archive, utterances, progress)
    except CorpusUnreachable as error:
        if source == "an4" or archive or (data_dir / "an4" / "etc").is_dir():
            raise  # an incomplete AN4 must not be replaced silently
        print(f"AN4 is not available here: {error}")
        return _prepare_synthetic(data_dir, utterances, seed, progress)


class CorpusUnreachable(InputError):
    """Raised where none of the URLs of `PLACES` delivered AN4."""


def locate(data_dir: str | os.PathLike = "data") -> Corpus:
    """Return the corpus that `prepare` made in `data_dir`: AN4 if it exists, else the synthetic one.

    Raises:
        InputError: neither exists.
    """
    for name in ("an4", "synthetic"):
        state = _read_state(Path(data_dir) / name)
        if state:
            folder = Path(data_dir) / name
            return Corpus(name, folder, state["utterances"], state["problems"], False, state.get("limit"))
    raise InputError(f"{data_dir}: has no prepared corpus; run scripts/prepare_an4.py first")


def corpus_of(manifest_path: str | os.PathLike) -> str:
    """Return the name of a manifest's corpus: from the notes of `prepare` next to it, else its folder's name."""
    folder = Path(manifest_path).absolute().parent
    state = _read_state(folder)
    return state["name"] if state else folder.name


def read_transcripts(path: str | os.PathLike) -> tuple[dict[str, str], list[str]]:
    """Read an AN4 transcription: lines of `WORDS (id)` or `<s> WORDS </s> (id)`.

    Returns:
        id → transcript in lower case, in the file's order; and one message for each line that can't be parsed.

    Raises:
        InputError: the file can't be read.
    """
    path = Path(path)
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{path}: can't be read as a transcription ({error})") from error
    transcripts, problems = {}, []
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        match = _TRANSCRIPT.fullmatch(line)
        if not match:
            problems.append(f"{path}, line {number}: no id in brackets at the end of {line!r}")
            continue
        if match["id"] in transcripts:
            problems.append(f"{path}, line {number}: duplicate id {match['id']}")
            continue
        words = [word for word in match["words"].split() if word not in ("<s>", "</s>")]
        transcripts[match["id"]] = " ".join(words).lower()
    return transcripts, problems


def _fetch_archive(data_dir: Path, archive: str | None = None, progress: bool = True) -> Path:
    """Return the path of AN4's archive: the given one, the one in `data_dir`, or a download into `data_dir`.

    Raises:
        InputError: the given file is missing.
        CorpusUnreachable: none of the known URLs delivered it.
    """
    kept = data_dir / ARCHIVE_NAME
    if archive and _is_url(archive):
        return download.download(archive, kept.with_name("named_" + ARCHIVE_NAME), progress=progress)
    if archive:
        path = Path(os.path.expanduser(archive.removeprefix("file://")))
        if not path.is_file():
            raise InputError(f"{archive}: no such archive; expected {ARCHIVE_NAME}, or a URL of it")
        return path
    if not kept.is_file():
        _download(kept, progress)
    return kept


def _is_url(archive: str) -> bool:
    return bool(re.match(r"https?://", archive, re.IGNORECASE))


def _download(kept: Path, progress: bool) -> None:
    """Download the archive from the first URL that delivers it; a login page of a gateway is not taken for it."""
    places = list(PLACES)
    reasons = []
    while places:
        try:
            served = download.download_first(places, kept, give_up_after=_GIVE_UP_AFTER, progress=progress)
        except download.DownloadError as error:
            reasons.append(str(error))
            break
        try:
            archives.check_looks(kept)
            return
        except InputError as error:
            reasons.append(f"{served}: {error}")
            kept.unlink()
            places = places[places.index(served) + 1 :]
    raise CorpusUnreachable(
        "\n".join([*reasons, f"If you have {ARCHIVE_NAME} elsewhere, set AN4_ARCHIVE to its path or URL."])
    )


def _prepare_an4(data_dir: Path, archive: str | None, utterances: int | None, progress: bool) -> Corpus:
    folder = data_dir / "an4"
    request = {"name": "an4", "limit": utterances}
    # A given file or URL takes precedence; its digest shows whether it is the same archive.
    is_url = bool(archive and _is_url(archive))
    named = {"archive": archive} if is_url else {}
    if archive and not is_url:
        named = {"sha256": archives.sha256_of(_fetch_archive(data_dir, archive))}

    def prepared() -> Corpus | None:
        state = _read_state(folder)
        is_same = bool(state) and all(state.get(key) == value for key, value in named.items())
        if not (is_same and _is_whole(folder, state, request)):
            return None
        return Corpus("an4", folder, state["utterances"], changed=False, limit=utterances)

    if corpus := prepared():
        return corpus
    _make_writable(data_dir)
    with alone_in(data_dir, "is preparing a corpus"):
        # Another process may have prepared it meanwhile.
        return prepared() or _make_an4(data_dir, archive, named, request, progress)


def _make_an4(data_dir: Path, archive: str | None, named: dict, request: dict, progress: bool) -> Corpus:
    """Unpack the archive if needed, and make WAVs and manifests.

    Args:
        data_dir, archive, progress: as for `prepare`.
        named: the archive's URL or digest, if one was given.
        request: what is asked for, as it is noted in the corpus.
    """
    folder = data_dir / "an4"
    state = _read_state(folder)
    same_archive = bool(state) and all(state.get(key) == value for key, value in named.items())
    is_url = "archive" in named
    origin = {key: state[key] for key in ("archive", "sha256") if key in state} if same_archive else None
    # With an archive available, damaged files are unpacked again.
    damaged = bool(state and state["problems"]) and bool(archive or (data_dir / ARCHIVE_NAME).is_file())
    if origin is None or damaged or not _tree_is_whole(folder, state):
        path = _fetch_archive(data_dir, archive, progress)
        origin = {
            "archive": archive if is_url else path.name,
            "sha256": named.get("sha256") or archives.sha256_of(path),
        }
        try:
            _unpack(path, folder, progress)
        finally:
            if is_url:
                path.unlink()  # only the default archive is kept in the data folder
    return _finish(folder, request | origin, progress)


def _unpack(archive: Path, folder: Path, progress: bool) -> None:
    """Unpack the archive next to `folder` and move its tree in, file by file, replacing files that differ."""
    partial = folder.with_name(f".{folder.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    try:
        with audio.Converter() as converter:  # while the rest is being unpacked
            archives.unpack_tar(archive, partial, on_file=converter.add, progress=progress)
        roots = [path.parent.parent for path in partial.glob("**/etc/an4_train.transcription")]
        if len(roots) != 1:
            raise InputError(
                f"{archive}: not the AN4 archive: expected one etc/an4_train.transcription in it, found {len(roots)}"
            )
        _move_tree(roots[0], folder)
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def _move_tree(source: Path, folder: Path) -> None:
    """Replace the tree in `folder` by another; the WAVs of changed recordings are removed."""
    if not folder.exists():
        os.replace(source, folder)
        return
    if not folder.is_dir():
        raise InputError(f"{folder}: a file, where the folder of the corpus was expected; move it away")
    (folder / manifest.CORPUS_NOTES).unlink(missing_ok=True)  # from here on the corpus is incomplete
    for old in (folder / "wav").rglob("*.sph"):
        if not (source / old.relative_to(folder)).exists():
            old.with_suffix(".wav").unlink(missing_ok=True)
            old.unlink()
    for path in sorted(source.rglob("*")):
        target = folder / path.relative_to(source)
        if path.is_dir():
            target.mkdir(parents=True, exist_ok=True)
            continue
        if target.is_file() and filecmp.cmp(target, path, shallow=False):
            continue
        target.with_suffix(".wav").unlink(missing_ok=True)
        os.replace(path, target)


def _prepare_synthetic(data_dir: Path, utterances: int | None, seed: int, progress: bool) -> Corpus:
    print(synthetic.VOICE_NOTICE)
    folder = data_dir / "synthetic"
    request = {"name": "synthetic", "limit": utterances, "seed": seed}
    state = _read_state(folder)
    if _is_whole(folder, state, request):
        return Corpus("synthetic", folder, state["utterances"], changed=False, limit=utterances)
    _make_writable(data_dir)
    with alone_in(data_dir, "is preparing a corpus"):
        state = _read_state(folder)
        if _is_whole(folder, state, request):  # by another process meanwhile
            return Corpus("synthetic", folder, state["utterances"], changed=False, limit=utterances)
        with replacing(folder) as partial:
            synthetic.make_corpus(partial, utterances=utterances or synthetic.FULL_SIZE, seed=seed, progress=progress)
            shutil.rmtree(folder, ignore_errors=True)  # made by an earlier call, with another seed or size
        return _finish(folder, request, progress)


def _spread(rows: list, count: int) -> list:
    """Return `count` of the rows, evenly spaced, because they are sorted by speaker.

    Example:
        >>> _spread(["a", "b", "c", "d"], 2)
        ['a', 'c']
    """
    return [rows[number * len(rows) // count] for number in range(min(count, len(rows)))]


def _finish(folder: Path, request: dict, progress: bool) -> Corpus:
    """Make WAVs and manifests of an unpacked tree, and last the notes that mark the corpus as complete."""
    corpus = Corpus(request["name"], folder, limit=request["limit"])
    splits = {}
    for split, wav_folder in SPLITS.items():
        transcripts, problems = read_transcripts(folder / "etc" / f"an4_{split}.transcription")
        corpus.problems += problems
        recordings = {path.stem: path for path in sorted((folder / "wav" / wav_folder).rglob("*.sph"))}
        corpus.problems += [
            f"{folder / 'etc'}/an4_{split}.transcription: {name} has no recording below {folder / 'wav' / wav_folder}"
            for name in transcripts
            if name not in recordings
        ]
        corpus.problems += [
            f"{path}: has no transcript" for name, path in recordings.items() if name not in transcripts
        ]
        splits[split] = [(recordings[name], text) for name, text in transcripts.items() if name in recordings]
    if request["limit"] and request["name"] == "an4":  # the synthetic corpus was made in that size
        train = round(request["limit"] * _TRAIN_UTTERANCES / synthetic.FULL_SIZE)
        splits = {"train": _spread(splits["train"], train), "test": _spread(splits["test"], request["limit"] - train)}

    wanted = [sphere for rows in splits.values() for sphere, _ in rows]
    with audio.Converter() as converter:
        for sphere in wanted:
            if audio.wav_samples(sphere.with_suffix(".wav")) != _samples_said(sphere):
                converter.add(sphere)
        corpus.problems += converter.problems(progress)

    rows = {
        split: [
            {
                "audio_filepath": str(sphere.with_suffix(".wav")),
                "duration": audio.wav_samples(sphere.with_suffix(".wav")) / audio.SAMPLE_RATE,
                "text": text,
                "speaker": sphere.parent.name,
            }
            for sphere, text in splits[split]
            if sphere.with_suffix(".wav").is_file()
        ]
        for split in SPLITS
    }
    for split, split_rows in rows.items():
        if not split_rows:
            raise InputError("\n".join([f"{folder}: no usable utterance in the {split} set", *corpus.problems]))
    held_out = round(len(rows["train"]) * _DEV_UTTERANCES / _TRAIN_UTTERANCES)
    train, dev = manifest.hold_out_speakers(rows["train"], max(1, held_out), _DEV_SEED)
    for split, split_rows in {"train": train, "dev": dev, "train_all": rows["train"], "test": rows["test"]}.items():
        path = corpus.manifest(split)
        manifest.write_manifest(path, split_rows)
        corpus.utterances[path.name] = len(split_rows)
    state = request | {key: value for key, value in asdict(corpus).items() if key in ("utterances", "problems")}
    state["recordings"] = sum(1 for _ in (folder / "wav").rglob("*.sph"))
    write_if_changed(folder / manifest.CORPUS_NOTES, json.dumps(state, indent=1) + "\n")
    return corpus


def _samples_said(sphere: Path) -> int:
    try:
        return audio.read_sphere_header(sphere).fields.get("sample_count", -2)
    except InputError:
        return -2  # never equal to a WAV's: the conversion reports the error


def _read_state(folder: Path) -> dict | None:
    try:
        state = json.loads((folder / manifest.CORPUS_NOTES).read_text())
    except (OSError, ValueError):
        return None
    needed = ("name", "utterances", "problems", "recordings")
    return state if isinstance(state, dict) and all(key in state for key in needed) else None


def _tree_is_whole(folder: Path, state: dict | None) -> bool:
    """Return whether the unpacked recordings and transcriptions still exist."""
    if not state or not all((folder / "etc" / f"an4_{split}.transcription").is_file() for split in SPLITS):
        return False
    return len(list((folder / "wav").rglob("*.sph"))) >= state["recordings"]


def _is_whole(folder: Path, state: dict | None, request: dict) -> bool:
    """Return whether `folder` already has the complete corpus of `request`, without problems."""
    if not state or state["problems"] or any(state.get(key) != value for key, value in request.items()):
        return False
    try:
        utterances = [
            utterance
            for split in ("train", "dev", "train_all", "test")
            for utterance in manifest.read_manifest(folder / f"{split}_manifest.json", check_audio=False)
        ]
    except InputError:
        return False  # damaged: it is written again
    return all(
        audio.wav_samples(utterance["audio_filepath"]) == round(utterance["duration"] * audio.SAMPLE_RATE)
        for utterance in utterances
    )


def _make_writable(folder: Path) -> None:
    try:
        make_writable(folder)
    except OSError as error:
        raise InputError(f"{folder}: can't be written to ({error.strerror}); choose another with --data-dir") from error


def splits_of(path: str | os.PathLike) -> set[str]:
    """Return the held-out sets that share recordings or speakers with a manifest: "dev", "test", both or neither.

    The held-out sets are the `dev_manifest.json` and `test_manifest.json` next to this manifest and at the root of each
    recording's corpus, and for AN4 the folder of the test recordings.

    Raises:
        InputError: a manifest can't be read.
    """

    path = Path(path)
    folders = {Path(os.path.realpath(path)).parent}
    found, places = set(), set()
    for row in manifest.each_utterance(path, check_audio=False):
        place = os.path.dirname(row["audio_filepath"])
        if os.path.islink(row["audio_filepath"]):
            place = os.path.dirname(os.path.realpath(row["audio_filepath"]))
        places.add(place)
    for parts in {Path(os.path.realpath(place)).parts for place in places}:
        if SPLITS["test"] in parts:
            found.add("test")
        if "wav" in parts:
            folders.add(Path(*parts[: len(parts) - 1 - parts[::-1].index("wav")]))
    for split in {"dev", "test"} - found:
        for held in (folder / f"{split}_manifest.json" for folder in folders):
            # Read again, so that a large manifest isn't in memory.
            ours = manifest.each_utterance(path, check_audio=False)
            if held.is_file() and manifest.shared_with(ours, manifest.each_utterance(held, check_audio=False)):
                found.add(split)
    return found
