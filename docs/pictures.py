"""Makes the pictures of the README from the demo's clip: docs/images/preview.jpg and docs/images/styles.jpg."""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont

_TOP = Path(__file__).resolve().parents[1]
_STYLES = {
    "blend": ["--style", "blend"],
    "contour": ["--style", "contour"],
    "blur": ["--style", "blur"],
    "cutout": ["--style", "cutout"],
    "output mask": ["--output", "mask"],
    "legend": ["--legend"],
}
_TILE_WH = (426, 320)


def main() -> None:
    sys.path.insert(0, str(_TOP / "demo"))
    from clip import portrait

    from bmf_trt_seg.cli.main import main as bmf_trt_seg

    images = Path(__file__).parent / "images"
    preview = Image.open(_TOP / "demo" / "out" / "preview.png")
    preview.save(images / "preview.jpg", quality=85)

    tiles = []
    font = ImageFont.load_default(18)
    with tempfile.TemporaryDirectory() as name:
        source = Path(name) / "portrait.png"
        Image.fromarray(portrait()[:384]).save(source)
        for label, flags in _STYLES.items():
            target = Path(name) / f"{label}.png"
            try:
                bmf_trt_seg(["segment", str(source), "-o", str(target), "--quiet", *flags])
            except SystemExit as end:
                if end.code:
                    raise
            tile = Image.open(target).resize(_TILE_WH)
            draw = ImageDraw.Draw(tile)
            draw.rectangle((0, _TILE_WH[1] - 28, 14 + font.getlength(label), _TILE_WH[1]), fill=(0, 0, 0))
            draw.text((7, _TILE_WH[1] - 25), label, font=font, fill=(255, 255, 255))
            tiles.append(np.asarray(tile))
    rows = [np.concatenate(tiles[start : start + 3], axis=1) for start in (0, 3)]
    Image.fromarray(np.concatenate(rows)).save(images / "styles.jpg", quality=85)


if __name__ == "__main__":
    main()
