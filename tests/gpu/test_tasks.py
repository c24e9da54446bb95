"""Engines that draw no classes: all outputs of one shaped like a detector, the picture of a super-resolution."""

from __future__ import annotations

import numpy as np
import pytest
from factories import make_picture
from gpu.networks import engine
from test_pipeline_tensors import detector, doubling, submit

pytest.importorskip("torch")


@pytest.mark.parametrize("count", [1, 3])
def test_outputs_are_those_of_onnx_runtime(tmp_path, engines, count):
    model = detector(tmp_path / "net.onnx")
    frames = [make_picture("nv12", 24, 16, seed=seed) for seed in range(count)]
    expected, _ = submit(model, frames, batch_size=count)
    found, targets = submit(engine(model, batch=(2, 2, 4)).path, frames, batch_size=count)
    for one, other, frame, target in zip(found, expected, frames, targets, strict=True):
        assert set(one.outputs) == {"boxes", "scores"}
        for name, values in other.outputs.items():
            np.testing.assert_allclose(one.outputs[name], values, atol=1e-5)
        np.testing.assert_array_equal(target.planes[0], frame.planes[0])


def test_a_picture_takes_the_frames_place(tmp_path, engines):
    model = doubling(tmp_path / "net.onnx")
    frames = [make_picture("nv12", 12, 8, seed=seed) for seed in range(2)]
    _, expected = submit(model, frames, batch_size=2)
    _, found = submit(engine(model).path, frames, batch_size=2)
    for one, other in zip(found, expected, strict=True):
        assert (one.width, one.height) == (24, 16)
        for plane, want in zip(one.planes, other.planes, strict=True):
            assert np.abs(plane.astype(int) - want).max() <= 1
