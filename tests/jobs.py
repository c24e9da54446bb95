"""Short forms of what nearly every test of videos does."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from bmf_trt_seg.finish import Finished
from bmf_trt_seg.options import SegmentOptions
from bmf_trt_seg.transcode import Encoding, VideoJob, segment_video

LOSSLESS = Encoding(crf=0)  # x264 keeps every value at this setting


def segment(
    source: Path,
    target: Path,
    model: Path,
    *,
    encoding: Encoding = LOSSLESS,
    records: Path | None = None,
    masks: Path | None = None,
    **options: Any,
) -> Finished:
    """Segment a video in this process."""
    chosen = SegmentOptions(model=str(model), **options)
    return segment_video(VideoJob(source, target, chosen, encoding, records, masks))


def read_records(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def left_in(folder: Path) -> set[str]:
    """Names of everything in a folder, hidden files too."""
    return {path.name for path in folder.iterdir()}
