"""Decoding of an open file by FFmpeg's libraries, through PyAV: past damaged packets, and in one form to the end."""

import io
from collections.abc import Iterator
from typing import TYPE_CHECKING, BinaryIO

import numpy as np

if TYPE_CHECKING:
    import av

RUN_UP = 1.0
"""Seconds decoded before a part: a decoder needs a few packets until it is right."""
_GAP = 0.1  # seconds; a longer one between packets is filled with silence, so that later times are right
_LONGEST_GAP = 10.0  # seconds, beside as much silence as there is sound
_CHANGE = 16  # times that the rate may change on the way


class Decoder:
    """Decodes the sound of an open file in the form that its header says, from where the file is.

    Args:
        container: with a sound track, of which the first is decoded.
        is_exact: whether each packet has its exact time, so that the file can be read from any time on.

    Attributes:
        reason: why a part couldn't be decoded; "" if all could.
        heard: whether any could.
    """

    def __init__(self, container: "av.container.InputContainer", is_exact: bool):
        self.reason, self.heard = "", False
        self._container, self._stream, self._is_exact = container, container.streams.audio[0], is_exact
        codec = self._stream.codec_context
        self._rate, self._layout = codec.rate, codec.layout  # the codec's own may change on the way

    def start_before(self, start: int) -> int:
        """Go to shortly before a sample, or to the start; return how many samples are still to be skipped."""
        try:
            return self._reached_before(start)
        except Exception:  # PyAV raises FFmpeg's errors, and Python's own
            self._container.seek(0)
            return start

    def _reached_before(self, start: int) -> int:
        stream, rate = self._stream, self._rate
        first = next(self._container.decode(stream), None)  # decoders drop what encoders have put before the sound
        if first is not None and first.pts is not None:
            wanted = first.pts + int((start / rate - RUN_UP) / stream.time_base)
            self._container.seek(wanted, stream=stream)
            reached = next(self._container.decode(stream), None)
            self._container.seek(wanted, stream=stream)
            if reached is not None and reached.pts is not None and first.pts <= reached.pts:
                at = round((reached.pts - first.pts) * stream.time_base * rate)
                if at <= start:
                    return start - at
        self._container.seek(0)
        return start

    def pieces(self) -> Iterator[np.ndarray]:
        """Yield samples, (n, channels); silence where the packets' exact times leave a gap."""
        import av

        form, resampler, first, decoded, filled = None, None, None, 0, 0
        for packet in self._packets():
            try:
                frames = self._stream.codec_context.decode(packet)
            except Exception as error:  # PyAV raises FFmpeg's errors, and Python's own
                self._note(error)
                frames = []
            for frame in frames:
                if not self._rate / _CHANGE <= frame.sample_rate <= self._rate * _CHANGE:
                    self._note(ValueError(f"parts of {self._rate:,} and of {frame.sample_rate:,} Hz"))
                    continue
                now = (frame.format.name, frame.layout.name, frame.sample_rate)
                if now != form:  # in some formats, the number of channels or the rate may change on the way
                    yield from self._resampled(resampler, None)
                    form, resampler = now, av.AudioResampler("fltp", self._layout, self._rate)
                if self._is_exact and frame.pts is not None:
                    first = frame.pts if first is None else first
                    time = round((frame.pts - first) * self._stream.time_base * self._rate)
                    gap = time - decoded - filled
                    # What a packet says must not make a small file a long one.
                    if _GAP * self._rate < gap and filled + gap <= decoded + _LONGEST_GAP * self._rate:
                        filled += gap
                        yield np.zeros((gap, self._layout.nb_channels), np.float32)
                frame.pts = None  # of times that don't rise, the resampler would make errors
                for piece in self._resampled(resampler, frame):
                    decoded += len(piece)
                    yield piece
        yield from self._resampled(resampler, None)

    def _packets(self) -> Iterator["av.Packet | None"]:
        """Yield the packets, and None at the end, which empties the decoder."""
        try:
            yield from (packet for packet in self._container.demux(self._stream) if packet.size)
        except Exception as error:
            self._note(error)
        yield None

    def _resampled(self, resampler: "av.AudioResampler | None", frame: "av.AudioFrame | None") -> Iterator[np.ndarray]:
        try:
            pieces = resampler.resample(frame) if resampler is not None else []
            arrays = [piece.to_ndarray().T for piece in pieces if piece is not None]
        except Exception as error:
            self._note(error)
            arrays = []
        for array in arrays:
            self.heard = self.heard or bool(len(array))
            yield array

    def _note(self, error: Exception) -> None:
        self.reason = self.reason or getattr(error, "strerror", "") or str(error) or type(error).__name__


# --- Files that end too early -----------------------------------------------------------------------------------------

_MOST_ELEMENTS = 1_000_000  # that are looked at: five hours of a live recording
_MASTERS = (b"\x18\x53\x80\x67", b"\x1f\x43\xb6\x75")  # Segment and Cluster of Matroska, which hold other elements


def ends_in_an_element(file: BinaryIO) -> bool:
    """Return whether a WebM or Matroska file ends within an element, whose header says how long it is.

    An element is an ID, a size and as many bytes (RFC 8794); recorders leave the size of those that are still open
    unknown, all ones.
    """
    end, place = file.seek(0, io.SEEK_END), 0
    for _ in range(_MOST_ELEMENTS):
        if place >= end:
            return place > end
        file.seek(place)
        head = file.read(12)
        width = 9 - head[0].bit_length()  # of the ID
        rest = head[width:]
        if width > 4 or not rest:
            return width <= 4
        long = 9 - rest[0].bit_length()  # of the size
        if long > 8 or len(rest) < long:
            return long <= 8
        size = int.from_bytes(rest[:long], "big") & ((1 << 7 * long) - 1)
        place += width + long
        is_open = size == (1 << 7 * long) - 1
        if not is_open:
            place += size
        elif head[:width] not in _MASTERS:
            return False  # an open element of another kind: where it ends isn't known
    return False
