"""The JSON of speech services and of other recognisers, in the form of Whisper's: segments or words with times.

AWS Transcribe, Google, Azure, Deepgram, AssemblyAI, Speechmatics, IBM Watson, Rev AI, Vosk, and YouTube's captions.
Each has its own shape, and no library reads them all.
"""

import re
from collections.abc import Callable, Iterator

from asr_with_nemo.own_data import channels

Items = list[dict]
"""Segments, or words, each with start, end (in seconds, as numbers or text), text, and speaker and channel if known."""


def items_of(document: object) -> tuple[str, str, Items] | None:
    """Return the service that a document is of, "segment" or "word", and the items; None for any other document."""
    for name, reader in _SERVICES.items():
        try:
            found = reader(document)
        except (LookupError, TypeError, ValueError, AttributeError, ArithmeticError):  # not of this shape
            continue
        if found and found[1]:
            return name, *found
    return None


def _item(start: object, end: object, text: object, speaker: object = None, channel: object = None) -> dict:
    speaker = f"speaker {speaker}" if isinstance(speaker, int) else speaker
    return {"start": start, "end": end, "text": text, "speaker": speaker, "channel": channel}


def _with_punctuation(words: Iterator[tuple[bool, dict]]) -> Items:
    """Return words, each with the punctuation behind it, which these services list as items of its own."""
    made: Items = []
    for is_word, word in words:
        if is_word:
            made.append(word)
        elif made:
            made[-1]["text"] += str(word["text"]).strip()
    return made


def _aws(document: dict) -> tuple[str, Items]:
    results = document["results"]
    if results.get("audio_segments"):
        of = ("start_time", "end_time", "transcript", "speaker_label")
        sides = {one.get("id"): one.get("channel_label") for one in results.get("items") or ()}
        return "segment", [
            _item(
                *(one.get(key) for key in of),
                _number(one.get("channel_label") or sides.get((one.get("items") or [None])[0])),
            )
            for one in results["audio_segments"]
        ]
    results["transcripts"]
    words = (
        (
            one["type"] == "pronunciation",
            _item(
                one.get("start_time"),
                one.get("end_time"),
                one["alternatives"][0]["content"],
                one.get("speaker_label"),
                _number(one.get("channel_label")),
            ),
        )
        for one in results["items"]
    )
    return "word", _with_punctuation(words)


def _number(label: object) -> int | None:
    digits = "".join(filter(str.isdecimal, str(label or "")))
    return int(digits) if digits else None


def _deepgram(document: dict) -> tuple[str, Items]:
    sides = document["results"]["channels"]
    is_split = len(sides) > 1
    if said := document["results"].get("utterances"):
        return "segment", [
            _item(one["start"], one["end"], one["transcript"], one.get("speaker"), one["channel"] if is_split else None)
            for one in said
        ]
    return "word", [
        _item(
            one["start"],
            one["end"],
            one.get("punctuated_word") or one["word"],
            one.get("speaker"),
            number if is_split else None,
        )
        for number, channel in enumerate(sides)
        for one in channel["alternatives"][0]["words"]
    ]


def _google(document: dict) -> tuple[str, Items]:
    results = [_camel(one) for one in document.get("response", document)["results"]]  # of a long operation, too
    best = [(one["alternatives"][0], one.get("channelTag")) for one in results if one.get("alternatives")]
    runs = [([_camel(word) for word in one["words"]], channel) for one, channel in best if one.get("words")]
    sizes = [len(words) for words, _ in runs]
    if len(runs) > 1 and sizes[-1] >= sum(sizes[:-1]) and "speakerTag" in runs[-1][0][0]:
        runs = runs[-1:]  # with speakers, the last result repeats all words
    if not runs:
        return "segment", _google_results(results)
    is_split = len({channel for _, channel in runs}) > 1
    return "word", [
        _item(
            *(_google_time(one.get(f"{edge}Time") or one.get(f"{edge}Offset") or "0s") for edge in ("start", "end")),
            one["word"],
            one.get("speakerTag") or one.get("speakerLabel"),
            channels.number_of(str(channel), 1) if is_split else None,
        )
        for words, channel in runs
        for one in words
    ]


def _google_results(results: list[dict]) -> Items:
    """Return results without times of words, each from the end of the one before it in its channel."""
    made, ends = [], {}
    is_split = len({one.get("channelTag") for one in results}) > 1
    for one in results:
        tag, end = one.get("channelTag"), _google_time(one.get("resultEndTime") or one["resultEndOffset"])
        best = (one.get("alternatives") or [{}])[0].get("transcript", "")
        if best:
            side = channels.number_of(str(tag), 1) if is_split else None
            made.append(_item(ends.get(tag, "0s"), end, best, None, side))
        ends[tag] = end
    return made


