"""The commands in Kaldi's `wav.scp`: what they would do to a recording, understood and never run."""

import re
import shlex
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import groupby


@dataclass(frozen=True)
class Effect:
    """What a command does to a recording.

    Attributes:
        file: the recording's name, as written.
        start: seconds that it leaves out at the beginning.
        seconds: that it keeps from there; None for the rest.
        channel: that it takes, from 0; None for all.
    """

    file: str = ""
    start: float = 0.0
    seconds: float | None = None
    channel: int | None = None


class NotUnderstood(Exception):
    """A command does something else than to convert, to cut, or to take a channel."""


# Programs that write a recording in another format, their options without and with a value that leave its sound whole.
_CONVERTERS = {
    "flac": ("-c -d -s -f -F --decode --stdout --silent --force --totally-silent", "-o"),
    "mpg123": ("-q -s -m --quiet --stdout --mono --wav", "-w -r -b"),
    "oggdec": ("-Q -q --quiet --raw", "-o -b -e -s"),
    "opusdec": ("--quiet --force-wav --float --no-dither", "--rate"),
    "cat": ("", ""),
    "shorten": ("-x", ""),
    "wavpack": ("", ""),
    "wvunpack": ("-q -y -r", "-o"),
    "wv": ("-q -y -r", "-o"),
}
_SOX_VALUES = {"-t", "-r", "-b", "-c", "-e", "-v", "--bits", "--encoding", "--rate", "--channels"}
_FFMPEG_FLAGS = set(
    "-y -n -nostdin -hide_banner -vn -sn -dn -nostats -stats -bitexact -accurate_seek".split()  # noqa: SIM905
)
_FFMPEG_VALUES = set("-f -ar -ac -acodec -c:a -codec:a -loglevel -v -sample_fmt -threads -b:a -ab -q:a -aq".split())  # noqa: SIM905


def understand(command: str) -> Effect:
    """Return what a command of `wav.scp`, `PROGRAM ... FILE ... |`, does.

    Raises:
        NotUnderstood: it does more than to convert, cut or take a channel.

    Example:
        >>> understand("sph2pipe -f wav -p -c 2 call.sph |")
        Effect(file='call.sph', start=0.0, seconds=None, channel=1)
        >>> understand("sox talk.flac -t wav - remix 1 trim 5 2.5 |").seconds
        2.5
    """
    effect = Effect()
    try:
        words = shlex.shlex(command.rstrip("| \t"), posix=True, punctuation_chars="|")
        words.whitespace_split, words.commenters = True, ""
        parts = [list(part) for is_pipe, part in groupby(words, lambda word: set(word) == {"|"}) if not is_pipe]
    except ValueError as error:
        raise NotUnderstood(str(error)) from error
    for program, *arguments in parts:
        program = program.rsplit("/", 1)[-1]
        if program == "sph2pipe":
            effect = _sph2pipe(arguments, effect)
        elif program in ("sox", "rec", "play"):
            effect = _sox(arguments, effect)
        elif program in ("ffmpeg", "avconv"):
            effect = _ffmpeg(arguments, effect)
        elif program in _CONVERTERS:
            effect = _converter(program, arguments, effect)
        else:
            raise NotUnderstood(f"{program} isn't known")
    if not effect.file:
        raise NotUnderstood("it names no file")
    return effect


def _with_file(effect: Effect, file: str) -> Effect:
    if file in ("-", "pipe:", "pipe:0", "/dev/stdin"):
        return effect
    if effect.file:
        raise NotUnderstood("it names several files")
    return replace(effect, file=file)


def _cut(effect: Effect, start: float, seconds: float | None) -> Effect:
    """Cut what an effect leaves once more."""
    left = None if effect.seconds is None else max(0.0, effect.seconds - start)
    return replace(
        effect,
        start=effect.start + start,
        seconds=seconds if left is None else left if seconds is None else min(left, seconds),
    )


def _channel(effect: Effect, number: str) -> Effect:
    if not number.isdecimal() or int(number) < 1:
        raise NotUnderstood(f"channel {number}")
    if effect.channel is not None:
        return effect
    return replace(effect, channel=int(number) - 1)


