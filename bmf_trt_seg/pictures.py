"""Pictures in, pictures out: the way of a video's frames, without the video."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from bmf_trt_seg.errors import StreamError
from bmf_trt_seg.frames import FramePlanes, allocate_planes
from bmf_trt_seg.metrics import open_stream
from bmf_trt_seg.options import SegmentOptions
from bmf_trt_seg.outputs import temporary_path
from bmf_trt_seg.pipeline import open_pipeline

if TYPE_CHECKING:
    from bmf_trt_seg.pipeline import Pipeline
    from bmf_trt_seg.pipeline_cuda import CudaPipeline

__all__ = ["PICTURE_SUFFIXES", "read_picture", "segment_pictures"]

PICTURE_SUFFIXES = {".bmp", ".jpeg", ".jpg", ".png", ".tif", ".tiff", ".webp"}


def segment_pictures(
    jobs: Sequence[tuple[Path, Path]], options: SegmentOptions, report: Callable[[int], None]
) -> list[StreamError]:
    """Segment pictures (source, target), each on its own. The format of a target goes by its ending.

    A picture that cannot be read is passed over; the errors of all such are returned. EXIF rotation is applied.
    `report` is called with the number of pictures done.
    """
    # what ties a frame to the one before has no meaning here
    pipeline = open_pipeline(options.model_copy(update={"interval": 1, "smoothing": 0.0}), open_stream(options.name))
    failures = []
    try:
        for number, (source, target) in enumerate(jobs):
            try:
                _segment_picture(pipeline, number, source, target)
            except StreamError as error:
                failures.append(error)
            report(number + 1)
    finally:
        pipeline.close()
    return failures


def _segment_picture(pipeline: Pipeline | CudaPipeline, number: int, source: Path, target: Path) -> None:
    frame = read_picture(source)
    drawn = allocate_planes(frame, *pipeline.size(frame.width, frame.height))
    pipeline.submit([frame], [number], [(number, Fraction(1))], [drawn], wants_maps=False).finish()
    _write(drawn, target)


def read_picture(path: Path) -> FramePlanes:
    """A picture file upright, R'G'B' of 8 bits. Raises StreamError."""
    try:
        with Image.open(path) as image:
            upright = _eight_bits(ImageOps.exif_transpose(image)).convert("RGB")
            return FramePlanes("rgb24", upright.width, upright.height, (np.array(upright),))
    except UnidentifiedImageError as error:
        raise StreamError(f"'{path}' is no picture") from error
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        reason = getattr(error, "strerror", None) or error
        raise StreamError(f"'{path}' cannot be read: {reason}") from error


def _eight_bits(image: Image.Image) -> Image.Image:
    """Grey of 16 bits as grey of 8, where Pillow's own conversion would make nearly all of it white."""
    if not image.mode.startswith("I;16"):
        return image
    return Image.fromarray((np.asarray(image) >> 8).astype(np.uint8))


def _write(frame: FramePlanes, path: Path) -> None:
    partial = temporary_path(path)
    options: dict[str, Any] = {"quality": 95} if path.suffix.lower() in {".jpg", ".jpeg", ".webp"} else {}
    try:
        Image.fromarray(frame.planes[0]).save(partial, **options)
        partial.replace(path)
    except OSError as error:
        raise StreamError(f"'{path}' cannot be written: {error.strerror or error}") from error
    finally:
        partial.unlink(missing_ok=True)
