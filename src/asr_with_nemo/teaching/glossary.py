"""The course's terms: what each means, and the notebook that introduces it."""

import functools
import re
from importlib import resources
from typing import NamedTuple

import yaml


class Term(NamedTuple):
    """A term of the course.

    Attributes:
        name: as it is written in the middle of a sentence.
        notebook: stem of the notebook that introduces it, in bold.
        meaning: a sentence or two.
        also: other words for the same, such as its abbreviation or a plural that isn't regular.
        everyday: the word means something else as well, so that not every use is one of the term.
    """

    name: str
    notebook: str
    meaning: str
    also: tuple[str, ...] = ()
    everyday: bool = False

    @property
    def pattern(self) -> re.Pattern[str]:
        """A pattern that finds the term, or another word for it, in Markdown; abbreviations by their capitals."""
        words = [re.escape(word) if word.isupper() else f"(?i:{re.escape(word)})" for word in (self.name, *self.also)]
        return re.compile(rf"(?<![\w-])(?:{'|'.join(words)})s?(?![\w-])")


@functools.cache
def terms() -> tuple[Term, ...]:
    """Return all terms, in alphabetical order."""
    text = resources.files("asr_with_nemo.teaching").joinpath("glossary.yaml").read_text(encoding="utf-8")
    entries = yaml.safe_load(text)
    found = [Term(name, also=tuple(entry.pop("also", ())), **entry) for name, entry in entries.items()]
    return tuple(sorted(found, key=lambda term: term.name.lower()))


def markdown() -> str:
    """Return the glossary as a Markdown table."""
    rows = ["| term | meaning | introduced in |", "|---|---|---|"]
    for term in terms():
        name = ", ".join((f"**{term.name}**", *term.also))
        rows.append(f"| {name} | {term.meaning} | [{term.notebook}]({term.notebook}.ipynb) |")
    return "\n".join(rows)
