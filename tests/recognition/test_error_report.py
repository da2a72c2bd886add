"""The error browser: what its page holds, and what a person does with it in a real browser."""

import json
import random
import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import soundfile

from asr_with_nemo.errors import InputError
from asr_with_nemo.recognition import error_report, evaluation, side_by_side
from asr_with_nemo.recognition.transcripts import Transcript, Word
from asr_with_nemo.recognition.wer import ScoredUtterance
from tests.conftest import ROOT, run_script
from tests.teaching.conftest import chromium  # noqa: F401 (a fixture)

SAID = [("ann", "nine five", "five five"), ("bob", "go home", "go"), ("ann", "yes", "yes oh"), ("bob", "stop", "stop")]


def heard(text: str, sure: float = 0.9) -> Transcript:
    words = [Word(word, place, place + 0.5, sure) for place, word in enumerate(text.split())]
    return Transcript(text, words, 1.0)


def a_result(folder: Path, said: list[tuple[str, str, str]] = SAID, sure: float = 0.9) -> evaluation.Result:
    """Write recordings and their manifest, and return an evaluation of them."""
    (folder / "wav").mkdir(parents=True)
    lines, rows = [], []
    generator = np.random.default_rng(0)
    for number, (speaker, reference, hypothesis) in enumerate(said):
        name = f"wav/{number}.wav"
        soundfile.write(folder / name, 0.1 * generator.normal(size=16_000), 16_000)
        lines.append({"audio_filepath": name, "duration": 1.0, "text": reference, "speaker": speaker})
        rows.append(ScoredUtterance(name, speaker, reference, hypothesis))
    (folder / "m.json").write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")
    texts = [heard(hypothesis, sure if number else 0.3) for number, (_, _, hypothesis) in enumerate(said)]
    facts = ("mine", "greedy", "m.nemo", str(folder / "m.json"), 4.0, 2.0, "a CPU", [])
    return evaluation.Result(rows, *facts, heard=texts)


def utterances(page: str) -> list[dict]:
    return json.loads(re.search(r'id="data">(.*)</script>', page)[1])


def test_the_page_holds_figures_utterances_and_sound(tmp_path: Path):
    result = a_result(tmp_path / "data")
    error_report.write_page(result, tmp_path / "errors.html")
    page = (tmp_path / "errors.html").read_text(encoding="utf-8")
    low, high = result.ci95
    assert f"{result.wer:.1%}" in page and f"95% interval {low:.1%} to {high:.1%}" in page
    assert "1 · 1 ·\n1</b> substitutions" in page
    rows = utterances(page)
    assert [row["number"] for row in rows] == [1, 2, 3, 4]
    assert rows[0]["pairs"] == [["nine", "five"], ["five", "five"]] and rows[0]["confidence"] == [0.3, 0.3]
    assert all(row["sound"].startswith("data:audio/mpeg;base64,") for row in rows)
    assert not re.search(r'(src|href)="?https?:', page)
    assert "nine → five" in page and "home → (nothing)" in page and "(nothing) → oh" in page


def test_beyond_the_limits_players_link_to_the_files_and_the_page_says_so(tmp_path: Path):
    result = a_result(tmp_path / "my data")
    (tmp_path / "pages").mkdir()
    error_report.write_page(result, tmp_path / "pages" / "errors.html", sound_limit=10_000, row_limit=3)
    page = (tmp_path / "pages" / "errors.html").read_text(encoding="utf-8")
    sounds = [row["sound"] for row in utterances(page)]
    embedded = sum(sound.startswith("data:") for sound in sounds)
    assert 0 < embedded < 3 and sounds[-1] == "../my%20data/wav/2.wav"
    assert f"{embedded} utterances, those with the most errors, have their sound in this page" in page
    assert "the 3 utterances with the most errors; the other\n1 are in the table" in page


def test_a_part_of_a_long_recording_links_to_its_seconds(tmp_path: Path):
    result = a_result(tmp_path)
    row = json.loads((tmp_path / "m.json").read_text().splitlines()[0]) | {"offset": 0.25, "duration": 0.5}
    (tmp_path / "m.json").write_text(f"{json.dumps(row)}\n" * 4)
    error_report.write_page(result, tmp_path / "errors.html", sound_limit=0)
    assert utterances((tmp_path / "errors.html").read_text())[0]["sound"] == "wav/0.wav#t=0.25,0.75"


