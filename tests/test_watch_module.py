"""What SegmentModule shows to those who watch: on the CPU, and over an emulated GPU."""

from __future__ import annotations

import io
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import clips
import numpy as np
import pytest
from emulated_device import emulate
from PIL import Image
from test_module import Run, frame_packet

from bmf_trt_seg.pipeline import Pipeline
from bmf_trt_seg.watch import streams
from bmf_trt_seg.watch.streams import WatchedStream, watching

WIDTH, HEIGHT = clips.SIZE_WH


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The time that watching goes by."""
    monkeypatch.setattr(streams, "_streams", {})
    now = [1000.0]
    monkeypatch.setattr(streams, "time", SimpleNamespace(monotonic=lambda: now[0]))
    return now


def shown(name: str) -> WatchedStream:
    found = streams.stream(name)
    assert found is not None
    return found


def pixels(watched: WatchedStream) -> Any:
    found = watched.preview.jpeg()
    assert found is not None
    with Image.open(io.BytesIO(found[1])) as image:
        return np.asarray(image.convert("RGB")).astype(int)


@pytest.fixture(params=["cpu", "emulated gpu"])
def device(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    if request.param != "cpu":
        emulate(monkeypatch)
    return str(request.param)


def test_the_picture_and_the_shares_are_those_of_the_frames(bright: Path, device: str, clock: list[float]) -> None:
    run = Run(model=str(bright), name="door")
    watched = shown("door")
    assert (watched.labels, watched.colors) == ({1: "box"}, {1: "#ff0000"})
    with watching():
        for number in range(6):
            run.put(frame_packet(number))
            clock[0] += 1.0
        run.end()
        assert watched.preview.number == 6
        assert watched.preview.size_wh == clips.SIZE_WH
        assert watched.shares.latest() == {1: pytest.approx(clips.box_mask(5, WIDTH, HEIGHT).mean())}
        seen = pixels(watched)
        inside = seen[clips.box(5, WIDTH, HEIGHT)].reshape(-1, 3).mean(axis=0)
        assert inside[0] - inside[1] > 60, "the box is red"
        assert np.ptp(seen[-8:].reshape(-1, 3).mean(axis=0)) < 12, "what is below is grey"
    assert len(run.frames) == 6


def test_maps_are_asked_for_once_a_second_and_only_with_a_server(
    bright: Path, device: str, clock: list[float], monkeypatch: pytest.MonkeyPatch
) -> None:
    run = Run(model=str(bright), name="door", batch_size=2)
    pipeline: Any = run.module._pipeline
    assert isinstance(pipeline, Pipeline) == (device == "cpu")
    asked: list[bool] = []
    submit = pipeline.submit

    def submitted(*arguments: Any, wants_maps: bool) -> Any:
        asked.append(wants_maps)
        return submit(*arguments, wants_maps=wants_maps)

    monkeypatch.setattr(pipeline, "submit", submitted)

    def batches(count: int) -> list[bool]:
        asked.clear()
        for number in range(2 * count):
            run.put(frame_packet(number))
            clock[0] += 0.2
        return list(asked)

    assert batches(4) == [False] * 4
    with watching():
        assert batches(7) == [True, False, False, True, False, False, True]
    assert batches(2) == [False] * 2
    run.end()


def test_records_have_their_maps_all_the_same(bright: Path, device: str, clock: list[float]) -> None:
    with watching():
        run = Run(outputs=2, model=str(bright), name="door")
        for number in range(8):
            run.put(frame_packet(number))
        run.end()
    assert len(run.records) == 8
    assert all(record.get(dict)["classes"] for record in run.records)
