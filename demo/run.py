"""The demo: segments a clip with a person, and makes a picture of how it went."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import av
import cv2
import numpy as np
import numpy.typing as npt
from clip import write_clip
from PIL import Image

from bmf_trt_seg.cli.main import main

_OUT = Path(os.path.relpath(Path(__file__).parent / "out"))
_CLIP = _OUT / "input.mp4"
_MOMENTS = (0.05, 0.4, 0.75)  # of the clip
_TILE_WH = (426, 240)


def run() -> None:
    _OUT.mkdir(exist_ok=True)
    if not _CLIP.exists():
        print("demo: making a clip of a person, 10 seconds of 720p")
        write_clip(_CLIP, size_wh=(1280, 720), frames=300)
    _segment(_OUT / "person.mp4", "--json", str(_OUT / "person.jsonl"))
    _segment(_OUT / "mask.mp4", "--output", "mask", "--quiet")
    rows = zip(*(_tiles(_OUT / name) for name in ("input.mp4", "mask.mp4", "person.mp4")), strict=True)
    preview = np.concatenate([np.concatenate(row, axis=1) for row in rows])
    Image.fromarray(preview).save(_OUT / "preview.png")
    print(f"demo: wrote {_OUT}/person.mp4 and {_OUT}/preview.png: input, mask and overlay at three moments")


def _segment(target: Path, *arguments: str) -> None:
    try:
        main(["segment", str(_CLIP), "-o", str(target), "--overwrite", *arguments])
    except SystemExit as end:
        if end.code:
            sys.exit(end.code)


def _tiles(path: Path) -> list[npt.NDArray[np.uint8]]:
    """The frames of a video at the three moments, small."""
    with av.open(str(path)) as container:
        frames = container.streams.video[0].frames
        wanted = {round(moment * (frames - 1)) for moment in _MOMENTS}
        return [
            cv2.resize(frame.to_ndarray(format="rgb24"), _TILE_WH, interpolation=cv2.INTER_AREA)
            for number, frame in enumerate(container.decode(video=0))
            if number in wanted
        ]


if __name__ == "__main__":
    run()
