"""Masks as records: one JSON-able dict a frame, and the class map back out of it.

    {"frame": 0, "pts": 512, "time_base": [1, 15360], "seconds": 0.0333, "inferred": true, "size": [1280, 720],
     "background": 0, "classes": [{"index": 1, "label": "person", "color": "#00c853", "share": 0.4377,
                  "bbox": [120, 31, 840, 689], "rle": {"size": [720, 1280], "counts": "..."}}],
     "shown": [{"index": 1, "label": "person", "color": "#00c853"}]}

`background` is the value of a pixel of no recorded class in class maps and PNG files, 0 or 255 (NO_CLASS).
`share` is the part of the picture's pixels, `bbox` is left, top, width, height in pixels, `rle` the compressed
run-length encoding of the COCO data set (column by column; `pycocotools.mask.decode` reads it).
`shown`, all classes that could have been recorded, is in the record of frame 0 only, and in the first one after a
change of options.

A network of task 'raw' gives an `OutputRecord` in its place, with `outputs`, its output arrays by name, and no classes.
"""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt
from pycocotools import mask as coco

__all__ = ["OutputRecord", "Outputs", "class_map", "frame_record", "picture_record"]


Outputs = dict[str, npt.NDArray[np.generic]]
"""All outputs of a network for one picture, by name; the first size is 1 where the network counts pictures there."""


def frame_record(
    map_hw: npt.NDArray[np.uint8],
    labels: dict[int, str],
    colors: dict[int, str],
    *,
    frame: int,
    pts: int,
    time_base: Fraction,
    inferred: bool,
    background: int,
    is_first: bool = False,
) -> dict[str, Any]:
    """The record of one frame; is_first: of these classes, as that of frame 0 is in any case.

    map_hw: (H, W) uint8 class map. labels, colors: of the classes to record, by index; a class that does not occur
    is left out. pts in units of time_base seconds. background: the value of pixels of no class.
    """
    height, width = map_hw.shape
    counts = cv2.calcHist([map_hw], [0], None, [256], [0, 256]).ravel()
    classes = []
    for index in labels:
        if not counts[index]:
            continue
        mask = (map_hw == index).view(np.uint8)
        # transposed by OpenCV, then seen as column-major: what the encoder wants, at a tenth of NumPy's time
        rle = coco.encode(cv2.transpose(mask).T)
        classes.append(
            {
                "index": index,
                "label": labels[index],
                "color": colors[index],
                "share": round(float(counts[index]) / (width * height), 6),
                "bbox": list(cv2.boundingRect(mask)),
                "rle": {"size": [height, width], "counts": rle["counts"].decode("ascii")},
            }
        )
    record = {
        **_head(frame, pts, time_base, inferred, (width, height)),
        "background": background,
        "classes": classes,
    }
    if frame == 0 or is_first:
        record["shown"] = [{"index": index, "label": labels[index], "color": colors[index]} for index in labels]
    return record


@dataclass(frozen=True)
class OutputRecord:
    """The record of one frame of a network of task 'raw'. It is no dict, since BMF makes text of those."""

    frame: int
    pts: int
    time_base: Fraction
    """Seconds that a unit of pts lasts."""
    inferred: bool
    size_wh: tuple[int, int]
    outputs: Outputs

    def as_dict(self) -> dict[str, Any]:
        """What is written of it: its arrays as lists."""
        head = _head(self.frame, self.pts, self.time_base, self.inferred, self.size_wh)
        return {**head, "outputs": {name: values.tolist() for name, values in self.outputs.items()}}


def picture_record(
    *, frame: int, pts: int, time_base: Fraction, inferred: bool, size_wh: tuple[int, int]
) -> dict[str, Any]:
    """The record of one frame of a network of task 'image': there is nothing to tell but the frame."""
    return _head(frame, pts, time_base, inferred, size_wh)


def _head(frame: int, pts: int, time_base: Fraction, inferred: bool, size_wh: tuple[int, int]) -> dict[str, Any]:
    return {
        "frame": frame,
        "pts": pts,
        "time_base": [time_base.numerator, time_base.denominator],
        "seconds": round(float(pts * time_base), 6),
        "inferred": inferred,
        "size": list(size_wh),
    }


def class_map(record: dict[str, Any]) -> npt.NDArray[np.uint8]:
    """The class map (H, W) uint8 of a record. ValueError if its masks are no run lengths of a picture of its size."""
    width, height = record["size"]
    map_hw = np.full((height, width), record["background"], np.uint8)
    for entry in record["classes"]:
        map_hw[_mask(entry["rle"]["counts"], height, width)] = entry["index"]
    return map_hw


_FIRST_CODE, _LAST_CODE = ord("0"), ord("o")
_MORE, _SIGN, _BITS = 0x20, 0x10, 5
_MOST_CODES = 7  # of one number: 35 bits


def _mask(counts: str, height: int, width: int) -> npt.NDArray[np.bool_]:
    """The mask (H, W) that COCO's compressed run lengths code.

    pycocotools' own decoder writes past its memory if they are made for that, so it gets none that come from a file.
    """
    codes = np.frombuffer(counts.encode("ascii"), np.uint8).astype(np.int64)
    if not codes.size or codes.min() < _FIRST_CODE or codes.max() > _LAST_CODE:
        raise ValueError("run lengths are written with the characters from '0' to 'o'")
    codes -= _FIRST_CODE
    ends = np.flatnonzero(codes & _MORE == 0)
    starts = np.concatenate([[0], ends[:-1] + 1]) if ends.size else ends
    if not ends.size or ends[-1] != codes.size - 1 or (ends - starts).max() >= _MOST_CODES:
        raise ValueError("a run length is cut off, or has no end")
    places = np.arange(codes.size) - np.repeat(starts, ends - starts + 1)
    runs = np.add.reduceat((codes & (_SIGN | _SIGN - 1)) << _BITS * places, starts)
    runs -= np.where(codes[ends] & _SIGN, np.int64(1) << _BITS * (ends - starts + 1), 0)
    runs[1::2] = runs[1::2].cumsum()  # each is told as the difference to the one before the last, from the fourth on
    runs[2::2] = runs[2::2].cumsum()
    if runs.min() < 0 or runs.max() > height * width or runs.sum() != height * width:
        raise ValueError(f"the run lengths of a mask of {width}x{height} should add up to {height * width}")
    values = np.arange(runs.size) % 2 == 1
    return np.repeat(values, runs).reshape(width, height).T
