"""Pictures in, pictures out: the way of a video's frames, without the video."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from bmf_trt_seg.errors import StreamError
from bmf_trt_seg.frames import FramePlanes, allocate_planes
from bmf_trt_seg.metrics import open_stream
from bmf_trt_seg.options import SegmentOptions
from bmf_trt_seg.outputs import temporary_path
from bmf_trt_seg.pipeline import open_pipeline
from bmf_trt_seg.segmentation import PicturePipeline

__all__ = ["PICTURE_SUFFIXES", "color_profile", "read_picture", "segment_pictures", "write_picture"]

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


def _segment_picture(pipeline: PicturePipeline, number: int, source: Path, target: Path) -> None:
    frame = read_picture(source)
    drawn = allocate_planes(frame, *pipeline.size(frame.width, frame.height))
    pipeline.submit([frame], [number], [(number, Fraction(1))], [drawn], wants_maps=False).finish()
    write_picture(drawn, target, color_profile(source))


def read_picture(path: Path) -> FramePlanes:
    """A picture file upright, R'G'B' of 8 bits. Raises StreamError."""
    try:
        with _opened(path) as image:
            upright = _eight_bits(ImageOps.exif_transpose(image)).convert("RGB")
            return FramePlanes("rgb24", upright.width, upright.height, (np.array(upright),))
    except UnidentifiedImageError as error:
        raise StreamError(f"'{path}' is no picture") from error
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        reason = getattr(error, "strerror", None) or error
        raise StreamError(f"'{path}' cannot be read: {reason}") from error


@contextmanager
def _opened(path: Path) -> Iterator[Image.Image]:
    """Pillow's picture, without its warnings; one of 179 megapixels and more is refused all the same."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        with Image.open(path) as image:
            yield image


def _eight_bits(image: Image.Image) -> Image.Image:
    """Grey of 16 bits as grey of 8, where Pillow's own conversion would make nearly all of it white."""
    if not image.mode.startswith("I;16"):
        return image
    return Image.fromarray((np.asarray(image) >> 8).astype(np.uint8))


def color_profile(path: Path) -> bytes | None:
    """The ICC profile that says what the colours of a picture file mean; None if they are sRGB, or of another model."""
    try:
        with _opened(path) as image:
            profile: bytes | None = image.info.get("icc_profile") if image.mode in ("RGB", "RGBA") else None
            return profile
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError):  # it was read before
        return None


def write_picture(frame: FramePlanes, path: Path, profile: bytes | None = None) -> None:
    """Write an R'G'B' picture in host memory, whole or not at all, in the format of its ending.

    profile: as `color_profile` gives it. Raises StreamError.
    """
    partial = temporary_path(path)
    options: dict[str, Any] = {"quality": 95} if path.suffix.lower() in {".jpg", ".jpeg", ".webp"} else {}
    try:
        Image.fromarray(frame.planes[0]).save(partial, icc_profile=profile, **options)
        partial.replace(path)
    except OSError as error:
        raise StreamError(f"'{path}' cannot be written: {error.strerror or error}") from error
    finally:
        partial.unlink(missing_ok=True)
