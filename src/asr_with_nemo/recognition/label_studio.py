"""Tasks for Label Studio: recordings with the texts that a model heard, for a person to listen to and correct.

The format: https://labelstud.io/guide/predictions (pre-annotations), https://labelstud.io/tags/audio (regions).
What a person has corrected is read by `own_data.label_studio`.
"""

import json
import os
import shlex
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from urllib.parse import quote

from asr_with_nemo.base.files import reason_of, replacing, write_if_changed
from asr_with_nemo.data import audio
from asr_with_nemo.errors import InputError
from asr_with_nemo.own_data.cues import Cue, utterances_of
from asr_with_nemo.recognition.destinations import ForAPerson
from asr_with_nemo.recognition.recordings import Recording
from asr_with_nemo.recognition.transcripts import Transcript

LOCAL_FILES = "/data/local-files/?d="
"""Where Label Studio serves the files of its own machine: what follows is a path within the folder that it serves."""
_LONGEST = 20.0  # seconds; a longer recording is divided into regions
_PAUSE = 1.0  # seconds; a longer one ends a region
_MARGIN = 0.25  # seconds of the pause beside it that a region takes, at most: words' times are tight
_WHOLE, _REGION, _LABEL = "transcription", "text", "Speech"
_BOTH = {_WHOLE, _REGION}

_CONFIG = """<View>
  <Header value="Listen, and correct the text"/>
{labels}  <Audio name="audio" value="$audio" hotkey="space"/>
{texts}</View>
"""
_OF_REGIONS = (
    '  <Labels name="labels" toName="audio">\n    <Label value="Speech"/>\n    <Label value="Noise"/>\n  </Labels>\n',
    f'  <TextArea name="{_REGION}" toName="audio" perRegion="true" editable="true" rows="2" maxSubmissions="1" '
    'displayMode="region-list"/>\n',
)
_OF_WHOLE = f'  <TextArea name="{_WHOLE}" toName="audio" editable="true" rows="3" maxSubmissions="1"/>\n'


def addresses(recordings: Sequence[Recording], root: Path | None, url: str) -> tuple[Path, list[str]]:
    """Return the folder that Label Studio is to serve, and the address of each recording there.

    Args:
        recordings: what is to be corrected.
        root: the folder; by default the one above the folder that all recordings have in common, since Label Studio
            wants a folder within it for a project.
        url: what comes before a recording's path within the folder.

    Raises:
        InputError: a recording lies outside `root`.
    """
    files = [os.path.abspath(_file(recording)) for recording in recordings]
    root = Path(os.path.abspath(root)) if root else Path(os.path.commonpath([*map(os.path.dirname, files)])).parent
    for file in files:
        if not Path(file).is_relative_to(root):
            raise InputError(f"{file}: lies outside --audio-root {root}; name a folder that holds all recordings")
    return root, [url + quote(os.fsencode(Path(file).relative_to(root))) for file in files]


def _file(recording: Recording) -> str:
    return os.fspath(recording.sound.path if isinstance(recording.sound, audio.Clip) else recording.sound)


def destination(
    recordings: Sequence[Recording],
    output: Path | None,
    settings: Mapping,
    model: str,
    root: Path | None = None,
    url: str = LOCAL_FILES,
    count: int | None = None,
    log: Callable[[str], object] = print,
) -> ForAPerson:
    """Return where tasks are written: into `output`, and beside it (`FILE.xml`) the labeling config that they fit.

    Args:
        recordings, settings, count: as of `destinations.ForAPerson`.
        output: one JSON list.
        model: the name of the model, for `model_version`.
        root, url: as of `addresses`.
        log: called with the next steps.

    Raises:
        InputError: `output` isn't a .json file, is there already, or can't be written; or as of `addresses`.
    """
    if output is None or output.suffix.lower() != ".json":
        raise InputError(f"--format label-studio: give it --output FILE.json; {output or 'the terminal'} isn't one")
    config = _config_place(output)
    if config.exists() and config.read_bytes() not in [_config(used).encode() for used in ({_WHOLE}, {_REGION}, _BOTH)]:
        raise InputError(f"{config}: the labeling config is written there; name another --output")
    root, places = addresses(recordings, root, url)

    def write(path: Path, heard: Iterable[tuple[int, Transcript]], said: str) -> None:
        tasks = (task(recordings[place], places[place], one, model) for place, one in heard)
        count = _write(path, tasks)
        served = shlex.quote(str(root))
        log(
            f"{path}: {count:,} tasks with the model's texts{said and ', '}{said}; {_config_place(path)}: the labeling "
            "config. Start Label Studio with\n"
            f"  LABEL_STUDIO_LOCAL_FILES_SERVING_ENABLED=true LABEL_STUDIO_LOCAL_FILES_DOCUMENT_ROOT={served} "
            "label-studio\n"
            "make a project with this config (Labeling Interface, Code), add the folder of the recordings as its "
            "source storage (Local files), import the tasks, correct the texts, export them as JSON, and then:\n"
            f"  python scripts/prepare_corpus.py EXPORT.json --audio-root {served} --out DIR"
        )

    return ForAPerson(recordings, output, settings, write, count)


