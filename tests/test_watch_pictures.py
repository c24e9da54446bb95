"""Pictures for those who watch: small JPEG files, and how many are kept."""

from __future__ import annotations

import gc
import io
import threading
import weakref
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from factories import make_picture
from PIL import Image

from bmf_trt_seg.frames import FramePlanes
from bmf_trt_seg.watch import streams
from bmf_trt_seg.watch.jpeg import jpeg_of
from bmf_trt_seg.watch.preview import Preview
from bmf_trt_seg.watch.streams import WatchedStream, watching

ORANGE = (230, 120, 40)


def opened(content: bytes) -> npt.NDArray[np.uint8]:
    with Image.open(io.BytesIO(content)) as image:
        assert image.format == "JPEG"
        return np.array(image.convert("RGB"))


def colored(rgb: tuple[int, int, int], pixel_format: Any, width: int, height: int, **color_space: Any) -> FramePlanes:
    empty = make_picture(pixel_format, width, height, fill=0, **color_space)
    for plane, codes in zip(empty.planes, empty.plane_colors(rgb), strict=True):
        plane[...] = codes if plane.ndim == 3 else codes[0]
    return empty


@pytest.mark.parametrize("value_range", ["limited", "full"])
@pytest.mark.parametrize("matrix", ["bt601", "bt709", "bt2020"])
@pytest.mark.parametrize("pixel_format", ["yuv420p", "nv12", "rgb24"])
def test_colours_are_those_of_the_stream(pixel_format: str, matrix: str, value_range: str) -> None:
    picture = colored(ORANGE, pixel_format, 64, 48, matrix=matrix, value_range=value_range)
    found = opened(jpeg_of(picture))
    assert found.shape == (48, 64, 3)
    assert np.abs(found.reshape(-1, 3).mean(axis=0) - ORANGE).max() < 3


@pytest.mark.parametrize(
    ("width", "height", "expected_wh"),
    [(1920, 1080, (640, 360)), (640, 480, (640, 480)), (33, 17, (33, 17)), (1281, 3, (640, 1)), (1, 1, (1, 1))],
)
@pytest.mark.parametrize("pixel_format", ["yuv420p", "nv12"])
def test_sizes(pixel_format: Any, width: int, height: int, expected_wh: tuple[int, int]) -> None:
    picture = colored(ORANGE, pixel_format, width, height)
    found = opened(jpeg_of(picture))
    assert found.shape == (expected_wh[1], expected_wh[0], 3)
    assert np.abs(found.reshape(-1, 3).mean(axis=0) - ORANGE).max() < 6


def test_what_is_where() -> None:
    picture = colored((20, 20, 20), "yuv420p", 1280, 720)
    picture.planes[0][360:, 640:] = 235
    found = opened(jpeg_of(picture)).astype(int)
    assert found[190:350, 330:630].mean() > 240
    assert found[10:170].mean() < 30
    assert found[190:350, 10:310].mean() < 30


def test_planes_are_only_read() -> None:
    picture = make_picture("nv12", 800, 600)
    before = [plane.copy() for plane in picture.planes]
    jpeg_of(picture)
    for plane, copy in zip(picture.planes, before, strict=True):
        assert np.array_equal(plane, copy)


def test_tensors() -> None:
    torch = pytest.importorskip("torch")
    picture = make_picture("nv12", 64, 48)
    planes = tuple(torch.from_numpy(np.ascontiguousarray(plane)) for plane in picture.planes)
    on_device = FramePlanes("nv12", 64, 48, planes, picture.matrix, picture.value_range)
    assert on_device.is_on_device
    assert jpeg_of(on_device) == jpeg_of(picture)


# --- which pictures are kept --------------------------------------------------------------------------------------


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


