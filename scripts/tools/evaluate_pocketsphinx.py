#!/usr/bin/env python3
"""Evaluate PocketSphinx, a traditional speech recogniser, on a manifest."""

import re
import shlex
import tempfile
import time
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import numpy as np
import typer
from tqdm import tqdm

from asr_with_nemo.cli import run
from asr_with_nemo.data import an4, audio
from asr_with_nemo.errors import InputError

if TYPE_CHECKING:
    import pocketsphinx

# The best of a small grid on AN4's dev set, with n-grams of its train texts; PocketSphinx's defaults are 6.5 and
# 0.65. Beams wider than its default took more than twice the time and made no fewer errors.
LANGUAGE_WEIGHT, INSERTION_PENALTY = 6.5, 0.005


def load_decoder(lm: Path, dictionary: Path, weight: float, penalty: float) -> "pocketsphinx.Decoder":
    """Load PocketSphinx with its default US English acoustic model, which includes its front end.

    Args:
        lm: a word n-gram in ARPA format, in lower case. The search looks back two words at most.
        dictionary: words in any case with their CMU phones; words with a phone that the acoustic model lacks are left
            out, with a message on stderr.
        weight: exponent of the language model's probabilities in the first pass (PocketSphinx's `lw`); the second and
            third pass keep their ratio to it.
        penalty: factor of a hypothesis' probability per word (`wip`).

    Raises:
        InputError: the dictionary can't be read, or PocketSphinx can't load it or the language model.
    """
    import pocketsphinx

    try:
        entries = dictionary.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(
            f"{dictionary}: can't be read as a dictionary ({error}); AN4's own is etc/an4.dic in its folder"
        ) from error
    with tempfile.TemporaryDirectory() as scratch:
        # PocketSphinx finds a language model's words in the dictionary only where they are written alike.
        lower = Path(scratch) / "lower_case.dict"
        lower.write_text(re.sub(r"^\S+", lambda word: word[0].lower(), entries, flags=re.MULTILINE), encoding="utf-8")
        config = pocketsphinx.Config(lm=str(lm), dict=str(lower), wip=penalty)
        scale = weight / config["lw"]
        for name in ("lw", "fwdflatlw", "bestpathlw"):
            config[name] *= scale
        try:
            return pocketsphinx.Decoder(config)
        except RuntimeError as error:
            raise InputError(
                f"{lm} and {dictionary}: PocketSphinx can't load them ({error}; see above); expected an ARPA "
                "file of words, and a dictionary with CMU's phones"
            ) from error


def transcribe(decoder: "pocketsphinx.Decoder", file: str) -> tuple[str, float]:
    """Decode one file as a whole, with the cepstral mean and noise estimated from this file only.

    Returns:
        the text, empty where nothing was recognised, and the seconds of sound.

    Raises:
        InputError: the file can't be read.
    """
    samples = audio.load_audio(file)
    pcm = np.rint(samples * 32_768).clip(-32_768, 32_767).astype(np.int16)  # what a 16-bit file holds, to the bit
    decoder.reinit_feat()  # else `remove_noise` would use the noise of earlier files
    decoder.start_utt()
    decoder.process_raw(pcm.tobytes(), full_utt=True)
    decoder.end_utt()
    hypothesis = decoder.hyp()
    return hypothesis.hypstr if hypothesis else "", len(samples) / audio.SAMPLE_RATE


