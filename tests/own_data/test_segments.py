"""JSON of speech services and recognisers, STM and CTM, and tables of one recording's texts."""

import json
import time
from pathlib import Path

import pytest

from asr_with_nemo.errors import InputError
from asr_with_nemo.own_data import segments
from tests.own_data.corpora import read, record, times

WORDS = [("one", 0.5, 1.0), ("two", 1.0, 1.5), ("three", 3.0, 4.0)]
UTTERANCES = [("one two", 0.5, 1.5), ("three", 3.0, 4.0)]
ALTERNATIVE = {"transcript": "one two three", "confidence": 0.9}
AWS = [
    {
        "type": "pronunciation",
        "start_time": str(start),
        "end_time": str(end),
        "alternatives": [{"content": word}],
        "speaker_label": "spk_0",
    }
    for word, start, end in WORDS
]
DEEPGRAM = {"alternatives": [ALTERNATIVE | {"words": [{"word": w, "start": s, "end": e} for w, s, e in WORDS]}]}
DOCUMENTS = {
    "AWS Transcribe": {"results": {"transcripts": [ALTERNATIVE], "items": AWS}},
    "Deepgram": {"results": {"channels": [DEEPGRAM]}},
    "Google": {
        "results": [
            {"alternatives": [{"words": [{"word": w, "startTime": f"{s}s", "endTime": f"{e}s"} for w, s, e in WORDS]}]}
        ]
    },
    "Watson": {"results": [{"alternatives": [{"timestamps": [[w, s, e] for w, s, e in WORDS]}]}]},
    "Speechmatics": {
        "results": [
            {"type": "word", "start_time": s, "end_time": e, "alternatives": [{"content": w}]} for w, s, e in WORDS
        ]
    },
    "Azure": {
        "recognizedPhrases": [
            {"offsetInTicks": s * 1e7, "durationInTicks": (e - s) * 1e7, "nBest": [{"display": t}]}
            for t, s, e in UTTERANCES
        ]
    },
    "AssemblyAI": {
        "audio_url": "x",
        "words": [{"text": w, "start": int(s * 1000), "end": int(e * 1000), "speaker": None} for w, s, e in WORDS],
    },
    "Rev AI": {
        "monologues": [
            {"speaker": 0, "elements": [{"type": "text", "value": w, "ts": s, "end_ts": e} for w, s, e in WORDS]}
        ]
    },
    "Vosk": [{"result": [{"conf": 1.0, "word": w, "start": s, "end": e} for w, s, e in WORDS], "text": "one two"}],
    "YouTube": {
        "events": [
            {"tStartMs": int(s * 1000), "dDurationMs": int((e - s) * 1000), "segs": [{"utf8": t}]}
            for t, s, e in UTTERANCES
        ]
    },
}


@pytest.mark.parametrize("service", DOCUMENTS)
def test_json_of_services(tmp_path, service):
    (tmp_path / "a.json").write_text(json.dumps(DOCUMENTS[service]))
    reading = segments.read_json(tmp_path / "a.json")
    assert [(cue.text, cue.start, cue.end) for cue in reading.cues] == UTTERANCES
    assert f"read as JSON of {service}" in reading.notes


def test_channels_of_deepgram(tmp_path):
    (tmp_path / "a.json").write_text(json.dumps({"results": {"channels": [DEEPGRAM, DEEPGRAM]}}))
    assert [cue.channel for cue in segments.read_json(tmp_path / "a.json").cues] == [0, 0, 1, 1]


@pytest.mark.parametrize(
    "content",
    [
        json.dumps({"segments": [{"startTime": 0.5, "endTime": 1.5, "body": "yes", "speaker": "Ann"}]}),
        json.dumps({"segments": [{"start": "00:00:00.500", "end": "00:00:01,500", "text": "yes", "speaker": "Ann"}]}),
        json.dumps([{"start": "0.5s", "end": "1.5s", "text": "yes", "speaker": "Ann"}]),
        '{"start": 0.5, "end": 1.5, "text": "yes", "speaker": "Ann"}\n' * 2,
    ],
)
def test_names_and_times_of_segments(tmp_path, content):
    (tmp_path / "a.json").write_text(content)
    [cue, *_] = segments.read_json(tmp_path / "a.json").cues
    assert (cue.start, cue.end, cue.text, cue.speaker) == (0.5, 1.5, "yes", "Ann")