def _write(path: Path, tasks: Iterable[dict]) -> int:
    """Write tasks and their config; return how many tasks there are."""
    used, count = set(), 0
    try:
        with replacing(path) as partial, open(partial, "w", encoding="utf-8", errors="backslashreplace") as file:
            for one in tasks:
                used |= {result["from_name"] for made in one["predictions"] for result in made["result"]}
                file.write((",\n" if count else "[\n") + json.dumps(one, ensure_ascii=False))
                count += 1
            file.write("\n]\n" if count else "[]\n")
            write_if_changed(_config_place(path), _config(used))  # before the tasks have their name
    except OSError as error:
        raise InputError(f"{path}: can't be written ({reason_of(error)})") from error
    return count


def _config(used: set[str]) -> str:
    """Return the labeling config for the fields that the tasks use."""
    labels, texts = _OF_REGIONS if _REGION in used else ("", "")
    texts += _OF_WHOLE if _WHOLE in used or not texts else ""
    return _CONFIG.format(labels=labels, texts=texts)


def _config_place(tasks: Path) -> Path:
    """Return where the labeling config of a file of tasks is written."""
    return tasks.with_suffix(".xml")


def task(recording: Recording, address: str, heard: Transcript, model: str) -> dict:
    """Return a recording as a task, with a prediction if a word was heard.

    A recording of up to 20 s has its text as a whole. A longer one, or a part of one, has regions: they end at pauses
    of a second, and last 20 s at most.
    """
    if not heard.words:
        return {"data": {"audio": address}, "predictions": []}
    sound = recording.sound
    if not isinstance(sound, audio.Clip) and heard.duration <= _LONGEST:
        results = [_result(_WHOLE, "textarea", {"text": [heard.text]}, "whole")]
    else:
        clip = sound if isinstance(sound, audio.Clip) else audio.Clip(sound)
        results = [
            result
            for number, (start, end, text) in enumerate(_regions(heard), 1)
            for result in _region(f"part{number}", clip, start, end, text)
        ]
    prediction = {"model_version": model, "score": round(heard.confidence or 0.0, 4), "result": results}
    return {"data": {"audio": address}, "predictions": [prediction]}


def _result(name: str, kind: str, value: dict, key: str) -> dict:
    return {"id": key, "from_name": name, "to_name": "audio", "type": kind, "value": value}


def _region(key: str, clip: audio.Clip, start: float, end: float, text: str) -> Iterator[dict]:
    """Yield the two results of a region, its label and its text, with times in the whole recording."""
    times = {"start": round(clip.offset + start, 3), "end": round(clip.offset + end, 3), "channel": clip.channel or 0}
    yield _result("labels", "labels", times | {"labels": [_LABEL]}, key)
    yield _result(_REGION, "textarea", times | {"text": [text]}, key)


def _regions(heard: Transcript) -> Iterator[tuple[float, float, str]]:
    """Yield start, end and text of the runs of words between pauses, with a little of the pauses."""
    cues = [Cue("", word.start, word.end, word.word) for word in heard.words]
    found = list(utterances_of(cues, _PAUSE))
    if not found:
        return
    margins = [min(_MARGIN, found[0].start)]
    for before, after in pairwise(found):
        margins.append(min(_MARGIN, max(0.0, (after.start - before.end) / 2)))
    margins.append(min(_MARGIN, max(0.0, heard.duration - found[-1].end)))
    for cue, before, after in zip(found, margins, margins[1:], strict=False):
        yield cue.start - before, cue.end + after, cue.text
