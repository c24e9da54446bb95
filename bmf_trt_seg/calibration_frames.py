"""Pictures to calibrate INT8 on, or to compare networks on: frames of a video, or a folder of pictures."""

from __future__ import annotations

import hashlib
import itertools
from collections.abc import Iterator
from pathlib import Path

import av
import av.error
import numpy as np
import numpy.typing as npt

from bmf_trt_seg.engine.calibration import CalibrationData
from bmf_trt_seg.errors import ConfigError, StreamError
from bmf_trt_seg.frames import FramePlanes
from bmf_trt_seg.media import main_video, probe_video
from bmf_trt_seg.pictures import PICTURE_SUFFIXES, read_picture
from bmf_trt_seg.preprocess import Preprocess
from bmf_trt_seg.spec import InputSpec

__all__ = ["calibration_data", "sample"]


def calibration_data(source: Path, spec: InputSpec, count: int = 128) -> CalibrationData:
    """At most `count` pictures, spread evenly over a video or a folder, preprocessed as `spec` says.

    Raises StreamError if there is nothing to read, and ConfigError for a folder without pictures.
    """
    paths = _files(source, count, "pictures to calibrate on")

    def batches(batch_size: int) -> Iterator[npt.NDArray[np.generic]]:
        preprocess, left = Preprocess(spec), _frames(source, paths, count)
        first: FramePlanes | None = None
        while batch := list(itertools.islice(left, batch_size)):
            first = first or batch[0]
            if len(batch) < batch_size and batch[0] is not first:
                return  # calibration wants full batches; the last few pictures do not matter
            yield preprocess([*batch, *[batch[-1]] * (batch_size - len(batch))])

    return CalibrationData(_identity(paths, spec, count), batches, str(source), count)


def sample(source: Path, count: int) -> Iterator[FramePlanes]:
    """At most `count` pictures, spread evenly over a video or a folder, R'G'B'. Raises as `calibration_data` does."""
    return _frames(source, _files(source, count, "pictures in it"), count)


def _files(source: Path, count: int, wanted: str) -> list[Path]:
    """The video, or the pictures of a folder that are to be read."""
    if not source.is_dir():
        probe_video(source)
        return [source]
    files = sorted(path for path in source.iterdir() if path.suffix.lower() in PICTURE_SUFFIXES and path.is_file())
    if not files:
        raise ConfigError(f"'{source}' has no {wanted}; pictures end in {', '.join(sorted(PICTURE_SUFFIXES))}")
    return [files[index] for index in _spread(len(files), count)]


def _frames(source: Path, paths: list[Path], count: int) -> Iterator[FramePlanes]:
    return _frames_of(source, count) if source.is_file() else map(read_picture, paths)


def _identity(paths: list[Path], spec: InputSpec, count: int) -> str:
    digest = hashlib.sha256(f"{count} {spec.model_dump_json()}".encode())
    for path in paths:
        stat = path.stat()
        digest.update(f"{path.name} {stat.st_size} {stat.st_mtime_ns}".encode())
    return digest.hexdigest()


def _spread(total: int, count: int) -> list[int]:
    """At most `count` numbers below `total`, evenly spread."""
    return [index * total // count for index in range(count)] if total > count else list(range(total))


def _frames_of(source: Path, count: int) -> Iterator[FramePlanes]:
    """At most `count` frames of a video, evenly spread, upright, as R'G'B'."""
    wanted = iter(_spread(probe_video(source).expected_frames or count, count))
    try:
        with av.open(str(source.absolute()), metadata_errors="replace") as container:
            number = next(wanted, None)
            for index, frame in enumerate(container.decode(main_video(container))):
                if index == number:
                    rgb = np.ascontiguousarray(np.rot90(frame.to_ndarray(format="rgb24"), frame.rotation // 90))
                    yield FramePlanes("rgb24", rgb.shape[1], rgb.shape[0], (rgb,))
                    number = next(wanted, None)
                if number is None:
                    return
    except (OSError, av.error.FFmpegError) as error:
        raise StreamError(f"'{source}' cannot be decoded: {error}") from error
