"""Transducers and hybrids become text with word times and confidence, by each of their decoders."""

import json
from pathlib import Path

import pytest
import torch

from asr_with_nemo.data import an4, manifest
from asr_with_nemo.errors import InputError
from asr_with_nemo.models.loading import load_model
from asr_with_nemo.models.recognizer import decoders
from asr_with_nemo.recognition import beam, decoding, evaluation
from tests.conftest import run_script
from tests.recognizers import FAMILIES, LETTERS, MODULES, config_of

TRANSDUCERS = [family for family in FAMILIES if not family.startswith("ctc")]


@pytest.fixture(scope="module")
def files(small_corpus: an4.Corpus) -> list[str]:
    return [utterance["audio_filepath"] for utterance in manifest.read_manifest(small_corpus.manifest("dev"))][:4]


def taught(path: Path):
    """A model of random weights that mostly chooses the blank, and so writes nonsense of a likely length."""
    model = load_model(path)
    vocabulary, last = list(model.joint.vocabulary), model.joint.joint_net[-1]
    with torch.no_grad():
        for layer in (model.joint.pred, model.joint.enc, last):
            layer.weight.mul_(8)
        last.bias[len(vocabulary)] += 14
        for column, piece in enumerate(vocabulary):
            last.bias[column] += 7.0 if piece == " " else 2.0 if piece.startswith("▁") else 0.0
            last.bias[column] -= 100.0 if piece in ("<unk>", "<s>", "</s>") else 0.0
    return model


@pytest.mark.slow
@pytest.mark.parametrize("family", TRANSDUCERS)
def test_texts_are_nemos_and_words_have_times_and_confidence(
    family: str, recognizers: dict[str, Path], files: list[str], capfd: pytest.CaptureFixture[str]
):
    model = taught(recognizers[family])
    by_nemo = [found.text for found in model.transcribe(files, batch_size=2, verbose=False)]
    model.eval()
    ours = decoding.transcribe(model, files, batch_size=3, progress=False)
    assert [transcript.text for transcript in ours] == by_nemo
    assert max(len(transcript.words) for transcript in ours) > 1
    for transcript in ours:
        assert [word.word for word in transcript.words] == transcript.text.split()
        starts = [word.start for word in transcript.words]
        assert starts == sorted(starts)
        assert all(0 <= word.start <= word.end <= transcript.duration for word in transcript.words)
        assert all(0 <= word.confidence <= 1 for word in transcript.words)
    said = capfd.readouterr()
    assert "warn" not in (said.out + said.err).lower()


@pytest.mark.slow
def test_lstms_write_the_same_alone_and_beside_longer_recordings(tmp_path: Path, files: list[str]):
    """As in NeMo's lstm_transducer_bpe: NeMo trains its prediction network, but can't decode with it."""
    from nemo.collections.asr.models import EncDecRNNTModel
    from omegaconf import OmegaConf

    config = config_of("rnnt of letters", tmp_path)
    config["encoder"] = {"_target_": f"{MODULES}.RNNEncoder", "feat_in": 80, "n_layers": 2, "d_model": 24}
    config["encoder"] |= {"proj_size": 16, "bidirectional": True, "subsampling": "stacking", "subsampling_factor": 4}
    config["decoder"]["prednet"]["rnn_hidden_size"] = 20
    torch.manual_seed(0)
    EncDecRNNTModel(cfg=OmegaConf.create(config)).save_to(str(tmp_path / "lstm.nemo"))
    model = taught(tmp_path / "lstm.nemo")
    alone = [decoding.transcribe(model, [file], progress=False)[0].text for file in files]
    assert [found.text for found in decoding.transcribe(model, files, progress=False)] == alone
    assert [found.text for found in model.transcribe(files, batch_size=1, verbose=False)] == alone
    assert sum(map(len, alone)) > 40


