"""Long recordings whose captions have wrong times, or whose texts have none, become utterances of the right words."""

import csv
import random
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import soundfile

from asr_with_nemo.data import an4, audio, manifest, pauses
from asr_with_nemo.errors import InputError
from asr_with_nemo.models.loading import load_model
from asr_with_nemo.own_data import preparation
from asr_with_nemo.own_data.prepared import Prepared, Settings
from asr_with_nemo.recognition.alignment import Aligner, _Levels
from asr_with_nemo.recognition.formats import clock
from asr_with_nemo.recognition.speller import Speller
from tests.conftest import run_script
from tests.recognizers import build

RATE = audio.SAMPLE_RATE
# The built-in voices are strange to the model that ships, which hears half of their words wrongly.
STRANGE = 0.01


@pytest.fixture(scope="module")
def model():
    return load_model("an4")


@pytest.fixture(scope="module")
def spoken(small_corpus: an4.Corpus) -> list[tuple[str, np.ndarray]]:
    rows = [row for row in manifest.read_manifest(small_corpus.manifest("train")) if row["duration"] > 2][:24]
    return [(row["text"], audio.load_audio(row["audio_filepath"])) for row in rows]


@pytest.fixture(scope="module")
def cuts(spoken: list[tuple[str, np.ndarray]]) -> list[tuple[float, float]]:
    """Where the utterances are in the long recording: after half a second of quiet each."""
    ends = np.cumsum([len(samples) / RATE + 0.5 for _, samples in spoken])
    return [(end - len(samples) / RATE, end) for end, (_, samples) in zip(ends, spoken, strict=True)]


def record(folder: Path, spoken: list[tuple[str, np.ndarray]], name: str = "talk.wav") -> Path:
    folder.mkdir(exist_ok=True)
    pause = np.random.default_rng(0).normal(0, 1e-4, RATE // 2).astype(np.float32)
    soundfile.write(folder / name, np.concatenate([part for _, some in spoken for part in (pause, some)]), RATE)
    return folder


def caption(folder: Path, texts: list[str], cuts: list[tuple[float, float]], off: float = 2.0) -> None:
    """Write captions whose times are off."""
    generator = random.Random(0)
    blocks = []
    for number, (text, (start, end)) in enumerate(zip(texts, cuts, strict=True), 1):
        by = generator.uniform(-off, off)
        start, end = (clock(max(0.0, time + by), ",") for time in (start, end))
        blocks.append(f"{number}\n{start} --> {end}\n{text}\n")
    (folder / "talk.srt").write_text("\n".join(blocks))


def prepare(source: Path, out: Path, model, least: float = STRANGE, language: str = "", **settings) -> Prepared:
    aligner = Aligner(model, "an4", language, least=least, progress=False)
    return preparation.prepare(source, out, Settings(**settings), 1, progress=False, aligner=aligner)


def rows_of(prepared: Prepared) -> list[dict[str, str]]:
    with open(prepared.rows_file, encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file, delimiter="\t"))


def is_inside(row: dict[str, str], cut: tuple[float, float]) -> bool:
    start = float(row["start"])
    return cut[0] - 0.5 <= start and start + float(row["seconds"]) <= cut[1] + 0.5


def test_captions_with_wrong_times_are_cut_where_they_are_spoken(model, spoken, cuts, tmp_path: Path):
    source = record(tmp_path / "talks", spoken)
    caption(source, [text for text, _ in spoken], cuts)
    prepared = prepare(source, tmp_path / "corpus", model)
    rows = rows_of(prepared)
    right = [is_inside(row, cut) for row, cut in zip(rows, cuts, strict=True)]
    assert sum(right) >= 23
    assert sum(row["fate"] == "kept" for row in rows) >= 22
    assert max(abs(float(row["moved"])) for row in rows if row["moved"]) > 1
    assert any("times moved by" in note for note in prepared.notes)
    # Wrong times overlap; the cuts don't.
    assert not any("overlap" in row["problems"] for row in rows if row["fate"] == "kept")
    page = prepared.report.read_text(encoding="utf-8")
    assert "<h2>Alignment</h2>" in page and "Score" in page and "<audio" in page

    again = prepare(source, tmp_path / "corpus", model)
    assert rows_of(again) == rows


