"""Pictures to calibrate INT8 on: frames of a video, or a folder of pictures, as the network takes them."""

from __future__ import annotations

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

__all__ = ["calibration_data"]


def calibration_data(source: Path, spec: InputSpec, count: int = 128) -> CalibrationData:
    """At most `count` pictures, spread evenly over a video or a folder, preprocessed as `spec` says.

    Raises StreamError if there is nothing to read, and ConfigError for a folder without pictures.
    """
    if source.is_dir():
        files = sorted(path for path in source.iterdir() if path.suffix.lower() in PICTURE_SUFFIXES)
        if not files:
            raise ConfigError(
                f"'{source}' has no pictures to calibrate on; pictures end in {', '.join(sorted(PICTURE_SUFFIXES))}"
            )
        paths = [files[index * len(files) // count] for index in range(count)] if len(files) > count else files
    else:
        probe_video(source)
        paths = [source]
    stats = [path.stat() for path in paths]
    newest, size = max(stat.st_mtime_ns for stat in stats), sum(stat.st_size for stat in stats)

    def frames() -> Iterator[FramePlanes]:
        return _frames_of(source, count) if source.is_file() else map(read_picture, paths)

    def batches(batch_size: int) -> Iterator[npt.NDArray[np.generic]]:
        preprocess, left = Preprocess(spec), frames()
        first: FramePlanes | None = None
        while batch := list(itertools.islice(left, batch_size)):
            first = first or batch[0]
            if len(batch) < batch_size and batch[0] is not first:
                return  # calibration wants full batches; the last few pictures do not matter
            yield preprocess([*batch, *[batch[-1]] * (batch_size - len(batch))])

    return CalibrationData(f"{source}, {count} of {size} bytes, changed {newest}", batches)


def _frames_of(source: Path, count: int) -> Iterator[FramePlanes]:
    """Every Nth frame of a video, so that there are about `count`, as R'G'B'."""
    step = max(1, (probe_video(source).expected_frames or count) // count)
    try:
        with av.open(str(source.absolute())) as container:
            for frame in itertools.islice(container.decode(main_video(container)), 0, step * count, step):
                rgb = frame.to_ndarray(format="rgb24")
                yield FramePlanes("rgb24", rgb.shape[1], rgb.shape[0], (rgb,))
    except (OSError, av.error.FFmpegError) as error:
        raise StreamError(f"'{source}' cannot be decoded: {error}") from error