def test_no_text_can_run_as_a_script(tmp_path: Path):
    hostile = "</script><script>document.title='taken'</script> <img src=x onerror=alert(1)>"
    result = a_result(tmp_path, [(hostile, hostile, "go"), ("ann", "go", hostile)])
    error_report.write_page(result, tmp_path / "errors.html")
    page = (tmp_path / "errors.html").read_text(encoding="utf-8")
    assert "<script>document.title" not in page and "<img src=x" not in page
    assert {row["speaker"] for row in utterances(page)} == {hostile, "ann"}


def test_a_perfect_model_and_no_speakers(tmp_path: Path):
    error_report.write_page(a_result(tmp_path, [("", "go", "go"), ("", "", "")]), tmp_path / "errors.html")
    page = (tmp_path / "errors.html").read_text(encoding="utf-8")
    assert "No errors." in page and "By speaker" not in page


@pytest.mark.parametrize(("name", "reason"), [("errors.txt", "ends in .html"), ("a/b.html", "can't be written")])
def test_a_place_that_cant_be_written_is_refused_before_the_work(tmp_path: Path, name: str, reason: str):
    (tmp_path / "a").write_text("a file")
    with pytest.raises(InputError, match=reason):
        error_report.check_place(tmp_path / name)


@pytest.mark.slow
def test_the_command_writes_it(small_corpus, tmp_path: Path):
    manifest = small_corpus.manifest("test")
    done = run_script("evaluate.py", "an4", manifest, "--report", tmp_path / "errors.html", cwd=tmp_path)
    assert done.returncode == 0 and f"report: {tmp_path / 'errors.html'}" in done.stdout, done.stderr
    rows = utterances((tmp_path / "errors.html").read_text(encoding="utf-8"))
    assert len(rows) == len(manifest.read_text().splitlines()) and any(row["confidence"] for row in rows)


def test_two_models_are_shown_side_by_side_word_by_word(tmp_path: Path):
    result = a_result(tmp_path / "data")
    others = [row_of(row, text) for row, text in zip(result.rows, ("nine five", "go home oh", "", "stop"), strict=True)]
    pair = side_by_side.pair(result.rows, others, "other.nemo")
    assert pair.utterances == (0, 1, 3) and pair.verdict.startswith("no winner")
    error_report.write_page(result, tmp_path / "errors.html", beside=pair)
    page = (tmp_path / "errors.html").read_text(encoding="utf-8")
    rows = {row["number"]: row for row in utterances(page)}
    assert rows[1]["pairs"] == [["nine", "five", "nine"], ["five", "five", "five"]] and rows[1]["other"] == 0
    assert rows[2]["pairs"] == [["go", "go", "go"], ["home", "", "home"], ["", "", "oh"]]
    assert rows[3]["pairs"] == [["yes", "yes", ""], ["", "oh", ""]]
    assert "Beside other.nemo" in page and f"{100 * pair.comparison.difference:+.1f} points" in page
    assert "1 · 2</b> words that only this model has right" in page


def row_of(row: ScoredUtterance, text: str) -> ScoredUtterance:
    return ScoredUtterance(row.file, row.speaker, row.reference, text)


def test_results_in_another_order_are_paired_and_others_refused(tmp_path: Path):
    rows = [ScoredUtterance(f"{n}.wav", "", "yes", "yes" if n else "no") for n in range(30)]
    worse = [row_of(row, "no") for row in rows]
    pair = side_by_side.pair(rows, worse[::-1], "other")
    assert [row.file for row in pair.others] == [row.file for row in rows]
    assert pair.verdict == "this model wins" and side_by_side.pair(worse, rows, "x").verdict == "the other model wins"
    parts = [ScoredUtterance("long.wav", "", "yes", "yes")] * 5  # of one recording, with one text
    assert side_by_side.pair(parts, [row_of(row, "no") for row in parts], "other").utterances == (5, 0, 0)
    with pytest.raises(InputError, match="not of the same utterances"):
        side_by_side.pair(rows, worse[:-1], "other")


