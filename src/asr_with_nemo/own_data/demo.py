# ruff: noqa: SIM905 (a list of words reads better as text)
"""A synthetic corpus with typical mistakes: ten Greek words, spoken by espeak-ng, in telephone quality.

Notebook 16 uses it in place of your own recordings, and then needs no network.
"""

import json
import random
from dataclasses import replace
from pathlib import Path

import numpy as np
import soundfile
import soxr

from asr_with_nemo.data.espeak import Speaker, Voice
from asr_with_nemo.own_data import recordings

NOTICE = "These are synthetic voices (espeak-ng): results on them say nothing about people's speech."
_LANGUAGE = "el"
# Label → word, zero to nine.
_WORDS = dict(enumerate("μηδέν ένα δύο τρία τέσσερα πέντε έξι εφτά οχτώ εννιά".split(" ")))
# Speaker → espeak-ng variant.
_VOICES = {"anna": "f2", "dora": "f4", "kostas": "m3", "eleni": "f1", "nikos": "m1", "petros": "m7"}
_RATE = 8_000
LABELS = "labels.json"


def make(folder: Path, takes: int = 5, seed: int = 0) -> Path:
    """Generate `folder/recordings`, with files named LABEL_SPEAKER_TAKE.wav, and a label map, `folder/labels.json`.

    Nothing is generated if the label map exists. The same takes and seed give the same files. These mistakes are
    included: a silent recording, a clipped one, one with long pauses, a copy under another label, a truncated file,
    a file that isn't audio, an empty file, a label missing from the map, a name that doesn't match the pattern, and a
    stereo recording at another sampling rate.

    Args:
        folder: the folder to write to.
        takes: recordings of each word by each speaker.
        seed: of the variation between takes.

    Returns:
        the folder of the recordings.

    Raises:
        InputError: espeak-ng isn't installed.
    """
    source = folder / "recordings"
    labels = {str(label): word for label, word in _WORDS.items()}
    if (folder / LABELS).is_file():
        return source
    source.mkdir(parents=True, exist_ok=True)
    draw = random.Random(seed)
    with Speaker() as voices:
        for speaker, variant in _VOICES.items():
            for take in range(takes):
                for label, word in labels.items():
                    sound = _say(voices, word, Voice(_LANGUAGE, variant), draw)
                    soundfile.write(source / f"{label}_{speaker}_{take}.wav", sound, _RATE)
    _plant_mistakes(source, takes)
    (folder / LABELS).write_text(json.dumps(labels, ensure_ascii=False, indent=1) + "\n", encoding="utf-8")
    return source


def _say(voices: Speaker, word: str, voice: Voice, draw: random.Random) -> np.ndarray:
    """Return a word with telephone-like noise, varied at random: float32, (T,), at 8 kHz."""
    voice = replace(voice, words_per_minute=draw.randint(130, 200), pitch=draw.randint(35, 65))
    speech = voices.say(word, voice).astype(np.float32) / 32_768
    speech = soxr.resample(speech, voices.rate * draw.uniform(0.94, 1.06), _RATE)
    silence = [np.zeros(round(draw.uniform(0.05, 0.15) * _RATE), np.float32) for _ in range(2)]
    line = np.concatenate([silence[0], speech, silence[1]])
    noise = np.random.default_rng(draw.getrandbits(32)).normal(size=len(line)).astype(np.float32)
    return 0.5 * line / np.abs(line).max() + 0.002 * noise


def _plant_mistakes(source: Path, takes: int) -> None:
    def sound(name: str) -> np.ndarray:
        return soundfile.read(source / name, dtype="float32")[0]

    extra = f"anna_{takes}"
    soundfile.write(source / f"0_{extra}.wav", np.zeros(_RATE, np.float32), _RATE)
    soundfile.write(source / f"1_{extra}.wav", np.clip(20 * sound("1_anna_0.wav"), -1, 1), _RATE)
    pause = np.zeros(round((recordings.LONG_PAUSE + 0.5) * _RATE), np.float32)
    soundfile.write(source / f"2_{extra}.wav", np.concatenate([pause, 0.9 * sound("2_anna_0.wav"), pause]), _RATE)
    (source / f"3_{extra}.wav").write_bytes((source / "4_anna_0.wav").read_bytes())
    whole = (source / "5_anna_0.wav").read_bytes()
    (source / f"5_{extra}.wav").write_bytes(whole[: len(whole) // 2])
    (source / f"6_{extra}.wav").write_text("This is not audio.\n", encoding="utf-8")
    (source / f"7_{extra}.wav").write_bytes(b"")
    soundfile.write(source / f"ten_{extra}.wav", 0.9 * sound("8_anna_0.wav"), _RATE)
    soundfile.write(source / "new recording.wav", 0.9 * sound("9_anna_0.wav"), _RATE)
    wide = soxr.resample(0.9 * sound("8_anna_1.wav"), _RATE, 44_100)
    soundfile.write(source / f"8_{extra}.wav", np.stack([wide, 0.5 * wide], axis=1), 44_100)