def _camel(fields: dict) -> dict:
    """Return fields with the names of the REST interface, startTime; the library for Python writes start_time."""
    return {re.sub("_([a-z])", lambda found: found[1].upper(), name): value for name, value in fields.items()}


def _google_time(written: object) -> object:
    if isinstance(written, dict):
        return float(written.get("seconds", 0)) + float(written.get("nanos", 0)) / 1e9
    return written


def _watson(document: dict) -> tuple[str, Items]:
    best = [one["alternatives"][0] for one in document["results"]]
    words = (word for one in best for word in one["timestamps"])
    return "word", [_item(start, end, word) for word, start, end in words if word.upper() != "%HESITATION"]


def _speechmatics(document: dict) -> tuple[str, Items]:
    words = (
        (
            one["type"] != "punctuation",
            _item(
                one["start_time"],
                one["end_time"],
                one["alternatives"][0]["content"],
                one["alternatives"][0].get("speaker"),
            ),
        )
        for one in document["results"]
        if one["type"] in ("word", "entity", "punctuation")  # not a change of the speaker
    )
    return "word", _with_punctuation(words)


def _azure(document: dict) -> tuple[str, Items]:
    if "phrases" in document:
        return "segment", [
            _item(
                one["offsetMilliseconds"] / 1e3,
                (one["offsetMilliseconds"] + one["durationMilliseconds"]) / 1e3,
                one["text"],
                one.get("speaker"),
                one.get("channel"),
            )
            for one in document["phrases"]
        ]
    is_split = len({one.get("channel") for one in document["recognizedPhrases"]}) > 1
    return "segment", [
        _item(
            one["offsetInTicks"] / 1e7,
            (one["offsetInTicks"] + one["durationInTicks"]) / 1e7,
            one["nBest"][0].get("display") or one["nBest"][0]["lexical"],
            one.get("speaker"),
            one.get("channel") if is_split else None,
        )
        for one in document["recognizedPhrases"]
    ]


def _assembly(document: dict) -> tuple[str, Items]:
    if not {"audio_duration", "audio_url", "acoustic_model"} & set(document):
        raise KeyError("audio_duration")
    said = document.get("utterances") or document.get("sentences") or document.get("paragraphs")
    items = said or document["words"]
    if not all(isinstance(one["start"], int) for one in items):
        raise ValueError("not milliseconds")
    kind = "segment" if said else "word"
    is_split = len({one.get("channel") for one in items}) > 1
    return kind, [
        _item(
            one["start"] / 1e3,
            one["end"] / 1e3,
            one["text"],
            one.get("speaker"),
            channels.number_of(str(one.get("channel")), 1) if is_split else None,
        )
        for one in items
    ]


def _rev(document: dict) -> tuple[str, Items]:
    words = (
        (
            one["type"] == "text",
            _item(one.get("ts"), one.get("end_ts"), one["value"], turn.get("speaker")),
        )
        for turn in document["monologues"]
        for one in turn["elements"]
    )
    return "word", _with_punctuation(words)


def _vosk(document: dict | list) -> tuple[str, Items]:
    results = document if isinstance(document, list) else [document]
    words = [one for result in results for one in result.get("result", [])]
    return "word", [_item(one["start"], one["end"], one["word"]) for one in words]


def _youtube(document: dict) -> tuple[str, Items]:
    events = [one for one in document["events"] if one.get("segs")]
    made = []
    for place, one in enumerate(events):
        text = "".join(part.get("utf8", "") for part in one["segs"]).strip()
        end = one["tStartMs"] + one.get("dDurationMs", 0)
        if place + 1 < len(events):  # a caption is shown until after the next one begins
            end = min(end, events[place + 1]["tStartMs"])
        if text:
            made.append(_item(one["tStartMs"] / 1e3, end / 1e3, text))
    return "segment", made


_SERVICES: dict[str, Callable[[dict], tuple[str, Items]]] = {
    "AWS Transcribe": _aws,
    "Deepgram": _deepgram,
    "Google": _google,
    "Watson": _watson,
    "Speechmatics": _speechmatics,
    "Azure": _azure,
    "AssemblyAI": _assembly,
    "Rev AI": _rev,
    "Vosk": _vosk,
    "YouTube": _youtube,
}
