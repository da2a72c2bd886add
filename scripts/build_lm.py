#!/usr/bin/env python3
"""Make an n-gram language model from transcripts, for beam search decoding."""

from pathlib import Path
from typing import Annotated

import typer

from asr_with_nemo.cli import run


def main(
    text: Annotated[Path, typer.Argument(help="A NeMo manifest, or a text file with one utterance per line.")],
    output: Annotated[Path, typer.Argument(help="Output file, ending in .arpa; its notes (.json) go next to it.")],
    order: Annotated[
        int | None, typer.Option(min=1, help="Tokens of the longest n-gram; by default 3 words or 6 characters.")
    ] = None,
    lexicon: Annotated[
        Path | None, typer.Option(help="A dictionary, one word per line; its words are added to the vocabulary.")
    ] = None,
    characters: Annotated[
        bool, typer.Option("--characters", help="Make a model of characters, for NeMo's beam_batch, not of words.")
    ] = False,
    final: Annotated[bool, typer.Option("--final", help="Allow the dev set among the texts.")] = False,
    weights_of: Annotated[
        Path | None, typer.Option(help="Copy the tuned weights of this language model.", metavar="OTHER.arpa")
    ] = None,
) -> None:
    """Make an n-gram language model from transcripts: an ARPA file, and a .json next to it with its source.

    A beam search with a model of words can output only its words. Held-out texts are refused: the test set always, the
    dev set unless --final is given, for use with an acoustic model that was trained on train and dev.

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
