"""Attention encoder-decoders (Canary): the prompt that tells one what to do, and its texts with words' confidence.

The decoder reads the whole recording and what it has written so far, and begins with a prompt: the language that is
spoken, the one to write, whether with punctuation and capitals. It has no frames, so words have no times: each gets
those of the stretch of speech that it was heard in, at most 20 s (`Transcript.has_word_times`). A model of the format
canary2 was trained to write times as well, for `timestamp=yes`.
"""

import re
import shlex
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from asr_with_nemo.errors import InputError
from asr_with_nemo.models.loading import sample_rate, seconds_per_frame
from asr_with_nemo.recognition import confidence, spelling, transcripts
from asr_with_nemo.recognition.transcripts import Step, Transcript

if TYPE_CHECKING:
    import torch
    from nemo.collections.asr.models import EncDecMultiTaskModel
    from nemo.collections.asr.parts.submodules.multitask_decoding import MultiTaskDecoding

_DEFAULTS = {
    "source_lang": "en",
    "target_lang": "en",
    "task": "asr",
    "pnc": "yes",
    "decodercontext": "",
    "emotion": "<|emo:undefined|>",
    "itn": "no",
    "timestamp": "no",
    "diarize": "no",
}
"""What NeMo takes for slots without a default."""
_SHORTEST = 1.0  # seconds; NeMo pads shorter recordings on both sides
_LANGUAGE = re.compile(r"<\|([a-z]{2}(?:-[A-Z]{2})?)\|>")
_TIME = re.compile(r"<\|(\d+)\|>")
_MOST_LISTED = 12
_SHOWN = ("source_lang", "target_lang", "task", "pnc")
_REGION = {"en": "en-US", "es": "es-ES", "fr": "fr-FR", "de": "de-DE"}
"""The tokenizers by which NeMo spells some languages, where they have none by their own name."""


# --- The prompt -------------------------------------------------------------------------------------------------------


def parse_prompt(text: str) -> dict[str, str]:
    """Read a prompt: slots with their values.

    Raises:
        InputError: it has another form.

    Example:
        >>> parse_prompt('source_lang=de pnc=no decodercontext="a call"')
        {'source_lang': 'de', 'pnc': 'no', 'decodercontext': 'a call'}
    """
    try:
        parts = [part.partition("=") for part in shlex.split(text)]
    except ValueError as error:
        raise InputError(f"--prompt {text!r}: {error}") from error
    wrong = next((name for name, equals, _ in parts if not (name and equals)), None)
    if wrong is not None:
        raise InputError(
            f'--prompt {text!r}: {wrong!r} isn\'t SLOT=VALUE; for example --prompt "source_lang=de pnc=no"'
        )
    return {name: value for name, _, value in parts}


def values_of(model: "EncDecMultiTaskModel") -> dict[str, list[str] | None]:
    """Return the slots of a model's prompt, each with its values; None for any text."""
    languages = [found[1] for piece in model.tokenizer.vocab if (found := _LANGUAGE.fullmatch(piece))]
    spelled = getattr(model.tokenizer, "langs", None)  # one tokenizer a language, or one for all
    targets = [one for one in languages if spelled is None or {one, _REGION.get(one)} & set(spelled)]
    found: dict[str, list[str] | None] = {"source_lang": languages, "target_lang": targets}
    for slot, kind in model.prompt.get_slots("user").items():
        if slot in found:
            continue
        allowed = sorted(getattr(kind, "allowed_values", ()))
        short = next((pair for pair in (["yes", "no"], ["asr", "ast"]) if set(pair) <= set(allowed)), allowed)
        found[slot] = list(map(_bare, short)) or None
    return found