@pytest.mark.parametrize("name", ["segments", "words"])
def test_milliseconds_in_json(tmp_path, name):
    record(tmp_path / "a.wav", 6.0)
    items = [{"start": int(s * 1000), "end": int(e * 1000), "text": t} for t, s, e in UTTERANCES]
    items = items if name == "segments" else [one | {"end": one["start"] + 999} for one in items]
    (tmp_path / "a.json").write_text(json.dumps({name: items}))
    entries, said = read(tmp_path)
    assert [entry.start for entry in entries] == [0.5, 3.0] and "milliseconds" in said


def test_utterances_in_whole_seconds_are_no_milliseconds(tmp_path):
    record(tmp_path / "a.wav", 13.0)
    said = [{"start": 0, "end": 4, "text": "one two"}, {"start": 5, "end": 9, "text": "three"}]
    (tmp_path / "a.json").write_text(json.dumps({"utterances": said}))
    assert [times(entry) for entry in read(tmp_path)[0]] == [(0, 4.0), (5, 4.0)]


@pytest.mark.parametrize(("there", "expected"), [((1, 1), [None, None]), ((1, 2), [0, 1]), ((0, 1), [0, 1])])
def test_channels_of_segments_are_counted_as_they_are_written(tmp_path, there, expected):
    said = [{"start": n, "end": n + 1, "text": "yes", "channel": channel} for n, channel in enumerate(there)]
    (tmp_path / "a.json").write_text(json.dumps({"segments": said}))
    assert [cue.channel for cue in segments.read_json(tmp_path / "a.json").cues] == expected


def cues_of(folder: Path, document: object) -> list[tuple]:
    (folder / "a.json").write_text(json.dumps(document))
    return [(cue.text, cue.start, cue.channel) for cue in segments.read_json(folder / "a.json").cues]


def test_channels_of_services(tmp_path):
    expected = [("yes", 0.5, 0), ("no", 0.5, 1)]
    words = [("yes", 1), ("no", 2)]
    google = [
        {"alternatives": [{"words": [{"word": w, "start_time": "0.5s", "end_time": "1s"}]}], "channel_tag": n}
        for w, n in words
    ]
    assert cues_of(tmp_path, {"results": google}) == expected
    part = {"start_time": "0.5", "end_time": "1.0"}
    aws = [part | {"transcript": w, "channel_label": f"ch_{n - 1}"} for w, n in words]
    assert cues_of(tmp_path, {"results": {"audio_segments": aws}}) == expected
    items = [{"id": n, "channel_label": f"ch_{n - 1}"} for _, n in words]
    aws = [part | {"transcript": w, "items": [n]} for w, n in words]
    assert cues_of(tmp_path, {"results": {"audio_segments": aws, "items": items}}) == expected
    assembly = [{"text": w, "start": 500, "end": 1000, "channel": str(n)} for w, n in words]
    assert cues_of(tmp_path, {"audio_url": "x", "utterances": assembly}) == expected


def test_what_services_list_beside_words(tmp_path):
    watson = [[w, s, e] for w, s, e in [("one", 0.5, 0.7), ("%HESITATION", 0.7, 0.8), ("two", 0.8, 1.0)]]
    assert cues_of(tmp_path, {"results": [{"alternatives": [{"timestamps": watson}]}]}) == [("one two", 0.5, None)]
    kinds = [("word", "on"), ("entity", "17 January"), ("punctuation", "."), ("speaker_change", "")]
    results = [
        {"type": kind, "start_time": n / 2, "end_time": n / 2 + 0.5} | ({"alternatives": [{"content": w}]} if w else {})
        for n, (kind, w) in enumerate(kinds)
    ]
    assert cues_of(tmp_path, {"results": results}) == [("on 17 January.", 0.0, None)]


def test_json_lines_with_any_character_and_a_bad_line(tmp_path):
    row = '{"start": 0.5, "end": 1.5, "text": "yes\u2028no"}\n'
    (tmp_path / "a.json").write_text(row * 2, encoding="utf-8")
    assert [cue.text for cue in segments.read_json(tmp_path / "a.json").cues] == ["yes no"] * 2
    record(tmp_path / "a.wav", 4.0)
    (tmp_path / "a.json").write_text(row * 2 + '{"start": 1,', encoding="utf-8")
    with pytest.raises(InputError, match=r"a\.json: not JSON, or truncated \(line 3"):
        segments.read_json(tmp_path / "a.json")
    with pytest.raises(InputError, match=r"without transcripts(?s:.)*not JSON, or truncated \(line 3"):
        read(tmp_path)


