"""Cameras for the tests of sources."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest
import rtsp

sys.path.append(str(Path(__file__).parent))  # where BMF finds live_sink, and the tests find the same one


@pytest.fixture
def camera() -> Iterator[Callable[..., rtsp.RtspServer]]:
    """Makes RTSP servers that end with the test; skips where GStreamer's is not installed."""
    if rtsp.missing():
        pytest.skip(rtsp.missing())
    with ExitStack() as stack:
        yield lambda **arguments: stack.enter_context(rtsp.RtspServer(**arguments))
