"""Tiers: which of them hold the transcripts, in other languages and in glossed texts; captions' readings above them."""

from pathlib import Path

import pytest

from asr_with_nemo.errors import InputError
from asr_with_nemo.own_data import annotations, captions
from tests.own_data.corpora import read, record


def text_grid(path: Path, **tiers: str) -> Path:
    """Write a TextGrid in Praat's short form, each tier with one interval."""
    lines = ['"ooTextFile"', '"TextGrid"', "0", "2", "<exists>", str(len(tiers))]
    for name, text in tiers.items():
        lines += ['"IntervalTier"', f'"{name}"', "0", "2", "1", "0.5", "1.5", f'"{text}"']
    path.write_text("\n".join(lines), encoding="utf-8")
    return path


@pytest.mark.parametrize(
    ("tiers", "expected"),
    [
        ({"Sätze": "eins zwei", "Übersetzung": "one two", "Anmerkungen": "loud"}, "eins zwei"),
        ({"mots": "un", "énoncé": "un deux", "phonèmes": "œ̃"}, "un deux"),
        ({"перевод": "one", "фраза": "один два"}, "один два"),
    ],
)
def test_tiers_in_other_languages(tmp_path, tiers, expected):
    reading = annotations.read_textgrid(text_grid(tmp_path / "a.TextGrid", **tiers))
    assert [cue.text for cue in reading.cues] == [expected]


def test_glossed_text_of_elan(tmp_path):
    """The free tier numbers the utterances; their words are on one that depends on it."""

    def annotation(key: str, text: str, parent: str = "") -> str:
        kind = "REF_ANNOTATION" if parent else "ALIGNABLE_ANNOTATION"
        where = f'ANNOTATION_REF="{parent}"' if parent else 'TIME_SLOT_REF1="t1" TIME_SLOT_REF2="t2"'
        value = f"<ANNOTATION_VALUE>{text}</ANNOTATION_VALUE>"
        return f'<ANNOTATION><{kind} ANNOTATION_ID="{key}" {where}>{value}</{kind}></ANNOTATION>'

    (tmp_path / "a.eaf").write_text(
        '<ANNOTATION_DOCUMENT><TIME_ORDER><TIME_SLOT TIME_SLOT_ID="t1" TIME_VALUE="500"/>'
        '<TIME_SLOT TIME_SLOT_ID="t2" TIME_VALUE="1500"/></TIME_ORDER>'
        f'<TIER TIER_ID="A_Ann">{annotation("a1", "ann.001")}</TIER>'
        f'<TIER TIER_ID="A_Transcription-txt-xyz" PARENT_REF="A_Ann">{annotation("a2", "one two", "a1")}</TIER>'
        f'<TIER TIER_ID="A_Translation-gls-en" PARENT_REF="A_Ann">{annotation("a3", "eins zwei", "a1")}</TIER>'
        "</ANNOTATION_DOCUMENT>"
    )
    [cue] = annotations.read_elan(tmp_path / "a.eaf").cues
    assert (cue.text, cue.start, cue.end) == ("one two", 0.5, 1.5)


@pytest.mark.parametrize(
    ("tiers", "expected"),
    [
        ({"S1 ID": "one two", "ID02": "three"}, {"one two", "three"}),
        ({"Laut": "one two"}, {"one two"}),
        ({"Note": "one two"}, {"one two"}),
        ({"Laut": "w", "Ann": "one two"}, {"one two"}),
        ({"ref": "ann.001", "Ann": "one two"}, {"one two"}),
    ],
)
def test_names_of_tiers_that_may_hold_transcripts(tmp_path, tiers, expected):
    reading = annotations.read_textgrid(text_grid(tmp_path / "a.TextGrid", **tiers))
    assert {cue.text for cue in reading.cues} == expected


@pytest.mark.parametrize("name", ["Ann text_en", "Ann-turn-type"])
def test_tiers_of_speakers_are_read_beside_what_depends_on_them(name):
    ann = annotations.Tier("Ann", [annotations.Cue("1", 0, 1, "one two"), annotations.Cue("2", 2, 3, "yes")])
    bob = annotations.Tier("Bob", [annotations.Cue("3", 1, 2, "three")])
    more = annotations.Tier(name, [annotations.Cue("4", 0, 1, "question")], is_dependent=True)
    reading = annotations.chosen(Path("a.eaf"), [ann, bob, more], (), are_speakers=True)
    assert {(cue.text, cue.speaker) for cue in reading.cues} == {("one two", "Ann"), ("yes", "Ann"), ("three", "Bob")}


def test_unknown_tier_is_answered_with_those_that_there_are(tmp_path):
    record(tmp_path / "a.wav", 2.0)
    text_grid(tmp_path / "a.TextGrid", ann="one", bob="two")
    with pytest.raises(InputError, match=r"no tier 'carl' \(--tier\); it has 'ann', 'bob'"):
        read(tmp_path, tiers=["carl"])


def test_readings_and_names_in_markup(tmp_path):
    rows = ["<ruby>漢<rt>kan</rt>字<rt>ji</rt></ruby>", "<b>Bob:</b> yes", "<i>Ann: no</i>", "Bob: on"]
    cues = [f"00:0{n}.000 --> 00:0{n}.900\n{row}\n" for n, row in enumerate(rows, 1)]
    (tmp_path / "a.vtt").write_text("WEBVTT\n\n" + "\n".join(cues), encoding="utf-8")
    assert captions.read(tmp_path / "a.vtt").cues[0].text == "漢字"
    (tmp_path / "a.vtt").write_text("WEBVTT\n\n" + "\n".join([*cues[1:], cues[3]]), encoding="utf-8")
    assert {(cue.text, cue.speaker) for cue in captions.read(tmp_path / "a.vtt").cues} == {
        ("yes", "Bob"),
        ("no", "Ann"),
        ("on", "Bob"),
    }


def test_times_of_elan_that_nobody_has_set_are_spread(tmp_path):
    slots = {"t1": 1_000, "t2": None, "t3": None, "t4": 4_000, "t5": None, "t6": 6_000}
    order = "".join(
        f'<TIME_SLOT TIME_SLOT_ID="{name}"' + ("" if at is None else f' TIME_VALUE="{at}"') + "/>"
        for name, at in slots.items()
    )
    made = "".join(
        f'<ANNOTATION><ALIGNABLE_ANNOTATION ANNOTATION_ID="{text}" TIME_SLOT_REF1="{start}" TIME_SLOT_REF2="{end}">'
        f"<ANNOTATION_VALUE>{text}</ANNOTATION_VALUE></ALIGNABLE_ANNOTATION></ANNOTATION>"
        for text, start, end in [("one", "t1", "t2"), ("two", "t2", "t3"), ("three", "t3", "t4"), ("four", "t5", "t6")]
    )
    (tmp_path / "a.eaf").write_text(
        f'<ANNOTATION_DOCUMENT><TIME_ORDER>{order}</TIME_ORDER><TIER TIER_ID="Ann">{made}</TIER></ANNOTATION_DOCUMENT>'
    )
    reading = annotations.read_elan(tmp_path / "a.eaf")
    assert [(cue.start, cue.end) for cue in reading.cues[:3]] == [(1, 2), (2, 3), (3, 4)]
    assert reading.cues[3].problem == "bad times" and any(
        "2 times that nobody has set" in note for note in reading.notes
    )