def complete_prompt(model: "EncDecMultiTaskModel", given: Mapping[str, str]) -> dict[str, str]:
    """Return the values of all slots of a model's prompt: those given, else the model's defaults, else NeMo's.

    Raises:
        InputError: the model lacks a slot or a value.
    """
    values, kinds = values_of(model), model.prompt.get_slots("user")
    for slot in given:
        if slot not in values:
            raise InputError(f"--prompt {slot}={given[slot]}: this model's prompt has {', '.join(values)}")
    turns = {turn["role"]: turn["slots"] for turn in model.prompt.get_default_dialog_slots()}
    own = {slot: value for slot, value in turns["user"].items() if value is not None}
    made = {}
    for slot, shown in values.items():
        value = given.get(slot, own.get(slot, _DEFAULTS.get(slot, "")))
        value = ("yes" if value else "no") if isinstance(value, bool) else value
        known = getattr(kinds[slot], "allowed_values", shown)
        made[slot] = next((one for one in (value, _bare(value), f"<|{value}|>") if shown is None or one in known), None)
        if made[slot] is None:
            whose = "" if slot in given else ", the default,"
            more = f" and {len(shown) - _MOST_LISTED} more" if len(shown) > _MOST_LISTED else ""
            raise InputError(
                f"--prompt {slot}={value}{whose} isn't a value that this model has: "
                f"{', '.join(shown[:_MOST_LISTED])}{more}"
            )
    return made


def _bare(value: str) -> str:
    return value.removeprefix("<|").removesuffix("|>")


def described(model: "EncDecMultiTaskModel", given: Mapping[str, str]) -> str:
    """Describe the prompt for a results file: the task and languages, and what else was given."""
    made = complete_prompt(model, given)
    return " ".join(f"{slot}={value}" for slot, value in made.items() if slot in given or slot in _SHOWN)


def asks_for_times(model: "EncDecMultiTaskModel", given: Mapping[str, str]) -> bool:
    """Return whether a prompt asks for the times of words."""
    from nemo.collections.common.prompts.canary2 import TIMESTAMP_TRUE

    return complete_prompt(model, given).get("timestamp") in TIMESTAMP_TRUE


def note_on_times(model: "EncDecMultiTaskModel", given: Mapping[str, str]) -> str:
    """Say whose times words have, and how to get those of words; empty if the prompt asks for these."""
    if asks_for_times(model, given):
        return ""
    how = '--prompt "timestamp=yes" asks it for them'
    if "timestamp" not in values_of(model):
        how = "for times of words, take a CTC model or a transducer"
    return (
        "the model gives no times of words: each word has those of the stretch of speech between two pauses that it is "
        f"in, at most 20 s, and subtitles share these out; {how}"
    )


def prompt_tokens(model: "EncDecMultiTaskModel", given: Mapping[str, str]) -> "torch.Tensor":
    """Return the tokens of a prompt, (P,).

    Raises:
        InputError: the model lacks a slot, a value or a token, or the prompt leaves no room for the text.
    """
    slots = complete_prompt(model, given)
    turn = {"role": "user", "slots": slots | {model.prompt.PROMPT_LANGUAGE_SLOT: "spl_tokens"}}
    try:
        tokens = model.prompt.encode_dialog([turn])["context_ids"]
    except KeyError as error:
        raise InputError(f"the model has no token {error.args[0]}, which its prompt needs; see --prompt") from error
    if len(tokens) > model.transf_decoder.max_sequence_length // 2:
        raise InputError(f"the prompt has {len(tokens)} tokens, more than half of what the decoder reads; shorten it")
    return tokens


# --- Texts ------------------------------------------------------------------------------------------------------------


def greedy_search(model: "EncDecMultiTaskModel") -> "MultiTaskDecoding":
    """Return NeMo's greedy batched decoding of an attention decoder, with the probability of each piece."""
    from nemo.collections.asr.parts.submodules.multitask_decoding import MultiTaskDecoding
    from omegaconf import OmegaConf

    section = model.cfg.decoding.get("beam" if model.cfg.decoding.strategy == "beam" else "greedy") or {}
    greedy = {"temperature": None, "n_samples": 1, "max_generation_delta": section.get("max_generation_delta", -1)}
    return MultiTaskDecoding(
        decoding_cfg=OmegaConf.create({"strategy": "greedy", "greedy": greedy, "confidence_cfg": confidence.SETTINGS}),
        transformer_decoder=model.transf_decoder,
        log_softmax_module=model.log_softmax,
        tokenizer=model.tokenizer,
    )