def test_a_line_of_stm_takes_no_time(tmp_path):
    (tmp_path / "a.stm").write_text(f"a 1 s1 0.5 1.5 one {{{' ' * 10_000}two\n")
    began = time.perf_counter()
    assert segments.read_stm(tmp_path / "a.stm").cues[0].text == "one { two"
    assert time.perf_counter() - began < 1


def test_another_json_beside_a_recording_is_no_table(tmp_path):
    record(tmp_path / "a.wav")
    (tmp_path / "a.json").write_text('{"title": "an evening", "place": "town"}')
    with pytest.raises(InputError, match=r"without transcripts(?s:.)*a\.json"):
        read(tmp_path)


def test_stm_with_alternatives_ignored_parts_and_many_channels(tmp_path):
    lines = [
        "a 1 s1 0.5 1.5 <o,f0,male> one {two / too} %hesitation",
        "a 4 s2 2.0 3.0 three",
        "a 1 s1 3 4 <NA> ignore_time_segment_in_scoring",
        "a 1 s1 4 5 <unk> four",
    ]
    (tmp_path / "a.stm").write_text("\n".join(lines))
    reading = segments.read_stm(tmp_path / "a.stm")
    assert [(cue.text, cue.channel) for cue in reading.cues if not cue.problem] == [
        ("one two", 0),
        ("three", 3),
        ("<unk> four", 0),
    ]
    assert [cue.problem for cue in reading.cues] == ["", "", "no speech", ""] and "alternatives" in reading.notes[0]


def test_ctm_with_types_and_speakers(tmp_path):
    lines = ["a 1 0.5 0.3 one 0.9 lex s1", "a 1 0.8 0.2 two 0.9 lex s2", "a 1 1.0 0.2 three 0.9 lex s2"]
    lines += ["a 1 1.2 0.1 %HESITATION 0.9 fp s2", "a 1 1.3 0.1 [cough] 0.9 non-lex s2", "b 3 0 1 four"]
    (tmp_path / "a.ctm").write_text("\n".join(lines))
    cues = segments.read_ctm(tmp_path / "a.ctm").cues
    expected = [("one", "s1", 0), ("two three", "s2", 0), ("four", "", 2)]
    assert [(cue.text, cue.speaker, cue.channel) for cue in cues] == expected


def of_table(folder: Path, content: str, name: str = "a.csv") -> list:
    record(folder / "a.wav", 9.5)
    (folder / name).write_text(content)
    return [(entry.text, times(entry), entry.speaker) for entry in read(folder)[0]]


@pytest.mark.parametrize(
    "content",
    [
        "Von;Bis;Sprecher;Text\n00:00:00,500;00:00:04,500;Ann;one\n5;9;Ann;two\n",
        "début\tfin\tlocuteur\ttexte\n0,5\t4,5\tAnn\tone\n5\t9\tAnn\ttwo\n",
        "startTime,endTime,speaker,text\n0.5,4.5,Ann,one\n5,9,Ann,two\n",
        "start,end,speaker,text\n500.0,4500.0,Ann,one\n5000.0,9000.0,Ann,two\n",
    ],
)
def test_tables_of_one_recording(tmp_path, content):
    assert of_table(tmp_path, content) == [("one", (0.5, 4.0), "Ann"), ("two", (5, 4.0), "Ann")]


def test_table_without_a_header_is_refused_with_the_next_step(tmp_path):
    with pytest.raises(InputError, match=r"a\.csv: for the texts of its recording, its first line must"):
        of_table(tmp_path, "0.5,4.5,one\n5,9,two\n")


@pytest.mark.parametrize(
    ("name", "step"),
    [("a.docx", "plain text"), ("a.sbv", r"\.srt"), ("a.trs", r"\.srt"), ("a.A.words.xml", "--recipe ami")],
)
def test_forms_that_are_not_read_are_named_with_the_next_step(tmp_path, name, step):
    record(tmp_path / "a.wav")
    (tmp_path / name).write_text("x")
    for source in (tmp_path, tmp_path / name):
        with pytest.raises(InputError, match=rf"{name}(?s:.)*{step}"):
            read(source)
