"""Read an alphabet from a `.nemo` file, a manifest or a list of letters."""

import json
from collections import Counter
from pathlib import Path

from asr_with_nemo.base.files import read_text
from asr_with_nemo.data.manifest import letters_of
from asr_with_nemo.errors import InputError


def read_alphabet(given: str) -> list[str]:
    """Read the alphabet that a command-line option names: by a file, by a model, or as letters.

    Args:
        given: a manifest, whose texts have the letters; a JSON list of letters; a text file with a letter a line, or
            all in one line; a model that ships, or a `.nemo` file; or the letters themselves, without separators. A
            space is a letter too.

    Raises:
        InputError: the file is missing or can't be read, or a letter occurs twice.

    Example:
        >>> read_alphabet("ab ")
        ['a', 'b', ' ']
    """
    from asr_with_nemo.models import model_file
    from asr_with_nemo.models.names import BUILT_IN, model_path

    path = Path(given)
    if given in BUILT_IN or path.suffix == ".nemo":
        letters = model_file.read_alphabet(model_path(given))
    elif not path.is_file():
        if "/" in given or path.suffix in (".txt", ".json"):
            raise InputError(f"{given}: no such file; expected a file with the letters of the alphabet, or the letters")
        letters = list(given)
    elif path.suffix == ".json":
        letters = _read_json(path)
    else:
        text = read_text(path, "an alphabet", "no such file")
        letters = [letter for line in text.splitlines() for letter in line]
    twice = [letter for letter, count in Counter(letters).items() if count > 1]
    if twice:
        what = "expected each letter once"
        if not path.is_file():
            what += f", or the name of a file or of a model that ships ({', '.join(BUILT_IN)})"
        raise InputError(f"{given}: {' '.join(map(repr, sorted(twice)))} comes twice; {what}")
    if len(letters) < 2:
        raise InputError(f"{given!r}: not an alphabet; expected two letters or more")
    return letters


def _read_json(path: Path) -> list[str]:
    try:
        letters = json.loads(read_text(path, "an alphabet", "no such file"))
    except (ValueError, RecursionError):  # several objects, a line each
        return letters_of([path])
    if isinstance(letters, list) and all(isinstance(letter, str) and len(letter) == 1 for letter in letters):
        return letters
    if isinstance(letters, dict):  # a manifest of one utterance
        return letters_of([path])
    raise InputError(f"{path}: expected a JSON list of letters, or a manifest")
