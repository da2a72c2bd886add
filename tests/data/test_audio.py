"""Sound comes in many formats; what is damaged or unexpected is named."""

from pathlib import Path

import av
import numpy as np
import pytest
import soundfile

from asr_with_nemo.data import audio, manifest, sizes, synthetic
from asr_with_nemo.data.sound import read_with_sox
from asr_with_nemo.errors import InputError


@pytest.fixture
def tone() -> np.ndarray:
    """A second of a 440 Hz tone at 16 kHz, int16, (16000,)."""
    return (8000 * np.sin(2 * np.pi * 440 * np.arange(16_000) / 16_000)).astype(np.int16)


@pytest.fixture
def sphere(tmp_path: Path, tone: np.ndarray) -> Path:
    path = tmp_path / "tone.sph"
    synthetic.write_sphere(path, tone, 16_000)
    return path


def test_a_sphere_file_becomes_a_wav_with_the_same_samples(sphere: Path, tone: np.ndarray):
    wav = sphere.with_suffix(".wav")
    assert audio.convert_sphere(sphere, wav) == 1.0
    samples, rate = soundfile.read(wav, dtype="int16")
    info = soundfile.info(wav)
    assert (rate, info.channels, info.subtype) == (16_000, 1, "PCM_16")
    np.testing.assert_array_equal(samples, tone)
    assert audio.wav_samples(wav) == 16_000
    assert [path.name for path in sphere.parent.iterdir() if "partial" in path.name] == []


def test_the_header_is_read_with_its_types(sphere: Path):
    header = audio.read_sphere_header(sphere)
    assert header.size == 1024
    assert header.fields["sample_rate"] == 16_000
    assert header.fields["sample_coding"] == "pcm"
    assert "sample_count: 16000" in str(header)


def test_soundfile_and_sox_agree(sphere: Path, tone: np.ndarray):
    assert audio.sox_is_here(), "the tests need SoX: apt install sox"
    samples, rate = read_with_sox(sphere)
    assert rate == 16_000
    np.testing.assert_array_equal(samples, tone)


def test_a_sphere_file_is_the_same_by_any_name(sphere: Path, tmp_path: Path, tone: np.ndarray):
    (tmp_path / "._a.raw").write_bytes(b"\0\5\x16\7" * 30)  # which Macs write beside a.raw
    path = sphere.rename(tmp_path / "a.raw")
    samples, rate = audio.read_sphere(path)
    assert rate == 16_000 and np.array_equal(samples, tone)
    assert sizes._rate_of(str(path)) == 16_000 and not audio.is_all_zero(path)
    with pytest.raises(InputError, match=r"line 3: NIST .*which training doesn't read"):
        manifest.header_of("line 3", str(path))
    path.write_bytes(b"samples without a header" * 99)
    for read in (sizes._rate_of, lambda name: manifest.header_of("line 3", name)):
        with pytest.raises(InputError, match="without a header"):
            read(str(path))


def test_what_libsndfile_cannot_read_goes_to_sox(tmp_path: Path, tone: np.ndarray):
    # SPHERE allows samples of which libsndfile knows nothing: here, a µ-law file whose header says so.
    path = tmp_path / "ulaw.sph"
    import sox

    wav = tmp_path / "tone.wav"
    soundfile.write(wav, tone, 16_000)
    transformer = sox.Transformer()
    transformer.set_output_format(file_type="sph", encoding="u-law")
    transformer.build(str(wav), str(path))
    samples, rate = audio.read_sphere(path)
    assert rate == 16_000
    assert np.abs(samples.astype(int) - tone).max() < 300  # µ-law keeps 8 bits


def _cut(data: bytes) -> bytes:
    return data[:-2000]


def _flip(data: bytes) -> bytes:
    return data[:5000] + bytes([data[5000] ^ 0x55]) + data[5001:]


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        (_cut, "15,000 .*16,000"),
        (_flip, "sample_checksum"),
        (lambda data: b"", "empty"),
        (lambda data: b"RIFF" + data[4:], "RIFF"),
        (lambda data: data[:300], "header"),
        (lambda data: data[:1024], "16,000"),
        (lambda data: data.replace(b"sample_rate -i 16000", b"sample_rate -i 16k00"), "16k00"),
    ],
)
def test_a_damaged_sphere_file_is_named_with_what_is_wrong(sphere: Path, damage, words: str):
    sphere.write_bytes(damage(sphere.read_bytes()))
    with pytest.raises(InputError, match=words) as error:
        audio.read_sphere(sphere)
    assert str(sphere) in str(error.value)


