"""A clip with a person in it: a slow camera move over NASA's portrait of Eileen Collins (public domain)."""

from __future__ import annotations

import io
from fractions import Fraction
from pathlib import Path

import av
import cv2
import numpy as np
import numpy.typing as npt
from av.video.reformatter import ColorPrimaries, ColorRange, Colorspace, ColorTrc
from PIL import Image

from bmf_trt_seg.models.packages import file_from_wheel

__all__ = ["portrait", "write_clip"]


def portrait() -> npt.NDArray[np.uint8]:
    """The picture, (512, 512, 3) RGB, out of the package that carries it."""
    content = file_from_wheel(
        "scikit-image==0.26.0",
        "skimage/data/astronaut.png",
        "88431cd9653ccd539741b555fb0a46b61558b301d4110412b5bc28b5e3ea6cb5",
    )
    return np.array(Image.open(io.BytesIO(content)).convert("RGB"))


def write_clip(path: Path, *, size_wh: tuple[int, int], frames: int, rate: int = 30) -> None:
    """Write an H.264 clip of a camera that moves down and up the portrait and back, once every 10 seconds."""
    width, height = size_wh
    picture = portrait()
    partial = path.with_name(f".{path.name}.part{path.suffix}")
    with av.open(str(partial), "w") as container:
        stream = container.add_stream("libx264", rate=rate, options={"preset": "medium", "crf": "20"})
        stream.width, stream.height, stream.pix_fmt = width, height, "yuv420p"
        stream.time_base = Fraction(1, rate)
        codec = stream.codec_context
        codec.colorspace, codec.color_primaries, codec.color_trc, codec.color_range = (
            Colorspace.ITU709, ColorPrimaries.BT709, ColorTrc.BT709, ColorRange.MPEG,
        )  # fmt: skip
        for number in range(frames):
            image = _view(picture, number / (10 * rate), width, height)
            frame = av.VideoFrame.from_ndarray(image, format="rgb24").reformat(
                format="yuv420p", dst_colorspace=Colorspace.ITU709, dst_color_range=ColorRange.MPEG
            )
            for packet in stream.encode(frame):
                container.mux(packet)
        for packet in stream.encode():
            container.mux(packet)
    partial.replace(path)


def _view(picture: npt.NDArray[np.uint8], turn: float, width: int, height: int) -> npt.NDArray[np.uint8]:
    """What the camera sees after this many turns of its way, (height, width, 3)."""
    source_height, source_width = picture.shape[:2]
    phase = 2 * np.pi * turn
    # enough of the picture to fill the frame, and up to a fifth more of zoom
    zoom = max(width / source_width, height / source_height) * (1.1 - 0.1 * np.cos(phase))
    room_x, room_y = source_width * zoom - width, source_height * zoom - height
    left = room_x * (0.5 + 0.5 * np.sin(2 * phase))
    top = room_y * (0.5 - 0.5 * np.cos(phase)) * 0.4
    move = np.array([[zoom, 0, -left], [0, zoom, -top]], np.float32)
    return cv2.warpAffine(picture, move, (width, height), flags=cv2.INTER_CUBIC)