def test_the_command_takes_results_or_a_model_beside_it(small_corpus, tmp_path: Path):
    manifest = small_corpus.manifest("test")
    options = ("evaluate.py", ROOT / "src/asr_with_nemo/assets/an4.onnx", manifest)
    done = run_script(*options, "--output", tmp_path / "an4.json", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    for other in (tmp_path / "an4.json", options[1]):
        done = run_script(*options, "--report", tmp_path / "errors.html", "--beside", other, cwd=tmp_path)
        assert done.returncode == 0 and "+0.0 points" in done.stdout, done.stderr
        assert f"Beside {other.name.removesuffix('.json')}" in (tmp_path / "errors.html").read_text()
    for wrong, reason in ((("--beside", other), "--report"), (("--report", "e.html", "--beside", "none.json"), "none")):
        done = run_script(*options, *wrong, cwd=tmp_path)
        assert done.returncode == 1 and reason in done.stderr and "Traceback" not in done.stderr


# --- In a browser -----------------------------------------------------------------------------------------------------


@pytest.fixture
def opened(chromium, tmp_path: Path):  # noqa: F811
    """Open a page of a result; an error of its script fails the test."""
    problems, pages = [], []

    def open_page(result: evaluation.Result, sound_limit: int = 1_000_000, beside=None, **settings):
        error_report.write_page(result, tmp_path / "errors.html", sound_limit, beside=beside)
        page = chromium.new_page(**settings)
        page.on("pageerror", lambda error: problems.append(error))
        page.on("request", lambda request: problems.append(request.url) if request.url.startswith("http") else None)
        page.goto((tmp_path / "errors.html").as_uri())
        pages.append(page)
        return page

    yield open_page
    assert not problems
    for page in pages:
        page.close()


def shown(page) -> list[str]:
    return page.locator("#list > li > p code").all_text_contents()


@pytest.mark.slow
def test_a_person_finds_errors_by_speaker_kind_text_and_confusion(opened, tmp_path: Path):
    page = opened(a_result(tmp_path / "data"))
    assert shown(page) == ["wav/0.wav", "wav/1.wav", "wav/2.wav"]  # those with errors
    for kind, files in (("D", ["wav/1.wav"]), ("I", ["wav/2.wav"]), ("correct", ["wav/3.wav"]), ("", None)):
        page.select_option("#kind", kind)
        assert shown(page) == files if files else len(shown(page)) == 4
    page.select_option("#speaker", "bob")
    assert shown(page) == ["wav/1.wav", "wav/3.wav"]
    page.select_option("#speaker", "")
    page.fill("#text", "HOME")
    assert shown(page) == ["wav/1.wav"]
    page.fill("#text", "")
    page.get_by_role("button", name="nine → five").first.click()
    assert shown(page) == ["wav/0.wav"]
    step = page.locator(".steps li").first
    assert step.inner_text().split() == ["nine", "five", "S", "substitution", "low", "confidence,", "0.3"]
    page.get_by_role("button", name="✕ nine → five").click()
    page.select_option("#order", "number")
    assert shown(page) == [f"wav/{number}.wav" for number in range(4)]
    page.fill("#unsure", "0.2")
    page.select_option("#kind", "unsure")
    assert shown(page) == []


@pytest.mark.slow
def test_a_person_finds_quiet_noisy_long_and_wrong_utterances_and_words(opened, tmp_path: Path):
    result = a_result(tmp_path / "data")
    generator = np.random.default_rng(1)
    for number, (level, noise) in enumerate([(-10, -30), (-40, -50), (-6, -60), (-25, -65)]):
        wave = generator.normal(size=16_000) * np.where(
            np.arange(16_000) < 8_000, 10 ** (noise / 20), 10 ** (level / 20)
        )
        soundfile.write(tmp_path / "data" / "wav" / f"{number}.wav", np.clip(wave, -1, 1), 16_000)
    page = opened(result)
    assert page.locator("#list > li > p").first.inner_text().count("SNR 2") == 1
    page.select_option("#kind", "")
    for order, first in (("quiet", 1), ("loud", 2), ("noisy", 1), ("clear", 2)):
        page.select_option("#order", order)
        assert shown(page)[0] == f"wav/{first}.wav"
    page.select_option("#order", "number")
    for key, bounds, numbers in (
        ("level", ("-30", ""), [0, 2, 3]),
        ("level", ("", "-30"), [1]),
        ("snr", ("30", ""), [2, 3]),
        ("percent", ("60", "100"), [2]),
        ("seconds", ("2", ""), []),
        ("seconds", ("", "1"), [0, 1, 2, 3]),
    ):
        for side, bound in zip(("from", "to"), bounds, strict=True):
            page.fill(f"#{key}-{side}", bound)
        assert shown(page) == [f"wav/{number}.wav" for number in numbers], key
        page.fill(f"#{key}-from", "")
        page.fill(f"#{key}-to", "")
    page.fill("#with", "five, NINE!")
    assert shown(page) == ["wav/0.wav"]
    page.fill("#with", "")
    page.fill("#without", "oh hom")  # whole words
    assert shown(page) == ["wav/0.wav", "wav/1.wav", "wav/3.wav"]
    assert "below -30 dBFS" not in page.content() and "-40 to -30 dBFS" in page.content()


@pytest.mark.slow
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_it_is_used_by_keyboard_on_a_phone_and_is_legible(opened, tmp_path: Path, scheme: str):
    page = opened(a_result(tmp_path / "data"), viewport={"width": 400, "height": 800}, color_scheme=scheme)
    assert page.evaluate("document.documentElement.scrollWidth") <= 400
    page.keyboard.press("j")
    page.keyboard.press("j")
    assert page.evaluate("document.activeElement.querySelector('code').textContent") == "wav/1.wav"
    page.keyboard.press("k")
    page.keyboard.press("p")
    page.wait_for_function("document.activeElement.querySelector('audio').currentTime > 0")
    page.keyboard.press("/")
    assert page.evaluate("document.activeElement.id") == "text"
    page.keyboard.type("pj")  # letters, not commands
    assert page.input_value("#text") == "pj"
    colours = page.evaluate(
        "['.steps .S .heard', '.steps .heard', 'body'].map(one => getComputedStyle(document.querySelector(one) || "
        "document.body).color).concat(getComputedStyle(document.body).backgroundColor)"
    )
    *inks, ground = ([int(value) for value in re.findall(r"\d+", colour)[:3]] for colour in colours)
    assert all(contrast(ink, ground) >= 4.5 for ink in inks)


@pytest.mark.slow
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_a_spectrogram_is_drawn_from_the_sound_when_it_is_asked_for(opened, tmp_path: Path, scheme: str):
    result = a_result(tmp_path / "data", [("ann", "go", "no")])
    times = np.arange(16_000) / 16_000
    soundfile.write(tmp_path / "data" / "wav" / "0.wav", 0.3 * np.sin(2 * np.pi * 2_000 * times), 16_000)
    page = opened(result, color_scheme=scheme)
    assert page.locator("canvas").count() == 0
    page.keyboard.press("j")
    page.keyboard.press("s")
    page.wait_for_selector("canvas[role=img]")
    assert "0 to 8 kHz" in page.locator("canvas").get_attribute("aria-label")
    far = page.evaluate(  # of each row, how far its colour is from the page's, in the middle of the sound
        """() => { const made = document.querySelector("canvas"), {width, height} = made;
        const data = made.getContext("2d").getImageData(Math.floor(width / 2), 0, 1, height).data;
        const ground = getComputedStyle(document.body).backgroundColor.match(/\\d+/g).map(Number);
        return Array.from({length: height}, (_, y) => Math.abs(data[4 * y] - ground[0])) }"""
    )
    assert far.index(max(far)) == pytest.approx(0.75 * len(far), abs=3)  # 2 of 8 kHz, from below
    assert sum(value > max(far) / 2 for value in far) < len(far) / 10
    page.keyboard.press("s")
    assert page.locator("canvas").count() == 0


@pytest.mark.slow
def test_a_sound_outside_the_page_says_why_it_has_no_spectrogram(opened, tmp_path: Path):
    page = opened(a_result(tmp_path / "data"), sound_limit=0)
    page.get_by_role("button", name="spectrogram").first.click()
    page.wait_for_selector(".frame p")
    assert "python -m http.server" in page.locator(".frame").inner_text()


@pytest.mark.slow
@pytest.mark.parametrize("width", [400, 1200])
def test_a_person_sees_where_two_models_differ(opened, tmp_path: Path, width: int):
    result = a_result(tmp_path / "data")
    others = [row_of(row, text) for row, text in zip(result.rows, ("nine five", "go home", "oh", "stop"), strict=True)]
    pair = side_by_side.pair(result.rows, others, "other.nemo")
    page = opened(result, beside=pair, viewport={"width": width, "height": 800})
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    assert shown(page) == ["wav/0.wav", "wav/1.wav", "wav/2.wav"]
    for kind, files in (("better", []), ("worse", ["wav/0.wav", "wav/1.wav"]), ("correct", ["wav/3.wav"])):
        page.select_option("#kind", kind)
        assert shown(page) == files
    page.select_option("#kind", "differ")
    page.get_by_text("Words on which they differ").click()
    page.get_by_role("button", name="home").first.click()
    assert shown(page) == ["wav/1.wav"]
    apart = page.locator(".apart").first
    apart.scroll_into_view_if_needed()  # what is out of sight isn't drawn, and has no text
    assert apart.inner_text().split()[:5] == ["home", "–", "home", "D", "✓"]
    page.get_by_role("button", name="✕ home").click()
    assert len(shown(page)) == 3


def contrast(one: list[int], other: list[int]) -> float:
    """WCAG's contrast ratio of two colours."""

    def light(colour: list[int]) -> float:
        parts = [value / 255 for value in colour]
        parts = [part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts]
        return 0.2126 * parts[0] + 0.7152 * parts[1] + 0.0722 * parts[2]

    low, high = sorted((light(one), light(other)))
    return (high + 0.05) / (low + 0.05)


@pytest.mark.slow
def test_ten_thousand_utterances_are_one_page(opened, tmp_path: Path):
    words = random.Random(0)
    vocabulary = [f"word{number}" for number in range(300)]
    said = [(f"s{number % 50}", " ".join(words.choices(vocabulary, k=8)), "") for number in range(5)]
    result = a_result(tmp_path / "data", said)
    rows = [
        ScoredUtterance("wav/0.wav", f"s{number % 50}", " ".join(one), " ".join([words.choice(vocabulary), *one[1:]]))
        for number in range(10_000)
        if (one := words.choices(vocabulary, k=8))
    ]
    line = (tmp_path / "data" / "m.json").read_text().splitlines()[0]
    (tmp_path / "data" / "m.json").write_text(f"{line}\n" * len(rows))
    many = evaluation.Result(rows, "mine", "greedy", "m.nemo", result.manifest, 1e4, 2.0, "a CPU", [])
    page = opened(many, sound_limit=0)
    assert len(shown(page)) == 20
    page.fill("#text", "word7 ")
    page.wait_for_function("!document.getElementById('said').textContent.endsWith(' of 10000')")
    assert page.locator("#said").inner_text().startswith("1 to 20 of ")


def test_names_that_are_not_unicode_and_utterances_that_could_not_be_read(tmp_path: Path):
    result = a_result(tmp_path / "data")
    lines = (tmp_path / "data" / "m.json").read_text().splitlines()
    (tmp_path / "data" / "gone.wav").write_bytes(b"no sound")
    (tmp_path / "data" / "wav" / "3.wav").rename(tmp_path / "data" / "wav" / "b\udce4d.wav")
    lines.insert(1, json.dumps({"audio_filepath": "gone.wav", "duration": 1.0, "text": "gone"}))
    lines[-1] = lines[-1].replace("3.wav", "b\\udce4d.wav")
    (tmp_path / "data" / "m.json").write_text("\n".join(lines) + "\n")
    rows = [*result.rows[:-1], replace(result.rows[-1], file="wav/b\udce4d.wav")]
    result = replace(result, rows=rows, unread={1: "gone.wav: no sound"})
    error_report.write_page(result, tmp_path / "errors.html", sound_limit=0)
    evaluation.save(result, tmp_path / "mine.json")
    sounds = {row["number"]: row["sound"] for row in utterances((tmp_path / "errors.html").read_text())}
    assert [sounds[number].rpartition("/")[2] for number in (1, 2, 3, 4)] == ["0.wav", "1.wav", "2.wav", "b%E4d.wav"]
    assert json.loads((tmp_path / "mine.json").read_text())["unread"] == ["gone.wav: no sound"]
