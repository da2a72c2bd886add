"""The piece of the word error rate aligns, counts and divides as the package does, and can be operated."""

import random
from collections.abc import Iterator

import pytest
from playwright.sync_api import Page, expect

from asr_with_nemo.recognition import wer
from asr_with_nemo.teaching import interactive, word_errors
from tests.teaching.conftest import shown_piece

PRESETS = [
    {"name": "as said", "reference": "enter seventy one", "hypothesis": "enter seventy one"},
    {"name": "over 200%", "reference": "stop", "hypothesis": "s t o p"},
    {"name": "style", "reference": "it's nine o'clock", "hypothesis": "It's nine o'clock."},
]
READ = """texts => {
    const [reference, hypothesis] = document.querySelectorAll('.asr-live input[type="text"]');
    return texts.map(([said, heard]) => {
        reference.value = said;
        hypothesis.value = heard;
        hypothesis.dispatchEvent(new Event("input"));
        const pairs = [...document.querySelectorAll("[data-pair]")].map(cell => JSON.parse(cell.dataset.pair));
        return [pairs, document.querySelector("[role=status]").textContent];
    });
}"""


@pytest.fixture(scope="module")
def page(chromium) -> Iterator[Page]:
    figure = word_errors.draw_alignment(wer.align("enter seventy one", "enter seventy one"))
    html = interactive.piece("wer", {"presets": PRESETS}, figure, "An alignment, word by word.")
    with shown_piece(chromium, html) as page:
        yield page


def random_text(generator: random.Random, words: list[str]) -> str:
    return "  ".join(generator.choice(words) for _ in range(generator.randint(0, 9)))


@pytest.mark.parametrize(("unit", "words"), [("word", ["a", "b", "c", "d"]), ("character", ["ab", "ba", "a", "b'c"])])
def test_alignments_and_rates_are_those_of_the_package(page: Page, unit: wer.Unit, words: list[str]):
    generator = random.Random(0)
    texts = [(random_text(generator, words), random_text(generator, words)) for _ in range(400)]
    page.get_by_label("unit").select_option("1" if unit == "character" else "")
    for (said, heard), (pairs, shown) in zip(texts, page.evaluate(READ, texts), strict=True):
        assert [tuple(pair) for pair in pairs] == wer.align(said, heard, unit)
        counts = wer.count_errors(said, heard, unit)
        figures = f"S {counts.substitutions} + D {counts.deletions} + I {counts.insertions} = {counts.errors} error"
        assert shown.startswith(figures)
        name = "CER" if unit == "character" else "WER"
        divided, _, rate = shown.rpartition(f" {name} ")
        assert divided.endswith(f"divided by {counts.words} {unit}{'s' if counts.words != 1 else ''} of the reference:")
        if counts.rate is None:
            assert rate == "undefined: nothing was said"
        else:
            assert float(rate.removesuffix("%")) == pytest.approx(100 * counts.rate, abs=0.0501)  # rounded
    page.get_by_label("unit").select_option("")


def test_the_presets_and_the_normalisation_are_operated(page: Page):
    status = page.get_by_role("status")
    page.get_by_role("button", name="over 200%").click()
    expect(status).to_contain_text("WER 400.0%")
    page.get_by_role("button", name="style").click()
    expect(status).to_contain_text("S 2 + D 0 + I 0 = 2 errors")
    page.get_by_label("normalise first").check()
    expect(status).to_contain_text("= 0 errors, divided by 3 words of the reference: WER 0.0%")
    page.get_by_label("normalise first").uncheck()
    page.get_by_label("hypothesis").fill("nine o'clock now")
    expect(status).to_contain_text("S 0 + D 1 + I 1 = 2 errors")
    page.get_by_label("unit").select_option("1")
    expect(status).to_contain_text("characters of the reference: CER")
    page.get_by_label("unit").select_option("")


def test_it_works_by_keyboard(page: Page):
    page.get_by_role("button", name="as said").focus()
    page.keyboard.press("Enter")
    for _ in range(len(PRESETS) + 1):
        page.keyboard.press("Tab")
    page.keyboard.press("End")
    page.keyboard.type(" two")
    expect(page.get_by_role("status")).to_contain_text("S 0 + D 0 + I 1 = 1 error,")


def test_what_is_typed_is_text(page: Page):
    page.get_by_label("hypothesis").fill("<img src=x onerror=alert(1)>")
    assert page.locator(".asr-live img").count() == 0


def test_without_scripts_the_picture_stands_there(page: Page):
    figure = word_errors.draw_alignment(wer.align("a b", "a c"))
    without = page.context.browser.new_context(java_script_enabled=False).new_page()
    without.set_content(interactive.piece("wer", {"presets": PRESETS}, figure, "An alignment, word by word."))
    expect(without.get_by_alt_text("An alignment, word by word.")).to_be_visible()