def _seconds(text: str) -> float:
    parts = text.split(":")
    if not all(re.fullmatch(r"\d+(\.\d*)?", part) for part in parts) or len(parts) > 3:
        raise NotUnderstood(f"the time {text!r}")
    return sum(float(part) * 60**place for place, part in enumerate(reversed(parts)))


def _converter(program: str, arguments: Sequence[str], effect: Effect) -> Effect:
    flags, valued = (options.split() for options in _CONVERTERS[program])
    rest, files = list(arguments), []
    while rest:
        word = rest.pop(0)
        if word in valued and rest:
            rest.pop(0)
        elif not word.startswith("-") or word == "-":
            files.append(word)
        elif word not in flags and not (len(word) > 2 and all(f"-{letter}" in flags for letter in word[1:])):
            raise NotUnderstood(f"{program} {word}")
    return _with_file(effect, files[0] if files else "-")


def _sph2pipe(arguments: Sequence[str], effect: Effect) -> Effect:
    rest = list(arguments)
    while rest:
        word = rest.pop(0)
        if word == "-c" and rest:
            effect = _channel(effect, rest.pop(0))
        elif word == "-t" and rest:
            start, _, end = rest.pop(0).partition(":")
            begin = _seconds(start) if start else 0.0
            effect = _cut(effect, begin, _seconds(end) - begin if end else None)
        elif word == "-f" and rest:
            rest.pop(0)
        elif word == "-s" or (word.startswith("-") and word not in ("-p", "-u", "-a", "-h", "-")):
            raise NotUnderstood(f"sph2pipe {word}")
        elif not word.startswith("-"):
            effect = _with_file(effect, word)
    return effect


def _sox(arguments: Sequence[str], effect: Effect) -> Effect:
    files, rest = [], list(arguments)
    while rest and len(files) < 2:
        word = rest.pop(0)
        if word in _SOX_VALUES and rest:
            if word == "-v":
                raise NotUnderstood("sox -v")
            rest.pop(0)
        elif not word.startswith("-") or word in ("-", "-p", "-d"):
            files.append(word)
    if files:
        effect = _with_file(effect, files[0])
    while rest:
        word = rest.pop(0)
        values = []
        while rest and re.fullmatch(r"[=-]?[\d.:,vk]+|-[a-zA-Z]", rest[0]):
            values.append(rest.pop(0))
        if word == "remix" and len(values) == 1 and values[0].isdecimal():
            effect = _channel(effect, values[0])
        elif word == "trim" and 1 <= len(values) <= 2 and not values[0].startswith(("-", "=")):
            length = values[1] if len(values) == 2 else None
            start = _seconds(values[0])
            if length is not None and length.startswith("="):
                effect = _cut(effect, start, _seconds(length[1:]) - start)
            else:
                effect = _cut(effect, start, None if length is None else _seconds(length))
        elif word not in ("rate", "dither", "channels"):
            raise NotUnderstood(f"sox's effect {word}")
    return effect


def _ffmpeg(arguments: Sequence[str], effect: Effect) -> Effect:
    rest, start, length, end = list(arguments), 0.0, None, None
    while rest:
        word = rest.pop(0)
        value = rest.pop(0) if rest and word in {"-i", "-ss", "-t", "-to", "-map_channel", *_FFMPEG_VALUES} else ""
        if word == "-i":
            effect = _with_file(effect, value)
        elif word == "-ss":
            start = _seconds(value)
        elif word == "-t":
            length = _seconds(value)
        elif word == "-to":
            end = _seconds(value)
        elif word == "-map_channel":
            effect = _channel(effect, str(int(value.rsplit(".", 1)[-1]) + 1) if value[-1:].isdecimal() else value)
        elif word.startswith("-") and word not in ("-", *_FFMPEG_FLAGS, *_FFMPEG_VALUES):
            raise NotUnderstood(f"ffmpeg {word}")
    if end is not None:
        length = end - start
    return _cut(effect, start, length) if start or length is not None else effect