def test_damaged_files_do_not_stop_the_others(tmp_path: Path, tone: np.ndarray):
    with audio.Converter() as converter:
        for number in range(4):
            path = tmp_path / f"{number}.sph"
            synthetic.write_sphere(path, tone, 16_000)
            if number == 2:
                path.write_bytes(_cut(path.read_bytes()))
            converter.add(path)
    problems = converter.problems(progress=False)
    assert len(problems) == 1
    assert "2.sph" in problems[0]
    assert sorted(path.name for path in tmp_path.glob("*.wav")) == ["0.wav", "1.wav", "3.wav"]


def test_a_sphere_file_of_another_rate_is_refused_not_resampled(tmp_path: Path, tone: np.ndarray):
    path = tmp_path / "slow.sph"
    synthetic.write_sphere(path, tone, 8_000)
    with pytest.raises(InputError, match=r"slow\.sph: 8,000 Hz"):
        audio.convert_sphere(path, path.with_suffix(".wav"))


@pytest.mark.parametrize(
    ("rate", "channels", "subtype"), [(44_100, 2, "PCM_24"), (8_000, 1, "PCM_16"), (16_000, 1, "FLOAT")]
)
def test_any_sound_file_comes_as_16_khz_mono(tmp_path: Path, rate: int, channels: int, subtype: str):
    time = np.arange(2 * rate) / rate
    sound = 0.3 * np.sin(2 * np.pi * 440 * time)
    path = tmp_path / "any.wav"
    soundfile.write(path, np.stack([sound] * channels, axis=1), rate, subtype=subtype)
    samples = audio.load_audio(path)
    assert samples.dtype == np.float32
    assert abs(len(samples) - 32_000) <= 2
    expected = 0.3 * np.sin(2 * np.pi * 440 * np.arange(len(samples)) / 16_000)
    assert np.abs(samples - expected)[500:-500].max() < 0.01


def test_sound_that_is_not_there_or_is_none(tmp_path: Path):
    with pytest.raises(InputError, match=r"nothing\.wav"):
        audio.load_audio(tmp_path / "nothing.wav")
    with pytest.raises(InputError, match=r"not a file"):
        audio.load_audio(tmp_path)
    (tmp_path / "text.wav").write_text("This is no sound.")
    with pytest.raises(InputError, match=r"text\.wav.*SoX"):
        audio.load_audio(tmp_path / "text.wav")
    soundfile.write(tmp_path / "empty.wav", np.zeros(0), 16_000)
    with pytest.raises(InputError, match="zero samples"):
        audio.load_audio(tmp_path / "empty.wav")


def test_a_telephone_line_loses_what_is_above_half_its_rate(tmp_path: Path):
    seconds = np.arange(16_000) / 16_000
    low, high = (np.sin(2 * np.pi * frequency * seconds) for frequency in (1_000, 6_000))
    soundfile.write(tmp_path / "both.wav", 0.3 * (low + high), 16_000)
    heard = audio.load_through(tmp_path / "both.wav", 8_000)
    assert len(heard) == 16_000
    spectrum = np.abs(np.fft.rfft(heard)) / 8_000  # a bin a Hz
    assert spectrum[1_000] == pytest.approx(0.3, rel=0.05)
    assert spectrum[6_000] < 0.001


def test_digital_silence_is_told_from_quiet_sound(tmp_path: Path):
    zeros, tick = np.zeros(48_000), np.zeros(48_000)
    tick[30_001] = 1 / 32_768  # the least that a file of 16 bits holds, at a place that isn't looked at first
    for suffix in ("wav", "flac"):
        for name, samples in (
            ("zeros", zeros),
            ("tick", tick),
            ("none", zeros[:0]),
            ("half", np.r_[zeros, tick + 0.1]),
        ):
            soundfile.write(tmp_path / f"{name}.{suffix}", samples, 16_000)
    found = {path.name for path in tmp_path.iterdir() if audio.is_all_zero(path)}
    assert found == {"zeros.wav", "zeros.flac"}
    assert audio.is_all_zero(tmp_path / "half.wav", 0.5, 2.0) and not audio.is_all_zero(tmp_path / "half.wav", 2.0, 2.0)
    (tmp_path / "text.wav").write_text("no sound")
    with av.open(str(tmp_path / "zeros.m4a"), "w") as file:  # libsndfile doesn't read it
        stream = file.add_stream("aac", rate=16_000, layout="mono")
        frame = av.AudioFrame.from_ndarray(zeros[None].astype(np.float32), format="fltp", layout="mono")
        frame.sample_rate = 16_000
        resampler = av.AudioResampler(stream.format, "mono", 16_000, frame_size=stream.frame_size)
        for piece in (*resampler.resample(frame), *resampler.resample(None)):
            file.mux(stream.encode(piece))
        file.mux(stream.encode(None))
    assert audio.is_all_zero(tmp_path / "zeros.m4a")
    assert not audio.is_all_zero(tmp_path / "text.wav") and not audio.is_all_zero(tmp_path / "nowhere.wav")