@pytest.mark.slow
@pytest.mark.parametrize("family", [family for family in TRANSDUCERS if family.endswith("pieces")])
def test_times_and_confidence_are_those_of_each_step(family: str, recognizers: dict[str, Path], files: list[str]):
    """Followed by hand, frame for frame, as the papers describe the greedy search of a transducer."""
    from asr_with_nemo.data.audio import load_audio

    model = taught(recognizers[family])
    (ours,) = decoding.transcribe(model, files[:1], progress=False)
    samples = torch.from_numpy(load_audio(files[0]))[None]
    model.preprocessor.featurizer.dither = 0.0
    model.preprocessor.featurizer.pad_to = 0
    blank, durations = len(model.joint.vocabulary), list(model.decoding.durations or [])
    steps, frame, here = [], 0, 0
    with torch.inference_mode():
        encoded, length = model(input_signal=samples, input_signal_length=torch.tensor([samples.shape[1]]))
        output, state = model.decoder.predict(None, None, add_sos=False, batch_size=1)
        while frame < int(length[0]):
            logits = model.joint.joint(encoded[:, :, frame : frame + 1].transpose(1, 2), output)[0, 0, 0]
            chances = logits[: blank + 1].softmax(0)
            best = int(chances.argmax())
            ahead = durations[int(logits[blank + 1 :].argmax())] if durations else int(best == blank)
            if best != blank:
                steps.append((best, frame, float(chances[best])))
                output, state = model.decoder.predict(torch.tensor([[best]]), state, add_sos=False, batch_size=1)
            here = 0 if ahead or best == blank else here + 1
            if here == 10:  # pieces in one frame
                ahead, here = 1, 0
            frame += max(ahead, int(best == blank))
    spelled = [model.joint.vocabulary[column] for column, _, _ in steps]
    first = next(place for place, piece in enumerate(spelled) if piece.strip("▁"))
    last = (
        next(place for place in range(first + 1, len(steps) + 1) if "".join(spelled[:place]).strip("▁").count("▁")) - 1
    )
    word = ours.words[0]
    assert word.word == "".join(spelled[first:last]).removeprefix("▁")
    assert word.start == pytest.approx(steps[first][1] * 0.04, abs=1e-3)
    chance = torch.tensor([one for _, _, one in steps[first:last]]).prod()
    assert word.confidence == pytest.approx(float(chance), abs=2e-3)


@pytest.mark.slow
def test_a_hybrid_decodes_with_either_and_a_model_lacks_the_others(recognizers: dict[str, Path], files: list[str]):
    hybrid, alone = (load_model(recognizers[name]) for name in ("tdt and ctc of pieces", "rnnt of letters"))
    with torch.no_grad():
        hybrid.ctc_decoder.decoder_layers[0].bias[-1] -= 1
    assert decoders(hybrid) == ("tdt", "ctc")
    by_ctc = decoding.transcribe(hybrid, files, progress=False, decoder="ctc")
    hybrid.change_decoding_strategy(None, decoder_type="ctc", verbose=False)
    by_nemo = [found.text for found in hybrid.transcribe(files, batch_size=2, verbose=False)]
    hybrid.eval()
    assert [found.text for found in by_ctc] == by_nemo and any(by_nemo)
    assert decoding.log_probs(hybrid, files[:1])[0].shape[1] == 61
    assert decoding.decoder_of(hybrid) == "greedy, tdt" and decoding.decoder_of(hybrid, decoder="ctc") == "greedy, ctc"
    for name in ("rnnt", "lstm"):
        with pytest.raises(InputError, match=f"{name}.*tdt and ctc"):
            decoding.transcribe(hybrid, files, decoder=name)
    with pytest.raises(InputError, match="ctc.*only rnnt"):
        decoding.log_probs(alone, files)
    with pytest.raises(InputError, match="--decoder ctc"):
        decoding.check_decoder(hybrid, search=beam.load(None, LETTERS, boosts={"go": 1}))
    hybrid.cfg.decoding.strategy = "malsd_batch"
    hybrid.change_decoding_strategy(hybrid.cfg.decoding, decoder_type="rnnt", verbose=False)
    with pytest.raises(InputError, match="malsd_batch"):
        decoding.transcribe(hybrid, files)


@pytest.mark.slow
def test_the_evaluation_names_the_decoder(recognizers: dict[str, Path], small_corpus: an4.Corpus):
    model = load_model(recognizers["tdt and ctc of pieces"])
    results = [
        evaluation.evaluate(model, small_corpus.manifest("dev"), progress=False, decoder=name) for name in ("", "ctc")
    ]
    assert [result.decoder for result in results] == ["greedy, tdt", "greedy, ctc"]
    assert all(result.words.words for result in results)


@pytest.mark.slow
def test_the_commands_take_a_decoder(recognizers: dict[str, Path], files: list[str], tmp_path: Path):
    path = tmp_path / "hybrid.nemo"
    taught(recognizers["tdt and ctc of pieces"]).save_to(str(path))
    for name in ("tdt", "ctc"):
        heard = run_script("transcribe.py", path, files[0], "--json", "--decoder", name, cwd=tmp_path)
        assert heard.returncode == 0 and heard.stderr == "", heard.stderr
        words = [word["word"] for word in json.loads(heard.stdout)["words"]]
        word = max(words, key=words.count)
        lowered = run_script("transcribe.py", path, files[0], "--boost", f"{word}:-90", "--decoder", name, cwd=tmp_path)
        assert lowered.returncode == 0 and lowered.stderr == "", lowered.stderr
        assert lowered.stdout.split().count(word) < words.count(word), (word, lowered.stdout)
    wrong = run_script("transcribe.py", path, files[0], "--decoder", "rnnt", cwd=tmp_path)
    assert wrong.returncode == 1 and "tdt and ctc" in wrong.stderr
    runtime = run_script("transcribe.py", "an4", files[0], "--decoder", "rnnt", cwd=tmp_path)
    assert runtime.returncode == 1 and "--decoder rnnt" in runtime.stderr
