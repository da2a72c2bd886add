"""Text to speech: the calls of espeak-ng that the built-in corpus needs, through ctypes.

The library and its voices come in the wheel `espeakng-loader`, so pip's packages suffice.
Function names and numbers are those of espeak-ng's `speak_lib.h` (API revision 12).
"""

import ctypes
import shutil
import tempfile
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Self

import numpy as np

from asr_with_nemo.errors import InputError

_OUTPUT_SYNCHRONOUS = 2
_DONT_EXIT = 0x8000
_UTF8_WITH_PHONEMES = 0x1 | 0x100
_RATE, _VOLUME, _PITCH, _RANGE, _WORD_GAP = 1, 2, 3, 4, 7
_VOLUME_WITHOUT_CLIPPING = 50  # at espeak's own 100 some variants reach the 16-bit limit
_Callback = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.c_void_p, ctypes.c_int, ctypes.c_void_p)


@dataclass(frozen=True)
class Voice:
    """A voice of espeak-ng: language, variant, and parameters in espeak-ng's units."""

    language: str  # an accent: "en-us", "en-gb-scotland" ...
    variant: str  # a person: "m3", "f2" ...
    words_per_minute: int = 175  # 80 to 450
    pitch: int = 50  # 0 to 99; 50 is the variant's own
    pitch_range: int = 50  # 0 is a monotone, 99 very lively
    word_gap: int = 0  # pause between words, in 10 ms at the default speed


class Speaker:
    """An instance of espeak-ng; use it as a context manager.

    The samples of espeak-ng depend a little on earlier calls (the phase of its flutter) and on the clock (the noise of
    breath). Each Speaker therefore loads its own copy of the library, with fresh memory, and seeds the noise: the same
    calls in the same order give the same samples, however many Speakers there were before.

    Attributes:
        rate: sample rate of `say`, in Hz.

    Raises:
        InputError: espeak-ng can't be loaded here.
    """

    def __init__(self) -> None:
        self._folder = tempfile.TemporaryDirectory(prefix="espeak-ng-", ignore_cleanup_errors=True)
        self._samples = bytearray()
        self._on_samples = _Callback(self._keep)
        self._voice = ""
        try:
            self._library = self._load(Path(self._folder.name))
        except (ImportError, OSError, RuntimeError, AttributeError) as error:  # AttributeError: another build of it
            self._folder.cleanup()
            raise InputError(
                f"espeak-ng, the voice of the built-in corpus, can't be loaded: {error}. It comes with the package "
                "espeakng-loader for Linux and macOS: install it with `pip install -r requirements.txt`, or use the "
                "real recordings (`--archive FILE_OR_URL`, or the environment variable AN4_ARCHIVE)."
            ) from error

    def _load(self, folder: Path) -> ctypes.CDLL:
        import espeakng_loader

        copy = folder / Path(espeakng_loader.get_library_path()).name
        shutil.copyfile(espeakng_loader.get_library_path(), copy)
        # espeak-ng finds no data under a path longer than about 145 characters; a link gives it a short one.
        (folder / "espeak-ng-data").symlink_to(espeakng_loader.get_data_path(), target_is_directory=True)
        library = ctypes.CDLL(str(copy))
        self.rate: int = library.espeak_Initialize(_OUTPUT_SYNCHRONOUS, 0, str(folder).encode(), _DONT_EXIT)
        if self.rate <= 0 or library.espeak_SetVoiceByName(b"en") != 0:
            raise RuntimeError(f"it finds no English voice in {espeakng_loader.get_data_path()}")
        library.espeak_SetSynthCallback(self._on_samples)
        library.espeak_ng_SetRandSeed(ctypes.c_long(1))  # espeak_Initialize has seeded it from the clock
        return library

    def _keep(self, samples: int | None, count: int, _events: int | None) -> int:
        if samples:
            self._samples += ctypes.string_at(samples, 2 * count)
        return 0  # go on

    def say(self, text: str, voice: Voice) -> np.ndarray:
        """Synthesise `text`, in which `[[...]]` encloses espeak-ng's phoneme names.

        Returns:
            The samples, int16, shape (samples,), at `rate`.

        Raises:
            InputError: espeak-ng has no such voice, or the text gives no sound.
        """
        name = f"{voice.language}+{voice.variant}"
        if name != self._voice:
            # A missing variant is no error to espeak-ng: it would use the language's own voice.
            variant = Path(self._folder.name, "espeak-ng-data", "voices", "!v", voice.variant)
            if not variant.is_file() or self._library.espeak_SetVoiceByName(name.encode()) != 0:
                raise InputError(
                    f"espeak-ng has no voice {name!r}. The version of espeakng-loader in requirements.txt has all "
                    "that the built-in corpus uses: `pip install -r requirements.txt`."
                )
            self._voice = name
        settings = {
            _RATE: voice.words_per_minute,
            _VOLUME: _VOLUME_WITHOUT_CLIPPING,
            _PITCH: voice.pitch,
            _RANGE: voice.pitch_range,
            _WORD_GAP: voice.word_gap,
        }
        for parameter, value in settings.items():
            self._library.espeak_SetParameter(parameter, value, 0)
        self._samples.clear()
        encoded = text.encode()
        failed = self._library.espeak_Synth(encoded, len(encoded) + 1, 0, 1, 0, _UTF8_WITH_PHONEMES, None, None)
        if failed or not any(self._samples):
            raise InputError(f"espeak-ng gave no sound for {text!r} (error {failed}). Give a text with words.")
        return np.frombuffer(bytes(self._samples), dtype=np.int16)

    def close(self) -> None:
        self._library.espeak_Terminate()
        self._folder.cleanup()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