def transcribe(
    model: "EncDecMultiTaskModel",
    batch: Sequence[np.ndarray],
    decoding: "MultiTaskDecoding",
    prompt: "torch.Tensor",
    has_times: bool,
) -> list[Transcript]:
    """Transcribe a batch of recordings.

    Args:
        model: in `decoding.inference`.
        batch: mono samples, (t,) each at the model's rate.
        decoding: from `greedy_search`.
        prompt: its tokens (P,), from `prompt_tokens`.
        has_times: whether it asks for the times of words.

    Raises:
        InputError: the model writes tokens that its tokenizer lacks.
    """
    import torch

    rate, seconds = sample_rate(model), seconds_per_frame(model)
    missing = [max(0, round(_SHORTEST * rate) - len(samples)) for samples in batch]
    padded = [np.pad(one, (short // 2, short - short // 2)) for one, short in zip(batch, missing, strict=True)]
    signals = torch.nn.utils.rnn.pad_sequence(list(map(torch.from_numpy, padded)), batch_first=True)  # (B, t)
    lengths = torch.tensor(list(map(len, padded)))
    _, frames, states, mask = model(
        input_signal=signals.to(model.device), input_signal_length=lengths.to(model.device)
    )  # (B,), (B, T, D), (B, T)
    try:
        hypotheses = decoding.decode_predictions_tensor(
            states, mask, prompt.repeat(len(batch), 1).to(model.device), return_hypotheses=True
        )
    except KeyError as error:
        raise InputError(
            f"the model writes token {error.args[0]}, and its tokenizer has {model.tokenizer.vocab_size}: it isn't the "
            "tokenizer that it was trained with, or it wasn't trained"
        ) from error
    found, most = [], decoding.cfg.greedy.max_generation_delta
    outputs = model.log_softmax.mlp.last_linear_layer.out_features
    for samples, short, length, one in zip(batch, missing, frames.tolist(), hypotheses, strict=True):
        # The limit is that of the longest recording of the batch; no text may depend on the others.
        limit = max(0, length + most - len(prompt)) if most >= 0 else None
        written = one.y_sequence.tolist()[:limit]
        text = decoding.decode_ids_to_str(written).strip()
        sure = confidence.probabilities(one, outputs)[: len(written)]
        pieces = list(zip(_spelled(model, written), sure, strict=True))
        duration = len(samples) / rate
        if has_times and (timed := list(_timed(pieces))):
            found.append(_with_times(timed, seconds, duration, short // 2 / rate))
        else:
            steps = [Step(piece, 0, length + 1, probability) for piece, probability in pieces]
            heard = transcripts.from_steps(steps, seconds, text, duration, has_pieces=True)
            found.append(replace(heard, has_word_times=not heard.words))
    return found


def _spelled(model: "EncDecMultiTaskModel", tokens: Sequence[int]) -> list[str]:
    """Return the pieces of tokens, as the tokenizer writes them."""
    if hasattr(model.tokenizer, "tokenizers_dict"):  # one for each language
        return model.tokenizer.ids_to_tokens(tokens)
    labels = spelling.written(model.tokenizer.tokenizer)
    return [labels[token] for token in tokens]


def _timed(pieces: Sequence[tuple[str, float]]) -> Iterator[Step]:
    """Yield the pieces between two times, such as <|3|> go <|5|>, with these as frames.

    Nothing is yielded if a piece isn't between two times, as the last ones of a text that was cut short: without times,
    the text is whole.
    """
    inside = False
    for piece, _ in pieces:
        if _TIME.fullmatch(piece):
            inside = not inside
        elif not inside and piece.strip("▁ "):
            return
    if inside:
        return
    begun: int | None = None
    within: list[tuple[str, float]] = []
    for piece, probability in pieces:
        time = _TIME.fullmatch(piece)
        if not time:
            within.append((piece, probability))
        elif begun is None:
            begun, within = int(time[1]), []
        else:
            spaced = [("▁", 1.0), *within] if within else []
            yield from (Step(one, begun, max(1, int(time[1]) - begun), sure) for one, sure in spaced)
            begun = None


def _with_times(steps: list[Step], seconds: float, duration: float, padding: float) -> Transcript:
    """Return the transcript of pieces with times, which count from the start of `padding` seconds."""
    spoken = " ".join("".join(step.piece for step in steps).replace("▁", " ").split())
    heard = transcripts.from_steps(steps, seconds, spoken, duration + padding, has_pieces=True)
    words = [
        replace(
            word,
            start=round(min(max(0.0, word.start - padding), duration), 3),
            end=round(min(max(0.0, word.end - padding), duration), 3),
        )
        for word in heard.words
    ]
    return Transcript(spoken, words, duration)