def test_a_text_without_times_is_divided_at_the_pauses(model, spoken, cuts, tmp_path: Path):
    source = record(tmp_path / "talks", spoken)
    texts = [text for text, _ in spoken]
    # As people write: sentences, capitals, a remark, numbers.
    written = " ".join(f"{text.capitalize()}." for text in texts).replace(" seven", " 7", 1)
    (source / "talk.txt").write_text(f"{written}\n[applause, the end]\n")
    prepared = prepare(source, tmp_path / "corpus", model, language="en")
    rows = rows_of(prepared)
    assert len(rows) > 12
    # All of the text is somewhere, as it was written, in its order.
    assert " ".join(row["written"] for row in rows).split() == [*written.split(), "[applause,", "the", "end]"]
    kept = [row for row in rows if row["fate"] == "kept"]
    assert sum(len(row["text"].split()) for row in kept) > 0.8 * len(written.split())
    assert all(float(row["seconds"]) < 20 for row in kept)
    starts = [float(row["start"]) for row in kept]
    assert starts == sorted(starts)
    quiet = [(0.0, cuts[0][0]), *((end, start) for (_, end), (start, _) in pairwise(cuts))]
    ends = [start + float(row["seconds"]) for start, row in zip(starts, kept, strict=True)]
    # The built-in voices have a quiet of up to 0.3 s at their ends.
    in_quiet = [any(a - 0.3 < end < b + 0.3 for a, b in [*quiet, (cuts[-1][1] - 0.5, np.inf)]) for end in ends]
    assert np.mean(in_quiet) > 0.7
    assert "without times" in " ".join(prepared.notes)


def test_without_a_model_a_long_text_is_too_long_and_the_next_step_is_named(spoken, tmp_path: Path):
    source = record(tmp_path / "talks", spoken)
    (source / "talk.txt").write_text(" ".join(text for text, _ in spoken))
    with pytest.raises(InputError, match="too long"):
        preparation.prepare(source, tmp_path / "corpus", Settings(), 1, progress=False)


def test_swapped_texts_are_left_out(model, spoken, cuts, tmp_path: Path):
    source = record(tmp_path / "talks", spoken)
    texts = [text for text, _ in spoken]
    for one, other in ((2, 11), (7, 19)):
        texts[one], texts[other] = texts[other], texts[one]
    caption(source, texts, cuts)
    rows = rows_of(prepare(source, tmp_path / "corpus", model))
    fates = [row["fate"] for row in rows]
    assert [fates[place] for place in (2, 7, 11, 19)] == ["left out"] * 4
    assert fates.count("kept") >= 18
    assert all(row["problems"].startswith(("not found", "mismatch")) for row in rows if row["fate"] == "left out")


def test_texts_of_another_recording(model, spoken, cuts, tmp_path: Path):
    source = record(tmp_path / "talks", spoken[:12])
    (source / "talk.txt").write_text("once upon a time there was a king who had a very beautiful daughter " * 5)
    with pytest.raises(InputError, match="isn't in the recording"):
        prepare(source, tmp_path / "corpus", model, least=0.1)
    # A text of which the recording has the first half.
    (source / "talk.txt").write_text(" ".join(text for text, _ in spoken))
    rows = rows_of(prepare(source, tmp_path / "half", model))
    kept = sum(len(row["text"].split()) for row in rows if row["fate"] == "kept")
    assert 0.7 < kept / sum(len(text.split()) for text, _ in spoken[:12]) < 1.2


def test_short_recordings_get_a_score_and_keep_their_cut(model, spoken, tmp_path: Path):
    source = tmp_path / "talks"
    for number, (text, _) in enumerate(spoken[:12]):
        record(source, [spoken[number]], f"{number:02}.wav")
        other = text if number else spoken[12][0]  # the first has another's text
        (source / f"{number:02}.txt").write_text(other)
    (source / "12.txt").write_text("")
    record(source, [spoken[12]], "12.wav")
    (source / "13.wav").write_bytes(b"not a recording")
    (source / "13.txt").write_text("yes")
    rows = {row["recording"]: row for row in rows_of(prepare(source, tmp_path / "corpus", model))}
    assert rows["00.wav"]["fate"] == "left out" and float(rows["00.wav"]["score"]) < STRANGE
    assert sum(row["fate"] == "kept" for row in rows.values()) >= 9
    assert all(float(row["start"]) == 0 for row in rows.values())
    assert rows["12.wav"]["problems"] == "no text: left out" and rows["13.wav"]["problems"].startswith("unreadable")


