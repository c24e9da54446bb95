"""The page in a browser, over real graphs."""

from __future__ import annotations

import signal
import socket
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import av
import browser
import clips
import numpy as np
import pytest
from browser import Browser
from web_runs import live_graph, running, side_by_side

ORANGE, BLUE, GREEN, WHITE_UNDER_RED = (220, 110, 40), (30, 60, 200), (20, 150, 60), (255, 128, 128)
BOX = slice(60, 85), slice(60, 100)  # rows and columns of 160x90
SHARE = 25 * 40 / (160 * 90)

pytestmark = [
    pytest.mark.skipif(bool(browser.missing()), reason=browser.missing()),
    pytest.mark.timeout(180),
]


@pytest.fixture
def page() -> Iterator[Browser]:
    with Browser(390, 844) as opened:
        opened.scheme("light")
        yield opened
        assert [one for one in opened.errors if "net::ERR" not in one and "401" not in one] == []


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Forty seconds: orange on the left, blue and green by turns on the right, a white box that is found."""

    def draw(number: int, width: int, height: int, pixel_format: str) -> av.VideoFrame:
        rgb = np.empty((height, width, 3), np.uint8)
        rgb[:, : width // 2] = ORANGE
        rgb[:, width // 2 :] = GREEN if number // 25 % 2 else BLUE
        rgb[BOX] = 255
        return av.VideoFrame.from_ndarray(rgb, "rgb24").reformat(format=pixel_format, dst_colorspace="ITU601")

    return clips.write_clip(tmp_path_factory.mktemp("clip") / "colors.mp4", frames=1000, draw=draw, matrix="bt470bg")


@pytest.fixture(scope="module")
def closed_port() -> Iterator[int]:
    """Where nobody listens, and nobody else can."""
    with socket.socket() as bound:
        bound.bind(("127.0.0.1", 0))
        yield bound.getsockname()[1]


@pytest.fixture
def graph(tmp_path: Path, bright: Path, clip: Path, closed_port: int) -> Path:
    """A camera 'door' that works and a camera 'yard' that cannot be reached."""
    door = live_graph(tmp_path / "door.json", str(clip), bright)
    url = f"rtsp://anna:s3cret@127.0.0.1:{closed_port}/1"
    yard = live_graph(tmp_path / "yard.json", url, bright, backoff=0.2, backoff_max=0.4)
    return side_by_side(tmp_path / "graph.json", door=door, yard=yard)


def text_of(page: Browser, place: int, selector: str) -> str:
    return str(page.ask(f"document.querySelectorAll('.tile')[{place}].querySelector({selector!r}).textContent"))


def number_of(page: Browser, place: int, name: str) -> float:
    return float(text_of(page, place, f"[data-of={name}]"))


def until(condition: Callable[[], Any], seconds: float = 20.0) -> Any:
    end = time.monotonic() + seconds
    while not (found := condition()):
        assert time.monotonic() < end
        time.sleep(0.1)
    return found


def colors(page: Browser) -> dict[str, tuple[int, ...]]:
    """Means of three parts of the first picture, as they are to be seen."""
    left, top, width = page.ask(
        "(({x, y, width}) => [x, y, width])(document.querySelector('canvas').getBoundingClientRect())"
    )
    seen, scale = page.screenshot(), width / 160

    def mean(rows: slice, columns: slice) -> tuple[int, ...]:
        y, x = (slice(round(one.start * scale), round(one.stop * scale)) for one in (rows, columns))
        part = seen[round(top) + y.start : round(top) + y.stop, round(left) + x.start : round(left) + x.stop]
        return tuple(int(value) for value in part.reshape(-1, 3).mean(axis=0).round())

    return {
        "left": mean(slice(10, 50), slice(10, 70)),
        "right": mean(slice(10, 50), slice(90, 150)),
        "box": mean(slice(65, 80), slice(65, 95)),
    }


def is_close(found: tuple[int, ...], expected: tuple[int, ...]) -> bool:
    return max(abs(a - b) for a, b in zip(found, expected, strict=True)) <= 14


def test_streams_are_seen_as_they_are(page: Browser, graph: Path, tmp_path: Path) -> None:
    with running(tmp_path, graph) as run:
        page.open(f"{run.url}/")
        page.until("document.querySelectorAll('.tile').length === 2")
        page.until("document.title === '1 of 2 up - bmf-trt-seg'")
        assert [text_of(page, place, "h2") for place in (0, 1)] == ["door", "yard"]

        page.until("document.querySelector('[data-of=fps_out]').textContent > 0")
        until(lambda: 20 < number_of(page, 0, "fps_in") < 30)
        until(lambda: 20 < number_of(page, 0, "fps_out") < 30)
        assert 0 < number_of(page, 0, "latency") < 2000
        assert text_of(page, 0, ".state").strip() == "Up"
        assert text_of(page, 0, "[data-of=reconnects]") == "0"
        ages = set()
        until(lambda: ages.add(text_of(page, 0, "[data-of=age]")) or len(ages) > 1)

        page.until("document.querySelector('.nothing').hidden")
        seen = colors(page)
        assert is_close(seen["left"], ORANGE), seen
        assert is_close(seen["box"], WHITE_UNDER_RED), "its mask is drawn on it"
        for expected in (BLUE, GREEN, BLUE):
            until(lambda expected=expected: is_close(colors(page)["right"], expected), 10.0)
        assert page.ask("document.querySelector('canvas').getAttribute('aria-label')") == (
            "Live picture of door, 160 by 90 pixels"
        )

        until(lambda: text_of(page, 0, ".legend li") == f"box{100 * SHARE:.1f} %")
        assert page.ask("getComputedStyle(document.querySelector('.band')).fill") == "rgb(255, 0, 0)"
        label = page.ask("document.querySelector('.plot svg').getAttribute('aria-label')")
        assert label == f"Class shares now: box {100 * SHARE:.1f} %"

        assert text_of(page, 1, ".state").strip() == "Away"
        assert text_of(page, 1, ".error").startswith("Last error: ")
        assert text_of(page, 1, "[data-of=fps_in]") == "0.0"
        assert page.ask("document.documentElement.scrollWidth") == 390
        for width in (320, 800, 1600):
            page.resize(width, 800)
            assert page.ask("document.documentElement.scrollWidth") == width
        whole = page.ask("document.documentElement.outerHTML")
        for secret in ("anna", "s3cret"):
            assert secret not in whole


def test_a_server_that_goes_and_comes_back(page: Browser, graph: Path, tmp_path: Path) -> None:
    with running(tmp_path, graph) as run:
        page.open(f"{run.url}/")
        page.until("document.querySelector('.nothing')?.hidden")
        assert page.ask("document.getElementById('trouble').hidden")
        run.process.send_signal(signal.SIGKILL)
        page.until("!document.getElementById('trouble').hidden")
        assert str(page.ask("document.getElementById('trouble').textContent")).startswith("Server not reachable since ")
        assert page.ask("document.querySelectorAll('.tile').length") == 2, "what was known last stays"
        frozen = colors(page)
        time.sleep(2.5)
        assert colors(page) == frozen
    with running(tmp_path, graph, web=run.url.removeprefix("http://")):
        page.until("document.getElementById('trouble').hidden")
        until(lambda: not is_close(colors(page)["right"], frozen["right"]))
        page.until("document.title === '1 of 2 up - bmf-trt-seg'")


def test_with_a_token(page: Browser, graph: Path, tmp_path: Path) -> None:
    with running(tmp_path, graph, BMF_TRT_SEG_WEB_TOKEN="correct-horse") as run:
        page.open(f"{run.url}/")
        page.until("document.body?.textContent.includes('a token is needed')")
        page.open(f"{run.url}/?token=correct-horse")
        page.until("document.querySelector('.nothing')?.hidden")
        assert page.ask("location.href") == f"{run.url}/", "the token does not stay in sight"
        assert page.ask("document.cookie") == ""
        page.open(f"{run.url}/")
        page.until("document.querySelector('.nothing')?.hidden")
        assert text_of(page, 0, ".state").strip() == "Up"