def offered(preview: Preview, clock: Clock, seconds: float, fps: int = 25) -> int:
    """How many of the frames of some seconds are taken."""
    before, picture = preview.number, make_picture(width=8, height=8)
    for _ in range(round(seconds * fps)):
        clock.now += 1 / fps
        if preview.is_due(clock.now):
            preview.offer(picture, clock.now)
    return preview.number - before


def test_one_a_second_is_kept_for_whoever_comes_and_more_while_somebody_watches() -> None:
    clock = Clock()
    preview = Preview(clock)
    assert offered(preview, clock, 10.0) in (10, 11)
    preview.want()
    assert 12 <= offered(preview, clock, 2.0) <= 20
    assert offered(preview, clock, 10.0) <= 11, "and that ends by itself"


def test_a_picture_is_compressed_once_for_all(monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[FramePlanes] = []

    def slow(picture: FramePlanes) -> bytes:
        made.append(picture)
        return jpeg_of(picture)

    monkeypatch.setattr("bmf_trt_seg.watch.preview.jpeg_of", slow)
    preview = Preview()
    assert preview.jpeg() is None
    preview.offer(make_picture(), 1.0)
    assert made == [], "and not where it is offered"
    found: list[Any] = []
    threads = [threading.Thread(target=lambda: found.append(preview.jpeg())) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(10)
    assert len(made) == 1
    assert {number for number, _ in found} == {1}
    preview.offer(make_picture(seed=2), 2.0)
    assert preview.jpeg() != found[0]
    assert len(made) == 2


def test_the_owner_of_the_memory_lives_as_long_as_the_picture() -> None:
    class Owner:
        pass

    preview, owner = Preview(), Owner()
    alive = weakref.ref(owner)
    preview.offer(replace(make_picture(), owner=owner), 1.0)
    del owner
    gc.collect()
    assert alive() is not None
    preview.offer(make_picture(), 2.0)
    gc.collect()
    assert alive() is None


# --- what a module calls ------------------------------------------------------------------------------------------


@pytest.fixture
def watched(monkeypatch: pytest.MonkeyPatch) -> WatchedStream:
    monkeypatch.setattr(streams, "_streams", {})
    return streams.open_stream("door", {1: "person"}, {1: "#00c853"})


def frames(watched: WatchedStream, clock: Clock, count: int) -> None:
    map_hw = np.zeros((8, 8), np.uint8)
    map_hw[:2] = 1
    picture = make_picture(width=8, height=8)
    for _ in range(count):
        clock.now += 0.04
        watched.show(picture, map_hw, clock.now - 0.03)


def test_nothing_is_kept_without_a_server(watched: WatchedStream, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(streams, "time", None)  # not even the time is asked for
    assert not watched.wants_map()
    watched.show(make_picture(), np.zeros((8, 8), np.uint8), 0.0)
    assert watched.preview.number == 0
    assert watched.shares.latest() == {}
    assert watched.latency_seconds is None


def test_with_one_there_are_pictures_shares_and_latency(
    watched: WatchedStream, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = Clock()
    monkeypatch.setattr(streams, "time", SimpleNamespace(monotonic=clock))
    with watching():
        assert watched.wants_map()
        assert not watched.wants_map(), "of one batch a second"
        frames(watched, clock, 25)
        assert watched.wants_map()
        assert watched.preview.number == 1
        assert watched.preview.size_wh == (8, 8)
        assert watched.shares.latest() == {1: 0.25}
        assert watched.latency_seconds == pytest.approx(0.03)
        with watching():
            pass
        assert watched.wants_map() is False
        frames(watched, clock, 25)
        assert watched.preview.number == 2, "another server that ends does not switch it off"
    assert watched.preview.jpeg() is None, "memory is given back at the end"
    assert streams.stream("door") is watched
    assert streams.stream("nowhere") is None


def test_a_frame_without_a_map_counts_for_no_share(watched: WatchedStream) -> None:
    with watching():
        watched.show(make_picture(), None, 0.0)
        assert watched.preview.number == 1
        assert watched.shares.latest() == {}
