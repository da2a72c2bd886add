"""A model of any kind, ready to transcribe recordings: by onnxruntime, or with NeMo."""

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial

from asr_with_nemo.errors import InputError
from asr_with_nemo.models.names import model_path
from asr_with_nemo.recognition.transcripts import Sound, Transcript


def load(
    model: str | os.PathLike,
    arpa: str | os.PathLike | None = None,
    boosts: Mapping[str, float | None] | None = None,
    decoder: str = "",
    prompt: Mapping[str, str] | None = None,
    note: Callable[[str], object] | None = None,
    **options: object,
) -> Callable[[Sequence[Sound]], Iterator[Transcript | InputError]]:
    """Load a model and return its `transcribe_each`, with the search for a language model and boosts.

    Args:
        model: a file, or a name that `model_path` resolves; what ends in .onnx needs no NeMo.
        arpa: a language model.
        boosts: phrases and their weights (`boosting.read_boosts`).
        decoder: of a model that has several.
        prompt: what an attention decoder (Canary) is told (`attention.parse_prompt`).
        note: called with a line if the model gives no times of words.
        options: of `transcribe_each`: batch_size, progress.

    Raises:
        InputError: the model can't be used, or not with these.
    """
    path = model_path(model, suffix=".onnx")
    if path.suffix == ".onnx":
        from asr_with_nemo.deployment import runtime

        if prompt:
            raise InputError(
                f"{path}: --prompt is for attention decoders (Canary), which aren't exported; leave it out"
            )
        recognizer = runtime.Recognizer(path)
        recognizer.check_decoder(decoder)
        return partial(recognizer.transcribe_each, search=recognizer.load_search(arpa, boosts), **options)
    from asr_with_nemo.models.loading import load_model
    from asr_with_nemo.models.recognizer import decoders
    from asr_with_nemo.recognition import attention, decoding

    loaded = load_model(path)
    search = decoding.load_search(loaded, decoder, arpa, boosts)
    if note and decoders(loaded) == ("aed",) and (said := attention.note_on_times(loaded, prompt or {})):
        note(f"note: {path}: {said}")
    return partial(decoding.transcribe_each, loaded, decoder=decoder, search=search, prompt=prompt, **options)
