"""Makes the picture of the watch page for the README: docs/images/watch.png, of three cameras and one that is away.

python docs/watch_picture.py [SECONDS]

The cameras show the demo's person, for SECONDS (default: the five minutes of the charts). It needs Chromium.
"""

from __future__ import annotations

import sys
import tempfile
import time
from fractions import Fraction
from pathlib import Path

import av
from PIL import Image

_TOP = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(_TOP / "demo"), str(_TOP / "tests")]

from browser import Browser  # noqa: E402
from clip import write_clip  # noqa: E402
from web_runs import live_graph, running, side_by_side  # noqa: E402

_SECONDS = 310.0
_RATE = 100  # of the clip that is played slower, so that the view changes little from frame to frame
_CAMERAS = {"door": (25, "blend"), "hall": (15, "contour"), "yard": (20, "blur")}
"""The frames a second of each, and its style."""


def main() -> None:
    seconds = float(sys.argv[1]) if len(sys.argv) > 1 else _SECONDS
    target = Path(__file__).parent / "images" / "watch.png"
    with tempfile.TemporaryDirectory() as name, Browser(1280, 650) as browser:
        folder = Path(name)
        graphs = {}
        write_clip(folder / "clip.mp4", size_wh=(640, 360), frames=10 * _RATE, rate=_RATE)
        for camera, (rate, style) in _CAMERAS.items():
            clip = _looped(folder / "clip.mp4", folder / f"{camera}.mp4", Fraction(_RATE, rate), seconds + 60)
            graphs[camera] = live_graph(folder / f"{camera}.json", str(clip), "person", {"style": style})
        graphs["gate"] = live_graph(folder / "gate.json", "rtsp://viewer:secret@localhost:9/stream", "person")
        with running(folder, side_by_side(folder / "graph.json", **graphs)) as run:
            browser.scheme("light")
            browser.open(f"{run.url}/")
            browser.until("document.title.startsWith('3 of 4 up')", 60.0)
            time.sleep(seconds)
            whole = browser.ask("document.documentElement.scrollHeight")
            browser.resize(1280, whole)
            time.sleep(1.0)
            picture = Image.fromarray(browser.screenshot())
    picture.quantize(256, Image.Quantize.MEDIANCUT, dither=Image.Dither.FLOYDSTEINBERG).save(target, optimize=True)
    print(f"{target.relative_to(_TOP)}: {target.stat().st_size / 1e3:.0f} kB")


def _looped(source: Path, target: Path, slower: Fraction, seconds: float) -> Path:
    """The clip again and again for so long, its packets as they are."""
    with av.open(str(source)) as clip, av.open(str(target), "w") as out:
        video = clip.streams.video[0]
        packets = [packet for packet in clip.demux(video) if packet.size]
        stream = out.add_stream_from_template(video)
        step = max(int(packet.duration or 1) for packet in packets)
        length = len(packets) * step
        time_base = video.time_base * slower
        for turn in range(int(seconds / (length * time_base)) + 1):
            for packet in packets:
                copy = av.Packet(bytes(packet))
                copy.stream, copy.time_base, copy.is_keyframe = stream, time_base, packet.is_keyframe
                copy.pts, copy.dts = packet.pts + turn * length, packet.dts + turn * length
                out.mux(copy)
    return target


if __name__ == "__main__":
    main()
