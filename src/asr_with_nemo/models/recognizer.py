"""What a loaded recogniser writes, how it decodes, and whether it can listen while somebody speaks.

NeMo's recognisers share an encoder; they differ in the decoders behind it:

- ctc: for each frame, one network gives the probability of each letter or piece, and of the blank.
- rnnt: a prediction network reads what was written so far, and a joint network chooses, at each frame, the next letters
  or pieces until it chooses the blank.
- tdt: as rnnt, but each choice has a duration: how many frames to go on.
- aed (attention encoder-decoder, NVIDIA's Canary): a decoder reads a prompt, what was written so far, and the whole
  recording, and chooses the next piece until it chooses the end. It has no frames.

A hybrid has a transducer, rnnt or tdt, and ctc.
"""

from dataclasses import dataclass
from typing import TYPE_CHECKING

from asr_with_nemo.errors import InputError
from asr_with_nemo.models.loading import alphabet, attends, sample_rate, seconds_per_frame, writes_letters

if TYPE_CHECKING:
    import torch
    from nemo.collections.asr.models import ASRModel

FRAMEWISE = ("ctc", "rnnt", "tdt")
"""The names of the decoders that go from frame to frame."""
DECODERS = (*FRAMEWISE, "aed")
"""The names of the decoders that a recogniser may have."""


@dataclass(frozen=True)
class Recognizer:
    """The properties of a recogniser.

    Attributes:
        writes: "letters" or "pieces" (of words).
        vocabulary: the letters or pieces, in the order of the model's outputs.
        decoders: names from `DECODERS`; the first is the default.
        seconds_per_frame: from one output frame to the next.
        sample_rate: of the input, in Hz.
        look_ahead: the seconds after a frame that the encoder has to hear before its output, one for each setting that
            the model was trained for; empty for a model that has to hear the whole recording.
    """

    writes: str
    vocabulary: tuple[str, ...]
    decoders: tuple[str, ...]
    seconds_per_frame: float
    sample_rate: int
    look_ahead: tuple[float, ...]

    @property
    def streams(self) -> bool:
        """Whether the model was trained to recognise speech before it has ended."""
        return bool(self.look_ahead)

    def __str__(self) -> str:
        """Describe the recogniser in a line.

        Example:
            >>> print(Recognizer("pieces", ("a", "b"), ("tdt", "ctc"), 0.08, 16_000, ()))
            2 pieces, decoders tdt and ctc, frames of 80 ms, whole recordings
        """
        decoders = f"decoder{'s' if len(self.decoders) > 1 else ''} {' and '.join(self.decoders)}"
        hears = "whole recordings"
        if self.streams:
            hears = f"streams, with {' or '.join(f'{seconds:.2g}' for seconds in self.look_ahead)} s of look-ahead"
        return (
            f"{len(self.vocabulary):,} {self.writes}, {decoders}, frames of {self.seconds_per_frame * 1000:.0f} ms, "
            f"{hears}"
        )


def describe(model: "ASRModel") -> Recognizer:
    """Return the properties of a loaded recogniser (`loading.load_model`)."""
    frame = seconds_per_frame(model)
    return Recognizer(
        writes="letters" if writes_letters(model) else "pieces",
        vocabulary=tuple(alphabet(model)),
        decoders=decoders(model),
        seconds_per_frame=frame,
        sample_rate=sample_rate(model),
        look_ahead=tuple(round(frames * frame, 4) for frames in _frames_ahead(model.encoder)),
    )


def decoders(model: "ASRModel") -> tuple[str, ...]:
    """Return the names of a model's decoders, from `DECODERS`, the default first."""
    if attends(model):
        return ("aed",)
    if not hasattr(model, "joint"):
        return ("ctc",)
    transducer = "tdt" if durations(model) else "rnnt"
    return (transducer, "ctc") if hasattr(model, "ctc_decoder") else (transducer,)


def durations(model: "ASRModel") -> list[int]:
    """Return the durations in frames that a TDT model chooses from; empty for other models."""
    loss = model.cfg.get("loss") or {}
    name = str(loss.get("loss_name", ""))
    return list((loss.get(f"{name}_kwargs") or {}).get("durations") or []) if name.startswith("tdt") else []


def most_symbols(model: "ASRModel") -> int | None:
    """Return the most letters or pieces that a transducer is set to write in a frame; None for no limit."""
    asked = model.decoding.cfg.get("greedy") or {}
    return asked.get("max_symbols") or asked.get("max_symbols_per_step")


def choose_decoder(model: "ASRModel", decoder: str = "") -> str:
    """Return the name of a decoder: the one given, else the model's default.

    Raises:
        InputError: the model doesn't have it.
    """
    has = decoders(model)
    if decoder and decoder not in has:
        ways = " and ".join(has) if len(has) > 1 else f"only {has[0]}"
        raise InputError(f"decoder {decoder}: this model has {ways}; leave it out for {has[0]}")
    return decoder or has[0]


def check_has_frames(model: "ASRModel", what: str, instead: str) -> None:
    """Make sure that a model isn't an attention encoder-decoder, which not every command takes.

    Args:
        model: any recogniser.
        what: the command or option.
        instead: what would do it for such a model.

    Raises:
        InputError: it is one.
    """
    if attends(model):
        raise InputError(
            f"{what}: the model is an attention encoder-decoder ({type(model).__name__}, such as Canary), which only "
            f"transcribe.py and evaluate.py take, by greedy decoding; {instead}"
        )


def ctc_decoder(model: "ASRModel"):
    """Return the network from the encoder's output to log-probabilities, for `encoder_output=` of (B, D, T).

    Raises:
        InputError: the model has no CTC decoder.
    """
    choose_decoder(model, "ctc")
    return model.ctc_decoder if hasattr(model, "ctc_decoder") else model.decoder


def greedy_texts(model: "ASRModel", signals: "torch.Tensor", lengths: "torch.Tensor") -> list[str]:
    """Return what a model hears in a batch, (B, t), by its default decoder as it is set, in the mode that it is in."""
    output = model(input_signal=signals, input_signal_length=lengths)
    if hasattr(model, "joint"):
        found = model.decoding.rnnt_decoder_predictions_tensor(output[0], output[1])
    else:
        found = model.decoding.ctc_decoder_predictions_tensor(output[0], decoder_lengths=output[1])
    # A beam search returns a list of hypotheses for each utterance, the best first.
    return [(hypothesis[0] if isinstance(hypothesis, list) else hypothesis).text for hypothesis in found]


def _frames_ahead(encoder: object) -> list[int]:
    """Return the frames that an encoder hears beyond the current one, for each setting; empty for unlimited ones."""
    style = getattr(encoder, "att_context_style", "regular")
    if style == "chunked_limited_with_rc" and getattr(encoder, "att_chunk_context_size", None):
        _, chunks, right = encoder.att_chunk_context_size
        return sorted({chunk - 1 + more for chunk in chunks for more in right})
    if not style.startswith("chunked_limited"):
        return []
    return [right for _, right in encoder.att_context_size_all if right >= 0]
