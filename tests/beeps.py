"""Clips whose sound beeps when certain frames are shown, and how far apart the two are in a recording."""

from __future__ import annotations

from collections.abc import Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
import rtsp

RATE = 25
EVERY = 20
"""A beep begins with each frame whose number is a multiple of this."""
SOUND_RATE = 48000
_BEEP_SECONDS = 0.1
_HERTZ = 1000


def beeping(first: int, samples: int, rate: int) -> np.ndarray[Any, np.dtype[np.float32]]:
    """Samples number `first` and following of the sound that belongs to the frames, (samples,), -1 to 1."""
    times = np.arange(first, first + samples) / rate
    is_on = times % (EVERY / RATE) < _BEEP_SECONDS
    return np.where(is_on, 0.5 * np.sin(2 * np.pi * _HERTZ * times), 0.0).astype(np.float32)


def write_clip(path: Path, frames: int = 100, codec: str = "aac", key_int: int = 10, rate: int = SOUND_RATE) -> Path:
    """A clip with numbered pictures and beeps."""
    width, height = rtsp.SIZE_WH
    with av.open(str(path), "w") as out:
        video: Any = out.add_stream("libx264", rate=RATE, options={"g": str(key_int), "bf": "0", "preset": "ultrafast"})
        video.width, video.height, video.pix_fmt = width, height, "yuv420p"
        sound: Any = out.add_stream(codec, rate=rate)
        sound.layout = "mono"
        resampler = av.AudioResampler(sound.codec_context.format.name, "mono", rate)
        for number in range(frames):
            picture = rtsp.striped(number, width, height)
            picture.pts, picture.time_base = number, Fraction(1, RATE)
            out.mux(video.encode(picture))
            size = rate // RATE
            frame = av.AudioFrame.from_ndarray(beeping(number * size, size, rate)[None], "fltp", "mono")
            frame.sample_rate, frame.time_base, frame.pts = rate, Fraction(1, rate), number * size
            for part in resampler.resample(frame):
                out.mux(sound.encode(part))
        out.mux(video.encode(None))
        out.mux(sound.encode(None))
    return path


def offsets(paths: Sequence[Path]) -> list[float]:
    """For each beep of recordings that has its frame: by how many seconds it comes after that."""
    found = []
    for path in paths:
        with av.open(str(path)) as container:
            marked, pieces = [], []
            for frame in container.decode():
                if isinstance(frame, av.VideoFrame):
                    luma = np.frombuffer(memoryview(frame.planes[0]), np.uint8).reshape(-1, frame.planes[0].line_size)
                    number = rtsp.number_of(luma[: frame.height, : frame.width])
                    if number % EVERY == 0 and not rtsp.is_marked(luma[: frame.height, : frame.width]):
                        marked.append(float(frame.time))
                else:
                    samples = frame.to_ndarray()
                    if samples.dtype.kind == "i":
                        samples = samples / np.iinfo(samples.dtype).max
                    pieces.append((float(frame.time), frame.sample_rate, np.abs(samples.reshape(-1))))
        found += [min((beep - shown for shown in marked), key=abs) for beep in _beeps(pieces) if marked]
    return [offset for offset in found if abs(offset) < EVERY / RATE / 2]


def _beeps(pieces: list[tuple[float, int, Any]]) -> list[float]:
    """When sound begins after at least 0.2 s of quiet; what follows a gap may have begun in it, and does not count."""
    begins = []
    last, end = -1.0, -1.0
    for begin, rate, samples in pieces:
        if begin - end > 0.05:
            last = begin
        end = begin + len(samples) / rate
        for index in np.flatnonzero(samples > 0.1):
            moment = begin + index / rate
            if moment - last > 0.2:
                begins.append(moment)
            last = moment
    return begins
