#!/usr/bin/env python3
"""Evaluate a model in sherpa-onnx, another runtime for ONNX models."""

import shlex
import tempfile
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from asr_with_nemo.cli import Model, run

if TYPE_CHECKING:
    from nemo.collections.asr.models import EncDecCTCModel


def main(
    model: Model = "an4",
    manifest: Annotated[Path, typer.Argument(help="A NeMo manifest with reference transcripts.")] = Path(
        "data/an4/test_manifest.json"
    ),
    output: Annotated[
        Path | None, typer.Option(help="Write the figures to this file (results/NAME.json), for RESULTS.md.")
    ] = None,
) -> None:
    """Evaluate a model in sherpa-onnx, another runtime for ONNX models, and compare it with NeMo.

    sherpa-onnx computes the mel features itself, always with windows of 25 ms, so it can't use the files of
    scripts/export.py, which include the features; it gets NeMo's own export. The difference in WER is due to the
    window.
    """
    from asr_with_nemo.models.loading import load_model, sample_rate
    from asr_with_nemo.recognition import decoding, evaluation, transcripts, wer
    from asr_with_nemo.recognition.results import save_measurement

    loaded = load_model(model)
    rate, bands = sample_rate(loaded), loaded.cfg.preprocessor.features
    rows = evaluation.read_references(manifest)
    files = [row["audio_filepath"] for row in rows]
    nemos = [heard.text for heard in decoding.transcribe(loaded, files, progress=False)]
    with tempfile.TemporaryDirectory() as folder:
        theirs = transcribe(*export(loaded, Path(folder)), transcripts.read(files, rate), rate, bands)
    lines = []
    window = f"windows of {1000 * loaded.cfg.preprocessor.window_size:g} ms"
    ways = {
        f"NeMo, {window}": nemos,
        f"sherpa-onnx {metadata.version('sherpa-onnx')}, windows of 25 ms": theirs,
    }
    for name, texts in ways.items():
        errors = sum((wer.count_errors(row["text"], text) for row, text in zip(rows, texts, strict=True)), wer.Counts())
        same = sum(one == other for one, other in zip(texts, nemos, strict=True))
        line = {"": name, "WER": f"{errors.rate:.1%}", "errors": f"{errors.errors} of {errors.words}"}
        lines.append(line | {"texts as NeMo's": f"{same} of {len(rows)}"})
        typer.echo(", ".join(f"{column} {value}".strip() for column, value in lines[-1].items()))
    if output:
        about = (
            "The same network, greedy, a recording at a time. sherpa-onnx computes the mel features itself, and "
            "has no setting for the length of their windows."
        )
        command = shlex.join(["python", "scripts/tools/evaluate_sherpa.py", model, str(manifest)])
        save_measurement(output, "Another runtime, with its own features", about, lines, command)
        typer.echo(f"results: {output}")


def export(model: "EncDecCTCModel", folder: Path) -> tuple[Path, Path]:
    """Export a model for sherpa-onnx: NeMo's own ONNX export with metadata, and the letters with their indexes."""
    import onnx

    from asr_with_nemo.models.loading import alphabet, seconds_per_frame

    path, tokens = folder / "nemo.onnx", folder / "tokens.txt"
    labels = alphabet(model)
    frames = seconds_per_frame(model) / model.cfg.preprocessor.window_stride
    notes = {"vocab_size": len(labels), "normalize_type": "per_feature", "subsampling_factor": round(frames)}
    model.export(str(path), verbose=False)
    proto = onnx.load(path)
    if len(proto.graph.input) == 1:  # without its masks, the network no longer asks for lengths; sherpa-onnx gives them
        batch = proto.graph.input[0].type.tensor_type.shape.dim[0].dim_param
        proto.graph.input.append(onnx.helper.make_tensor_value_info("length", onnx.TensorProto.INT64, [batch]))
    onnx.helper.set_model_props(proto, {name: str(value) for name, value in notes.items()})
    onnx.save(proto, path)
    spelled = ["▁" if label == " " else label for label in labels]
    tokens.write_text("".join(f"{one} {number}\n" for number, one in enumerate([*spelled, "<blk>"])), encoding="utf-8")
    return path, tokens


def transcribe(model: Path, tokens: Path, sounds: list, rate: int, bands: int) -> list[str]:
    """Transcribe recordings with sherpa-onnx, mono float32 samples (t,) each."""
    import sherpa_onnx

    recognizer = sherpa_onnx.OfflineRecognizer.from_nemo_ctc(
        str(model), str(tokens), sample_rate=rate, feature_dim=bands
    )
    texts = []
    for samples in sounds:
        stream = recognizer.create_stream()
        stream.accept_waveform(rate, samples)
        recognizer.decode_stream(stream)
        texts.append(stream.result.text.strip())
    return texts


if __name__ == "__main__":
    run(main)
