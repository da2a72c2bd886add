"""One way to read sound: any format, what a file is if it is none, channels that cancel, headers never completed."""

import contextlib
import io
import struct
import subprocess
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest
import soundfile

from asr_with_nemo.data import audio, ffmpeg, sox
from asr_with_nemo.data.sound import ends_too_early, mix_down, open_sound, read_with_sox, two_talkers
from asr_with_nemo.errors import InputError
from asr_with_nemo.own_data.store import CorpusStore
from asr_with_nemo.recognition.recordings import find

RATE = 16_000


def tone(seconds: float = 1.0, pitch: float = 440.0, rate: int = RATE) -> np.ndarray:
    return (0.5 * np.sin(2 * np.pi * pitch * np.arange(int(seconds * rate)) / rate)).astype(np.float32)


def encode(path: Path, codec: str, samples: np.ndarray, rate: int, form: str | None = None) -> Path:
    """Write mono samples, (T,), or those of two channels, (2, T)."""
    layout, options = ("mono" if samples.ndim == 1 else "stereo"), {"movflags": "faststart"} if form is None else {}
    with av.open(str(path), "w", format=form, options=options) as container:
        stream = container.add_stream(codec, rate=rate, layout=layout)
        if codec in ("aac", "libopus", "wmav2"):
            stream.bit_rate = 64_000
        frame = av.AudioFrame.from_ndarray(np.atleast_2d(samples), format="fltp", layout=layout)
        frame.sample_rate, frame.time_base = rate, Fraction(1, rate)
        resampler = av.AudioResampler(format=stream.format, layout=layout, rate=rate, frame_size=stream.frame_size or 0)
        for piece in [*resampler.resample(frame), *resampler.resample(None)]:
            container.mux(stream.encode(piece))
        container.mux(stream.encode(None))
    return path


@pytest.mark.parametrize(
    ("name", "codec", "rate"),
    [("x.m4a", "aac", 16_000), ("x.mp4", "aac", 44_100), ("x.webm", "libopus", 48_000), ("x.wma", "wmav2", 44_100)],
)
def test_what_phones_and_browsers_record_is_read(tmp_path: Path, name: str, codec: str, rate: int):
    path = encode(tmp_path / name, codec, tone(2.0, rate=rate), rate)
    for source in (path, path.read_bytes()):
        with open_sound(source) as sound:
            samples = np.concatenate([*sound.blocks(10_000)])
            assert (sound.rate, sound.channels) == (rate, 1)
        assert len(samples) == pytest.approx(2 * rate, abs=0.15 * rate)
        spectrum = np.abs(np.fft.rfft(samples[:, 0]))
        assert spectrum.argmax() * rate / len(samples) == pytest.approx(440, abs=2)
    assert len(audio.load_audio(path)) == pytest.approx(2 * RATE, abs=0.15 * RATE)


