"""Makes the picture of a trace for the README: docs/images/trace.png, of the demo's clip or of the trace that is named.

python docs/trace_picture.py [TRACE.json [FIRST_MS LAST_MS]]
"""

from __future__ import annotations

import json
import sys
import tempfile
from collections import defaultdict
from pathlib import Path
from typing import Any

from PIL import Image, ImageDraw, ImageFont

_TOP = Path(__file__).resolve().parents[1]
_WINDOW_MS = 120  # out of the middle of the trace, where nothing is said
_WIDTH, _LEFT, _ROW, _BAR, _GRAPH = 1180, 215, 26, 18, 44
_COLORS = ("#546e7a", "#8d6e63", "#00838f", "#1565c0", "#6a1b9a", "#ad1457", "#ef6c00", "#2e7d32")


def main() -> None:
    with tempfile.TemporaryDirectory() as name:
        path = Path(sys.argv[1]) if len(sys.argv) > 1 else _trace_of_the_demo(Path(name))
        events = json.loads(path.read_text(encoding="utf-8"))["traceEvents"]
    timed = [event for event in events if event["ph"] != "M"]
    middle = (timed[0]["ts"] + timed[-1]["ts"]) / 2000
    first, last = map(float, sys.argv[2:4]) if len(sys.argv) > 3 else (middle, middle + _WINDOW_MS)
    _drawn(events, first, last).save(Path(__file__).parent / "images" / "trace.png", optimize=True)


def _trace_of_the_demo(folder: Path) -> Path:
    from bmf_trt_seg.cli.main import main as bmf_trt_seg

    path, clip = folder / "trace.json", _TOP / "demo" / "out" / "input.mp4"
    try:
        bmf_trt_seg(["segment", str(clip), "-o", str(folder / "out.mp4"), "--trace", str(path), "--quiet"])
    except SystemExit as end:
        if end.code:
            raise
    return path


def _drawn(events: list[dict[str, Any]], first_ms: float, last_ms: float) -> Image.Image:
    """Rows of spans and graphs of counters from `first_ms` to `last_ms` of the trace."""
    rows = _rows(events)
    counters: dict[tuple[int, str], list[tuple[float, float]]] = defaultdict(list)
    for event in events:
        if event["ph"] == "C":
            counters[event["pid"], event["name"]].append((event["ts"] / 1e3, event["args"][event["name"]]))
    height = _ROW * (len(rows) + 2) + _GRAPH * len(counters)
    image = Image.new("RGB", (_WIDTH, height), "white")
    draw, font, small = ImageDraw.Draw(image), ImageFont.load_default(14), ImageFont.load_default(11)

    def x(at_ms: float) -> float:
        inside = min(max(at_ms, first_ms), last_ms)
        return _LEFT + (inside - first_ms) / (last_ms - first_ms) * (_WIDTH - _LEFT - 20)

    length = last_ms - first_ms
    step = next(step for step in (1, 2, 5, 10, 20, 50, 100, 200, 500, 1000, 10**9) if length / step <= 14)
    for tick in range(0, int(length) + 1, step):
        at = x(first_ms + tick)
        draw.line((at, _ROW, at, height), fill="#e8e8e8")
        draw.text((at, _ROW / 2), f"{tick} ms", font=small, fill="#666666", anchor="mm")
    for number, (name, spans) in enumerate(rows):
        top = _ROW * (number + 1) + 4
        draw.text((_LEFT - 10, top + _BAR / 2), name, font=font, fill="black", anchor="rm")
        for begin, end, facts in spans:
            if begin < last_ms and end > first_ms:
                left, right = x(begin), max(x(end) - 1, x(begin) + 1)
                draw.rectangle((left, top, right, top + _BAR), fill=_COLORS[number % len(_COLORS)])
                text = str(facts.get("file") or facts.get("frame", ""))
                if right - left > draw.textlength(text, font=small) + 4:
                    draw.text(((left + right) / 2, top + _BAR / 2), text, font=small, fill="white", anchor="mm")
    for number, ((_, name), readings) in enumerate(counters.items()):
        bottom = _ROW * (len(rows) + 1) + _GRAPH * (number + 1)
        most = max(value for _, value in readings) or 1
        draw.text((_LEFT - 10, bottom - 16), name, font=font, fill="black", anchor="rm")
        draw.text((_LEFT - 10, bottom - 32), f"0 to {most:g}", font=small, fill="#666666", anchor="rm")
        for (at, value), (until, _) in zip(readings, [*readings[1:], (last_ms, 0.0)], strict=True):
            if at < last_ms and until > first_ms and value:
                draw.rectangle((x(at), bottom - value / most * (_GRAPH - 12), x(until), bottom), fill="#b0bec5")
    return image


def _rows(events: list[dict[str, Any]]) -> list[tuple[str, list[tuple[float, float, dict[str, Any]]]]]:
    """Names of rows and their spans (begin and end in ms, facts); of a queue, the spans that do not overlap."""
    names = {(e["pid"], e["tid"]): e["args"]["name"] for e in events if e["name"] == "thread_name"}
    places = {(e["pid"], e["tid"]): e["args"]["sort_index"] for e in events if e["name"] == "thread_sort_index"}
    found: dict[Any, list[tuple[float, float, dict[str, Any]]]] = defaultdict(list)
    for event in events:
        if event["ph"] == "X":
            key = event["pid"], event["tid"]
            found[key].append((event["ts"] / 1e3, (event["ts"] + event["dur"]) / 1e3, event["args"]))
    rows = [(names[key], found[key]) for key in sorted(found, key=lambda key: (key[0], places[key]))]
    ends = {(e["pid"], e["id"]): e["ts"] / 1e3 for e in events if e["ph"] == "e"}
    queues: dict[tuple[int, str], list[tuple[float, float, dict[str, Any]]]] = defaultdict(list)
    for event in events:
        if event["ph"] == "b":
            row, begin = queues[event["pid"], event["name"]], event["ts"] / 1e3
            if not row or row[-1][1] <= begin:
                row.append((begin, ends[event["pid"], event["id"]], event["args"]))
    return rows + [(name, spans) for (_, name), spans in queues.items()]


if __name__ == "__main__":
    main()
