"""Cameras and clips for the tests of LiveSink."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import beeps
import pytest
import rtsp
from sink_runs import Camera


@pytest.fixture(autouse=True)
def _warnings_are_logged(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """The command line, which other tests have run in this process, sets up logging for itself."""
    logger = logging.getLogger("bmf_trt_seg")
    monkeypatch.setattr(logger, "propagate", True)
    before = logger.level
    logger.setLevel(logging.WARNING)
    yield
    logger.setLevel(before)


@pytest.fixture
def camera() -> Iterator[Camera]:
    """Makes RTSP servers that end with the test; skips where GStreamer's is not installed."""
    if rtsp.missing():
        pytest.skip(rtsp.missing())
    with ExitStack() as stack:
        yield lambda **arguments: stack.enter_context(rtsp.RtspServer(**arguments))


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """3 seconds with sound."""
    return beeps.write_clip(tmp_path_factory.mktemp("clips") / "short.mp4", frames=75)


@pytest.fixture(scope="module")
def long_clip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A minute; tests end it before."""
    return beeps.write_clip(tmp_path_factory.mktemp("clips") / "long.mp4", frames=1000)