@pytest.mark.parametrize(
    ("name", "codec", "rate"), [("x.m4a", "aac", 16_000), ("x.mp4", "aac", 44_100), ("x.webm", "libopus", 48_000)]
)
def test_a_part_of_a_long_recording_is_the_same_as_in_the_whole(tmp_path: Path, name: str, codec: str, rate: int):
    rising = np.sin(2 * np.pi * np.cumsum(np.linspace(100, 3_000, 40 * rate)) / rate)
    path = encode(tmp_path / name, codec, (0.5 * rising).astype(np.float32), rate)
    with open_sound(path) as sound:
        whole = np.concatenate([*sound.blocks(1 << 20)])[:, 0]
    for seconds in (2.0, 17.123, 38.9):
        with open_sound(path) as sound:
            part = np.concatenate([*sound.blocks(1 << 20, round(seconds * rate), rate // 2)])[:, 0]
        start = round(seconds * rate)
        # WebM has times in milliseconds.
        shifts = range(-rate // 1000, rate // 1000 + 1)
        assert min(np.abs(part - whole[start + shift : start + shift + len(part)]).max() for shift in shifts) < 1e-3
        assert len(part) == rate // 2


@pytest.mark.parametrize(
    ("name", "codec", "rate", "form"),
    [
        ("film.ts", "aac", 48_000, "mpegts"),
        ("film.flv", "aac", 44_100, "flv"),
        ("film.mpg", "mp2", 44_100, "mpeg"),
        ("sound.ac3", "ac3", 48_000, "ac3"),
        ("sound.tta", "tta", RATE, "tta"),
        ("memo.caf", "alac", RATE, "caf"),
        ("call.3ga", "aac", 44_100, "3gp"),
        ("film.m4v", "aac", 44_100, "mp4"),
        ("page.weba", "libopus", 48_000, "webm"),
        ("film.wmv", "wmav2", 44_100, "asf"),
        ("film.ts", "mp2", 44_100, "mpegts"),
        ("film.vob", "mp2", 48_000, "vob"),
        ("old.rm", "real_144", 8_000, "rm"),
        ("sound.wv", "wavpack", RATE, "wv"),
    ],
)
def test_what_cameras_and_old_players_write_is_read_without_sox(
    tmp_path: Path, name: str, codec: str, rate: int, form: str
):
    path = encode(tmp_path / name, codec, tone(2.0, rate=rate), rate, form)
    assert len(audio.load_audio(path)) == pytest.approx(2 * RATE, abs=0.1 * RATE)
    with open_sound(path) as sound:
        assert sound.cut is None and sum(map(len, sound.blocks(1 << 18))) and sound.cut is False
    assert [one.name for one in find([str(tmp_path)])] == [str(path)]


def test_sources_of_programs_among_the_recordings_are_no_recordings(tmp_path: Path):
    for name, source in (("server.ts", "export const rate: number = 16000;\n"), ("board.dts", "/dts-v1/;\n/ { };\n")):
        (tmp_path / name).write_text(source)
    soundfile.write(tmp_path / "a.wav", tone(1.0), RATE)
    assert [Path(one.name).name for one in find([str(tmp_path)])] == ["a.wav"]
    with CorpusStore(tmp_path / "corpus.sqlite") as store:
        store.list_files(tmp_path, tmp_path / "out")
        assert list(store.select("SELECT path FROM files WHERE kind = 'audio'")) == [("a.wav",)]


CUT = [
    ("x.m4a", "aac", RATE, None),
    ("x.aac", "aac", RATE, "adts"),
    ("x.amr", "libopencore_amrnb", 8_000, "amr"),
    ("x.flac", "flac", RATE, "flac"),
    ("x.webm", "libopus", 48_000, "webm"),
    ("x.opus", "libopus", 48_000, "ogg"),
]


@pytest.mark.parametrize(("name", "codec", "rate", "form"), CUT)
def test_a_phones_recording_that_is_cut_short_gives_what_is_there(
    tmp_path: Path, name: str, codec: str, rate: int, form: str
):
    noise = 0.01 * np.random.default_rng(0).normal(size=8 * rate)
    path = encode(tmp_path / name, codec, (tone(8.0, rate=rate) + noise).astype(np.float32), rate, form)
    path.write_bytes(path.read_bytes()[: int(0.6 * path.stat().st_size)])
    for source in (path, path.read_bytes()):
        with open_sound(source) as sound:
            assert 3.9 < sum(map(len, sound.blocks(1000))) / rate < 5.0
            assert sound.cut and not sound.unfinished


@pytest.mark.parametrize(("name", "codec", "rate", "form"), [one for one in CUT if one[0] != "x.opus"])
def test_bad_bytes_in_the_middle_cost_only_the_sound_there(tmp_path: Path, name: str, codec: str, rate: int, form: str):
    generator = np.random.default_rng(0)
    samples = 0.01 * generator.normal(size=8 * rate)
    samples[-rate:] += tone(1.0, rate=rate)
    path = encode(tmp_path / name, codec, samples.astype(np.float32), rate, form)
    content = bytearray(path.read_bytes())
    content[len(content) // 2 : len(content) // 2 + 300] = generator.bytes(300)
    path.write_bytes(content)
    whole = audio.load_audio(path)
    loud = np.nonzero(np.sqrt(audio.frame_powers(whole, RATE // 50)) > 0.2)[0] / 50
    assert len(whole) / RATE == pytest.approx(8, abs=0.4)
    assert (loud > 6).sum() == pytest.approx(50, abs=3)  # and after the gap, what follows has its own time
    if name in ("x.m4a", "x.webm"):
        assert loud[loud > 6][0] == pytest.approx(7, abs=0.15)


def test_an_aac_whose_channels_change_on_the_way_is_read_to_its_end(tmp_path: Path):
    mono = encode(tmp_path / "mono.aac", "aac", tone(2.0), RATE, "adts").read_bytes()
    stereo = encode(tmp_path / "stereo.aac", "aac", np.stack([tone(2.0), tone(2.0)]), RATE, "adts").read_bytes()
    faster = encode(tmp_path / "faster.aac", "aac", tone(2.0, rate=48_000), 48_000, "adts").read_bytes()
    path = tmp_path / "joined.aac"
    for joined in (mono + stereo + mono, stereo + mono, mono + faster):
        path.write_bytes(joined)
        samples = audio.load_audio(path)
        parts = 3 if joined == mono + stereo + mono else 2
        assert len(samples) / RATE == pytest.approx(2 * parts, abs=0.15 * parts)  # encoders add a little
        spectrum = np.abs(np.fft.rfft(samples[-RATE:]))
        assert spectrum.argmax() == pytest.approx(440, abs=3)


def test_a_tag_or_an_old_start_doesnt_hide_what_a_file_is(tmp_path: Path):
    plain = encode(tmp_path / "x.aac", "aac", tone(2.0), RATE, "adts").read_bytes()
    cover = b"ID3\x04\0\0\0\0\x40\0" + bytes(64 * 128)
    (tmp_path / "tagged.aac").write_bytes(cover + plain)
    film = encode(tmp_path / "x.m4a", "aac", tone(2.0), RATE).read_bytes()
    (tmp_path / "old.mov").write_bytes(film.replace(b"ftyp", b"wide", 1))
    for name in ("tagged.aac", "old.mov"):
        assert len(audio.load_audio(tmp_path / name)) == pytest.approx(2 * RATE, abs=0.15 * RATE)


@pytest.mark.parametrize(
    ("name", "content"), [("x.m4a", b"\0\0\0\x18ftypM4A "), ("x.opus", b"OggS"), ("x.ac3", b"\x0bw")]
)
def test_a_kind_that_cant_be_decoded_is_named_and_not_sent_to_sox(
    tmp_path: Path, name: str, content: bytes, capfd: pytest.CaptureFixture
):
    (tmp_path / name).write_bytes(content + bytes(range(7, 207)))
    with pytest.raises(InputError, match=rf"{name}: .*cut short or damaged") as raised:
        audio.load_audio(tmp_path / name)
    assert "SoX" not in str(raised.value) and "SoX" not in capfd.readouterr().err


@pytest.mark.parametrize(
    ("content", "what"),
    [
        (b"", "empty"),
        (b"<!DOCTYPE html><html><body>Not found</body></html>", "web page"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 9\n", "Git LFS"),
        (b"%PDF-1.7 ...", "PDF"),
        (b"PK\x03\x04" + bytes(100), "ZIP"),
    ],
)
def test_what_is_no_recording_is_called_what_it_is(tmp_path: Path, content: bytes, what: str):
    path = tmp_path / "x.wav"
    path.write_bytes(content)
    with pytest.raises(InputError, match=rf"x\.wav.*{what}"):
        audio.load_audio(path)


@pytest.mark.parametrize("name", ["voicemail.gsm", "call.ul", "call.al", "call.vox", "call.sln"])
def test_a_telephones_recording_without_a_header_is_read_by_its_suffix(tmp_path: Path, name: str):
    pipe = ["sox", "-n", "-r", "8000", "-c", "1", "-t", name.split(".")[1], "-", "synth", "2", "sine", "440"]
    content = subprocess.run([*pipe, "vol", "0.5", "pad", "0.5"], check=True, capture_output=True).stdout
    for path in (tmp_path / name, tmp_path / name.upper(), tmp_path / f"|touch sprung #.{name}"):
        path.write_bytes(content)
        samples = audio.load_audio(path)
        assert len(samples) / RATE == pytest.approx(2.5, abs=0.05) and np.abs(samples).max() > 0.3
        assert np.abs(np.fft.rfft(samples[-RATE:])).argmax() == pytest.approx(440, abs=2)
    assert not (tmp_path / "sprung").exists()
    if name.endswith(".gsm"):  # FFmpeg reads an upload, too
        assert open_sound(content, name).rate == 8_000
    (tmp_path / name).write_bytes(b"<!DOCTYPE html><html>Not found</html>")
    with pytest.raises(InputError, match="a web page"):
        audio.load_audio(tmp_path / name)


def test_an_mp3_or_aac_that_begins_in_a_frame_or_behind_zeros_is_read(tmp_path: Path):
    noisy = (tone(4.0) + 0.01 * np.random.default_rng(0).normal(size=4 * RATE)).astype(np.float32)
    soundfile.write(tmp_path / "x.mp3", noisy, RATE)
    encode(tmp_path / "x.aac", "aac", noisy, RATE, "adts")
    for path in (tmp_path / "x.mp3", tmp_path / "x.aac"):
        whole = path.read_bytes()
        for content in (whole[1001:], bytes(5_000) + whole, bytes(200_000) + whole):
            path.write_bytes(content)
            samples = audio.load_audio(path)
            assert 3 < len(samples) / RATE < 4.3
            assert np.abs(np.fft.rfft(samples[-2 * RATE : -RATE])).argmax() == pytest.approx(440, abs=2)
    for name in ("x.mp3", "x.aac", "x.gsm"):
        (tmp_path / name).write_text("we are free to go on as we like\n" * 50)
        with pytest.raises(InputError, match=rf"{name}: "):
            audio.load_audio(tmp_path / name)


def test_a_text_is_not_taken_for_a_film(tmp_path: Path):
    for text in ("I'm free to go", "and skip it", "the wide sea", "é free"):
        (tmp_path / "x.wav").write_text(text * 20, encoding="utf-8")
        with pytest.raises(InputError) as raised:
            audio.load_audio(tmp_path / "x.wav")
        assert "MP4" not in str(raised.value)


def test_damage_is_told_to_who_reads_no_more_than_the_stated_length(tmp_path: Path):
    path = encode(tmp_path / "x.m4a", "aac", tone(8.0), RATE)
    with open_sound(path) as sound:
        assert sum(map(len, sound.blocks(1 << 20, 0, sound.frames))) and not sound.cut
    content = bytearray(path.read_bytes())
    content[len(content) // 2 : len(content) // 2 + 3000] = np.random.default_rng(0).bytes(3000)
    path.write_bytes(content)
    for size in (1000, 1 << 20):
        with open_sound(path) as sound:
            assert sum(map(len, sound.blocks(size, 0, sound.frames))) == sound.frames and sound.cut


def test_a_short_file_isnt_called_cut_for_a_few_samples(tmp_path: Path):
    for seconds in (0.3, 0.5, 0.8, 1.0, 1.5):
        path = encode(tmp_path / f"{seconds}.wma", "wmav2", tone(seconds), RATE)
        with open_sound(path) as sound:
            read = sum(map(len, sound.blocks(1000)))
            assert sound.cut is False, (seconds, read, sound.frames)
    with open_sound(path) as sound:
        assert ends_too_early(sound, RATE, 2 * RATE) and not ends_too_early(sound, RATE // 2 - 1500, RATE // 2)


def test_a_file_in_which_no_place_can_be_found_is_an_error_of_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    path = encode(tmp_path / "x.m4a", "aac", tone(20.0), RATE)

    def fails(*_: object) -> int:
        raise av.error.PermissionError(1, "Operation not permitted")

    monkeypatch.setattr(ffmpeg.Decoder, "start_before", fails)
    with open_sound(path) as sound, pytest.raises(InputError, match=r"x\.m4a: .*cut short or damaged \(.*permitted"):
        next(sound.blocks(1000, 15 * RATE))


def test_samples_without_a_header_are_told_so(tmp_path: Path):
    path = tmp_path / "x.raw"
    path.write_bytes((tone() * 32_767).astype("<i2").tobytes())
    with pytest.raises(InputError, match=r"x\.raw.*header"):
        audio.load_audio(path)


def test_a_playlist_opens_no_other_file(tmp_path: Path):
    soundfile.write(tmp_path / "secret.wav", tone(), RATE)
    for name, text in (
        ("x.m3u8", f"#EXTM3U\n#EXTINF:1,\n{tmp_path}/secret.wav\n#EXT-X-ENDLIST\n"),
        ("x.wav", f"ffconcat version 1.0\nfile '{tmp_path}/secret.wav'\n"),
        ("x.m3u", f"{tmp_path}/secret.wav\n"),
        ("x.pls", f"[playlist]\nFile1={tmp_path}/secret.wav\n"),
    ):
        (tmp_path / name).write_text(text)
        with pytest.raises(InputError):
            audio.load_audio(tmp_path / name)


COMMAND = "touch $TRAP"
PLAYLISTS = [f"http://127.0.0.1:9/$({COMMAND})", f"http://127.0.0.1:9/`{COMMAND}`", f"|{COMMAND}", f"x; {COMMAND}"]


@pytest.mark.parametrize("line", PLAYLISTS)
@pytest.mark.parametrize(
    ("name", "frame"), [("x.m3u", "{}\n"), ("x.pls", "[playlist]\nFile1={}\n"), ("x.wav", "#EXTM3U\n{}\n")]
)
def test_a_playlist_runs_no_command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, frame: str, line: str):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("TRAP", str(tmp_path / "sprung"))
    Path(name).write_text(frame.format(line), encoding="utf-8")
    for path in (name, Path(name).absolute()):
        for read in (audio.load_audio, read_with_sox, audio.minutes_of):
            with contextlib.suppress(InputError):
                read(path)
    assert [path.name for path in tmp_path.iterdir()] == [name]


def synthesize(path: str | Path, seconds: str) -> None:
    command = ["sox", "-n", "-r", str(RATE), "-b", "16", str(path), "synth", seconds, "sine", "440"]
    subprocess.run(command, check=True)


def test_the_name_of_a_recording_is_no_command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)
    for name in ("|touch sprung", "|touch sprung #.wv", "$(touch sprung).wv", "-n.sph", "--version.sph", "http:x.sph"):
        Path(name).write_bytes(b"nothing")
        with pytest.raises(InputError):
            audio.load_audio(name)
    for name in ("|touch sprung", "-n", "$(touch sprung).m3u"):  # whatever its name, it is read
        synthesize("x.sox", "1")
        Path("x.sox").rename(name)
        assert len(audio.load_audio(name)) == pytest.approx(RATE, abs=2)
    assert not Path("sprung").exists()


def test_a_small_file_that_is_hours_of_sound_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    for rate, channels in ((1, 1), (999, 1), (400_000, 1), (16_000, 65)):
        soundfile.write(tmp_path / "x.wav", np.zeros((16_000, channels)), rate)
        with pytest.raises(InputError, match=r"x\.wav: .* expected 1,000 to 384,000 Hz and 1 to 64 channels"):
            open_sound(tmp_path / "x.wav")
    monkeypatch.setattr(sox, "_MOST", 100_000)
    synthesize(tmp_path / "x.sndt", "60")
    with pytest.raises(InputError, match=r"x\.sndt: longer than"):
        audio.load_audio(tmp_path / "x.sndt")


@pytest.mark.parametrize("stated", [0, 0x7FFFF000, 0xFFFFFFFF, 2_000_000_000])
def test_a_header_that_was_never_completed_hides_no_sound(tmp_path: Path, stated: int):
    path = tmp_path / "x.wav"
    audio.write_wav(path, (tone() * 32_767).astype(np.int16))
    content = bytearray(path.read_bytes())
    content[4:8], content[40:44] = struct.pack("<I", min(stated + 36, 0xFFFFFFFF)), struct.pack("<I", stated)
    path.write_bytes(content)
    with open_sound(path) as sound:
        assert sum(map(len, sound.blocks(1000))) == RATE
        assert sound.unfinished and not sound.cut


def test_a_file_that_is_cut_short_says_so(tmp_path: Path):
    path = tmp_path / "x.wav"
    audio.write_wav(path, (tone() * 32_767).astype(np.int16))
    path.write_bytes(path.read_bytes()[:-10_001])
    with open_sound(path) as sound:
        assert sum(map(len, sound.blocks(1000))) < RATE
        assert sound.cut and not sound.unfinished


def test_a_macs_file_of_its_own_beside_a_recording_does_no_harm(tmp_path: Path):
    soundfile.write(tmp_path / "x.mp3", tone(), RATE)
    (tmp_path / "._x.mp3").write_bytes(b"\x00\x05\x16\x07\x00\x02\x00\x00Mac OS X        " + bytes(200))
    assert len(audio.load_audio(tmp_path / "x.mp3")) > 0.9 * RATE


def test_channels_that_cancel_each_other_out_are_heard(tmp_path: Path):
    path = tmp_path / "antiphase.wav"
    soundfile.write(path, np.stack([tone(), -tone()], axis=1), RATE)
    assert np.abs(audio.load_audio(path)).max() > 0.4


def test_a_part_is_read_from_where_it_begins(tmp_path: Path):
    soundfile.write(tmp_path / "x.wav", np.arange(1000, dtype=np.int16), RATE)
    with open_sound(tmp_path / "x.wav") as sound:
        part = np.concatenate([*sound.blocks(7, 100, 50)])
    assert np.array_equal(np.round(part[:, 0] * 32_768), np.arange(100, 150))


def test_two_people_on_two_channels_are_told_from_one_in_stereo():
    generator = np.random.default_rng(0)
    noise = 0.001 * generator.normal(size=(4 * RATE, 2))
    turns = noise.copy()
    turns[:RATE, 0] += tone()
    turns[2 * RATE : 3 * RATE, 1] += tone(pitch=300)
    assert two_talkers(turns, RATE)
    assert not two_talkers(noise + tone(4.0)[:, None], RATE)
    assert not two_talkers(noise + np.stack([tone(4.0), 0.1 * tone(4.0)], axis=1), RATE)
    assert mix_down(turns.astype(np.float32)).shape == (4 * RATE,)


def test_any_bytes_are_an_answer_to_where_a_file_ends():
    generator = np.random.default_rng(0)
    for size in (0, 1, 5, 12, 300, 5_000):
        for start in (b"", b"\x18\x53\x80\x67\x01\xff\xff\xff\xff\xff\xff\xff", b"\x1a\x45\xdf\xa3"):
            assert ffmpeg.ends_in_an_element(io.BytesIO(start + generator.bytes(size))) in (True, False)
    assert ffmpeg.ends_in_an_element(io.BytesIO(b"\xec\x82ab")) is False
    assert ffmpeg.ends_in_an_element(io.BytesIO(b"\xec\x82a")) is True