def test_a_number_at_the_end_makes_the_cut_uncertain_unless_the_language_is_known(model, spoken, cuts, tmp_path: Path):
    source = record(tmp_path / "talks", spoken)
    texts = [text for text, _ in spoken]
    place = next(place for place, text in enumerate(texts) if text.endswith("seven"))
    texts[place] = texts[place].removesuffix("seven") + "7"
    caption(source, texts, cuts)
    row = rows_of(prepare(source, tmp_path / "corpus", model))[place]
    assert row["fate"] == "left out" and "first or last word" in row["problems"]
    row = rows_of(prepare(source, tmp_path / "english", model, language="en"))[place]
    assert row["fate"] == "kept" and row["text"].endswith("7") and is_inside(row, cuts[place])
    # Nor is a text of remarks alone searched.
    (source / "talk.srt").unlink()
    (source / "talk.txt").write_text("[music] ... —")
    with pytest.raises(InputError, match="no speech"):
        prepare(source, tmp_path / "remarks", model)


def test_a_model_of_other_letters_and_one_without_ctc(model, spoken, cuts, tmp_path: Path):
    source = record(tmp_path / "talks", spoken)
    caption(source, ["добрый день"] * len(spoken), cuts)
    with pytest.raises(InputError, match="language") as caught:
        prepare(source, tmp_path / "corpus", model)
    assert "an4" in str(caught.value) and "д" in str(caught.value)
    with pytest.raises(InputError, match="rnnt"):
        Aligner(build("rnnt of letters", tmp_path), "mine.nemo")


def test_words_are_spelled_as_the_model_writes_them(model):
    def spell(word: str, language: str = "") -> str | None:
        speller = Speller(model, language)
        found = speller.spell(word)
        labels = model.decoder.vocabulary
        return "".join(labels[column] for column in found.columns) if found.is_spoken else None

    assert spell("“Éric’s") == "eric's"
    assert spell("Straße,") == "strasse"
    assert spell("21", "en") == "twenty one"
    assert spell("21") == ""  # nothing is guessed: any sound will do
    assert spell("день") == ""
    assert spell("—") is None and spell("[door slams]") is None


@pytest.mark.slow
def test_the_command_says_what_it_did_and_its_memory_does_not_grow(spoken, cuts, tmp_path: Path, monkeypatch):
    source = record(tmp_path / "talks", spoken)
    caption(source, [text for text, _ in spoken], cuts)
    monkeypatch.delenv("ONEDNN_PRIMITIVE_CACHE_CAPACITY", raising=False)  # which other tests have set in this process
    arguments = ("talks", "--out", "corpus", "--align", "an4", "--workers", "1")
    done = run_script("prepare_corpus.py", *arguments, cwd=tmp_path, ONEDNN_VERBOSE="profile_create")
    assert done.returncode == 0, done.stderr
    assert "24 texts aligned with an4" in done.stdout and "times moved by" in done.stdout
    # oneDNN says of each kernel whether it had kept it: those of all shapes of an hour's batches would take 0.5 GB.
    assert "create:cache_hit" not in done.stdout
    assert "create:cache_miss" in done.stdout or "onednn_verbose" not in done.stdout
    failed = run_script("prepare_corpus.py", "talks", "--out", "c2", "--align", "missing.nemo", cwd=tmp_path)
    assert failed.returncode == 1 and "missing.nemo" in failed.stderr and "Traceback" not in failed.stderr


def test_pieces_that_share_a_pause_leave_the_levels_in_their_places():
    generator = np.random.default_rng(0)
    quiet, loud = generator.normal(0, 1e-3, 7_400), generator.normal(0, 0.1, 24_000)  # 0.46 and 1.5 s
    sound = np.concatenate([part for _ in range(100) for part in (loud, quiet)]).astype(np.float32)
    levels = _Levels(0.0, RATE)
    for start, samples in pauses.cut_at_pauses([sound], RATE):
        end = levels.add(start, samples)
    levels.finish()
    assert end == pytest.approx(len(sound) / RATE) and levels.end == pytest.approx(len(sound) / RATE, abs=0.05)
    middle = (99 * 31_400 + 24_000 + 3_700) / RATE  # of the last pause
    assert levels.quietest(middle - 1, middle + 0.2) == pytest.approx(middle, abs=0.25)
