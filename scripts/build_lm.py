#!/usr/bin/env python3
"""Make an n-gram language model from transcripts, for beam search decoding."""

from pathlib import Path
from typing import Annotated

import typer

from asr_with_nemo.cli import run
from asr_with_nemo.errors import InputError


def main(
    text: Annotated[Path, typer.Argument(help="A NeMo manifest, or a text file with one utterance per line.")],
    output: Annotated[Path, typer.Argument(help="Output file, ending in .arpa; its notes (.json) go next to it.")],
    order: Annotated[
        int | None,
        typer.Option(min=1, help="Tokens of the longest n-gram; by default 3 words, 6 characters or pieces."),
    ] = None,
    lexicon: Annotated[
        Path | None, typer.Option(help="A dictionary, one word per line; its words are added to the vocabulary.")
    ] = None,
    characters: Annotated[
        bool,
        typer.Option("--characters", help="Make a model of the letters of the course's models, not of words."),
    ] = False,
    model: Annotated[
        str,
        typer.Option(
            help="Make a model of the letters or pieces of words that this recogniser writes, not of words: for a "
            "transducer, and for CTC of pieces.",
            metavar="MODEL",
        ),
    ] = "",
    final: Annotated[bool, typer.Option("--final", help="Allow the dev set among the texts.")] = False,
    weights_of: Annotated[
        Path | None, typer.Option(help="Copy the tuned weights of this language model.", metavar="OTHER.arpa")
    ] = None,
) -> None:
    """Make an n-gram language model from transcripts: an ARPA file, and a .json next to it with its source.

    A beam search with a model of words can output only its words; it is for CTC models of letters. All others take a
    model of their own letters or pieces (--model), which has no lexicon.

    Held-out texts are refused: the test set always, the dev set unless --final is given, for use with an acoustic model
    that was trained on train and dev.

    Examples:

        python scripts/build_lm.py data/an4/train_manifest.json lm.arpa --lexicon data/an4/etc/an4.dic

        python scripts/build_lm.py data/an4/train_manifest.json characters.arpa --characters

        python scripts/build_lm.py data/an4/train_manifest.json pieces.arpa --model PARAKEET.nemo

        python scripts/build_lm.py data/an4/train_all_manifest.json final.arpa --final --weights-of lm.arpa
    """
    from asr_with_nemo.recognition import language_model

    if model and characters:
        raise InputError("--model takes the letters or pieces of that model; leave out --characters")
    tokens = _tokens_of(model) if model else {}
    made = language_model.make(text, output, order, lexicon, characters or bool(model), final, weights_of, **tokens)
    unit = "pieces" if tokens.get("columns") else "characters" if characters or model else "words"
    typer.echo(f"language model: {output}, {len(made.vocabulary):,} {unit}, {len(made.log_probs):,} n-grams")


def _tokens_of(model: str) -> dict:
    """Return the letters or pieces that a model writes, and what cuts a text into pieces."""
    from asr_with_nemo.models.names import model_path
    from asr_with_nemo.recognition import spelling

    path = model_path(model, suffix=".onnx")
    if path.suffix == ".onnx":
        from asr_with_nemo.deployment.runtime import Recognizer

        recognizer = Recognizer(path)
        labels, pieces = recognizer.labels, recognizer.spelling
    else:
        from asr_with_nemo.models.loading import alphabet, load_model

        loaded = load_model(path)
        labels, pieces = alphabet(loaded), spelling.of(loaded)
    return {"labels": labels, "columns": pieces.columns if pieces else None}


if __name__ == "__main__":
    run(main)