def main(
    manifest: Annotated[Path, typer.Argument(help="A NeMo manifest with reference transcripts, in lower case.")],
    lm: Annotated[
        Path, typer.Option(help="A word n-gram, as scripts/build_lm.py makes one of train.", metavar="FILE.arpa")
    ],
    dictionary: Annotated[
        Path | None, typer.Option(help="A pronouncing dictionary in CMU's format; by default PocketSphinx's own.")
    ] = None,
    lw: Annotated[float, typer.Option(min=0, help="Language weight.")] = LANGUAGE_WEIGHT,
    wip: Annotated[
        float, typer.Option(min=1e-30, help="Word insertion penalty; smaller gives fewer words.")
    ] = INSERTION_PENALTY,
    output: Annotated[
        Path | None, typer.Option(help="Write the results to this .json file, and the utterances to a .tsv next to it.")
    ] = None,
) -> None:
    """Evaluate PocketSphinx on a manifest: hidden Markov models, a pronouncing dictionary and an n-gram.

    The n-gram and the dictionary are the task's; the acoustic model is the US English one that comes with PocketSphinx.
    Its training data is not fully documented and may include AN4. The output is that of scripts/evaluate.py. Select
    settings by their WER on dev, and evaluate on test once, at the end.

    Examples:

        python scripts/build_lm.py data/an4/train_manifest.json lm.arpa --lexicon data/an4/etc/an4.dic

        python scripts/tools/evaluate_pocketsphinx.py data/an4/dev_manifest.json --lm lm.arpa
        --dictionary data/an4/etc/an4.dic
    """
    try:
        import pocketsphinx
    except ImportError as error:
        raise InputError(
            f"PocketSphinx can't be imported ({error}); install what the course needs: make setup"
        ) from error
    from asr_with_nemo.base.files import check_output
    from asr_with_nemo.base.machine import device_name
    from asr_with_nemo.recognition import evaluation, language_model, ngrams

    # Report errors before the slow part.
    if output:
        check_output(output)
    utterances = evaluation.read_references(manifest)
    notes = language_model.read_notes(lm)
    if notes.get("holds_dev") and "dev" in an4.splits_of(manifest):
        raise InputError(
            f"{manifest}: {lm} was made from the dev set too, so its WER would be too low; make one from train"
        )
    words = ngrams.read_arpa(lm)
    if language_model.is_of_characters(words):
        raise InputError(f"{lm}: a language model of characters; make one of words with scripts/build_lm.py")
    pronounced = dictionary or Path(pocketsphinx.get_model_path("en-us/cmudict-en-us.dict"))
    decoder = load_decoder(lm, pronounced, lw, wip)
    known = {word for word in words.vocabulary if decoder.lookup_word(word)}
    spoken = {word for utterance in utterances for word in utterance["text"].split()}
    if not spoken & known:
        raise InputError(
            f"{manifest}: no word of its texts is in both {lm} and {pronounced.name}; expected an n-gram of words in "
            "lower case, like the texts, and a dictionary with their phones"
        )

    files = [utterance["audio_filepath"] for utterance in utterances]
    transcribe(decoder, files[0])  # warm-up
    started = time.perf_counter()
    heard = [transcribe(decoder, file) for file in tqdm(files, unit="file", delay=1, leave=False)]
    seconds = time.perf_counter() - started
    result = evaluation.Result(
        rows=evaluation.make_rows(manifest, utterances, [text for text, _ in heard]),
        corpus=an4.corpus_of(manifest),
        decoder=f"PocketSphinx, word {words.order}-gram (lw {lw:g}, wip {wip:g})",
        model="",
        manifest=str(manifest),
        duration=sum(duration for _, duration in heard),
        seconds=seconds,
        device=device_name(),
        unspellable=[],
    )
    typer.echo(result)
    unknown = sorted(spoken - known)
    if unknown:
        more = ", ..." if len(unknown) > 10 else ""
        typer.echo(
            f"warning: {len(unknown)} words of the texts are not in both the n-gram and the dictionary: "
            f"{', '.join(unknown[:10])}{more}; each occurrence counts as an error",
            err=True,
        )
    if result.corpus == "synthetic":
        typer.echo("warning: this is the built-in synthetic corpus; its figures say nothing about AN4", err=True)
    if output:
        command = ["python", "scripts/tools/evaluate_pocketsphinx.py", str(manifest), "--lm", str(lm)]
        command += ["--dictionary", str(dictionary)] if dictionary else []
        evaluation.save(
            result,
            output,
            command=shlex.join([*command, "--lw", str(lw), "--wip", str(wip)]),
            pocketsphinx={
                "version": metadata.version("pocketsphinx"),
                "acoustic_model": "en-us",
                "dictionary": pronounced.name,
                "lm": str(lm),
                "lm_notes": notes,
                "lw": lw,
                "wip": wip,
                "unknown_words": unknown,
            },
        )
        typer.echo(f"results: {output}, utterances: {output.with_suffix('.tsv')}")


if __name__ == "__main__":
    run(main)
