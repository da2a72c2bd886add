#!/usr/bin/env python3
"""Make a language model of transcripts, for decoding with a beam search."""

from pathlib import Path
from typing import Annotated

import typer

from asr_with_nemo.cli import run


def main(
    text: Annotated[Path, typer.Argument(help="A NeMo manifest, or a text file with an utterance a line.")],
    output: Annotated[Path, typer.Argument(help="Ends in .arpa; what it was made of goes beside it.")],
    order: Annotated[
        int | None, typer.Option(min=1, help="Tokens of the longest n-gram; by default 3 words or 6 characters.")
    ] = None,
    lexicon: Annotated[
        Path | None, typer.Option(help="A dictionary, one word a line: the model shall know its words too.")
    ] = None,
    characters: Annotated[
        bool, typer.Option("--characters", help="Of characters for NeMo's beam_batch, not of words.")
    ] = False,
    final: Annotated[bool, typer.Option("--final", help="The dev set may be among the texts.")] = False,
    weights_of: Annotated[
        Path | None, typer.Option(help="Take over the tuned weights of this one.", metavar="OTHER.arpa")
    ] = None,
) -> None:
    """Make a language model of transcripts: n-grams in an ARPA file, with their source in a .json beside it.

    The words of a word model are all that a beam search with it can hear. Held-out texts are refused: the test set
    always, the dev set unless --final says so.

    Examples:

        python scripts/build_lm.py data/an4/train_manifest.json lm.arpa --lexicon data/an4/etc/an4.dic

        python scripts/build_lm.py data/an4/train_manifest.json characters.arpa --characters

        python scripts/build_lm.py data/an4/train_all_manifest.json final.arpa --final --weights-of lm.arpa
    """
    from asr_with_nemo.recognition import language_model

    model = language_model.make(text, output, order, lexicon, characters, final, weights_of)
    unit = "characters" if characters else "words"
    typer.echo(f"language model: {output}, {len(model.vocabulary):,} {unit}, {len(model.log_probs):,} n-grams")


if __name__ == "__main__":
    run(main)
