"""CudaPipeline on an emulated GPU: what Pipeline gives, in the same order, and nothing waited for before it must be."""

from __future__ import annotations

from dataclasses import replace
from fractions import Fraction

import numpy as np
import pytest
import torch
from emulated_device import emulate
from factories import make_picture, make_spec, save_onnx
from onnx import TensorProto

from bmf_trt_seg.errors import ConfigError, EngineError, ModelError
from bmf_trt_seg.frames import allocate_planes
from bmf_trt_seg.metrics import StreamMetrics
from bmf_trt_seg.options import read_options
from bmf_trt_seg.pipeline import open_pipeline

LABELS = ["background", "person", "dog"]
SIZE_WH = (40, 22)


@pytest.fixture
def three(tmp_path):
    """Scores of three classes: 0.45, red, blue."""
    weights = np.array([[0, 0, 0], [1, 0, 0], [0, 0, 1]], np.float32).reshape(3, 3, 1, 1)
    palette = ["#000000", "#e02020", "#2040e0"]
    return save_onnx(tmp_path / "three.onnx", weights, spec=make_spec(LABELS, "none", palette=palette))


def opened(model, monkeypatch, *, on_gpu, **options):
    with monkeypatch.context() as undone:
        queues = emulate(undone) if on_gpu else []
        made = open_pipeline(read_options({"model": str(model), **options}), StreamMetrics("test"))
    return made, queues[0] if queues else None


def pictures(count, pixel_format="nv12", size_wh=SIZE_WH):
    return [make_picture(pixel_format, *size_wh, seed=seed) for seed in range(count)]


def on_device(picture):
    return replace(picture, planes=tuple(torch.from_numpy(np.array(plane)) for plane in picture.planes))


def drawn(pipeline, frames, batch=2, *, targets_on_device=False, first=0):
    """Pictures and maps, of frames that come `batch` at a time."""
    planes, maps, inferred = [], [], []
    for start in range(0, len(frames), batch):
        part = frames[start : start + batch]
        size = pipeline.size(part[0].width, part[0].height)
        targets = [allocate_planes(frame, *size) for frame in part]
        if targets_on_device:
            targets = [on_device(target) for target in targets]
        numbers = list(range(first + start, first + start + len(part)))
        times = [(number, Fraction(1, 25)) for number in numbers]
        for one in pipeline.submit(part, numbers, times, targets, wants_maps=True).finish():
            maps.append(one.map_hw.copy())
            inferred.append(one.inferred)
        planes += [[np.array(plane) for plane in target.planes] for target in targets]
    return planes, maps, inferred


def check_alike(ours, theirs):
    """The CPU rounds code values when it halves pictures: a few pixels along borders may get the other class."""
    same_maps = [our == their for our, their in zip(ours[1], theirs[1], strict=True)]
    assert np.mean(same_maps) >= 0.99
    samples = [
        np.abs(our.astype(int) - their).ravel() <= 1
        for our_planes, their_planes in zip(ours[0], theirs[0], strict=True)
        for our, their in zip(our_planes, their_planes, strict=True)
    ]
    assert np.mean(np.concatenate(samples)) >= 0.97
    assert ours[2] == theirs[2]


OPTIONS = [
    {},
    {"style": "contour"},
    {"style": "cutout", "classes": ["dog"]},
    {"style": "blur"},
    {"style": "sidebyside", "legend": True},
    {"output": "mask"},
    {"legend": True, "alpha": 0.3, "palette": {"dog": "#00ff00"}},
    {"interval": 3},
    {"smoothing": 0.7},
    {"interval": 2, "smoothing": 0.5, "style": "contour"},
    {"threshold": 0.6},
]


@pytest.mark.parametrize("pixel_format", ["nv12", "yuv420p", "rgb24"])
@pytest.mark.parametrize("options", OPTIONS, ids=lambda options: "-".join(map(str, options)) or "plain")
def test_drawn_as_on_the_cpu(three, monkeypatch, options, pixel_format):
    frames = pictures(6, pixel_format)
    ours, _ = opened(three, monkeypatch, on_gpu=True, batch_size=2, **options)
    theirs, _ = opened(three, monkeypatch, on_gpu=False, batch_size=2, **options)
    found = drawn(ours, frames)
    assert any(one.any() for one in found[1])
    check_alike(found, drawn(theirs, frames))
    assert (ours.labels, ours.colors, ours.background) == (theirs.labels, theirs.colors, theirs.background)
    assert ours.describe() == theirs.describe()


def test_frames_and_targets_on_the_gpu_are_not_copied(three, monkeypatch):
    frames = pictures(4)
    ours, queue = opened(three, monkeypatch, on_gpu=True, batch_size=2, legend=True)
    theirs, _ = opened(three, monkeypatch, on_gpu=False, batch_size=2, legend=True)
    found = drawn(ours, [on_device(frame) for frame in frames], targets_on_device=True)
    assert queue.upload_count == 0
    check_alike(found, drawn(theirs, frames))


def test_ten_bits_are_narrowed(three, monkeypatch):
    frames = pictures(2)
    wide = [
        replace(
            frame,
            pixel_format="p010",
            planes=tuple(torch.from_numpy(np.array(plane).astype(np.uint16) << 8) for plane in frame.planes),
        )
        for frame in frames
    ]
    ours, _ = opened(three, monkeypatch, on_gpu=True)
    size = [allocate_planes(frame, *SIZE_WH) for frame in frames]
    batch = ours.submit(wide, [0, 1], [(0, Fraction(1)), (1, Fraction(1))], size, wants_maps=False)
    assert [one.map_hw for one in batch.finish()] == [None, None]
    theirs, _ = opened(three, monkeypatch, on_gpu=False)
    for target, planes in zip(size, drawn(theirs, frames)[0], strict=True):
        for our, their in zip(target.planes, planes, strict=True):
            assert (np.abs(our.astype(int) - their) <= 1).mean() >= 0.97


def test_held_and_due_pictures_in_one_batch(three, monkeypatch):
    frames = pictures(7)
    options = {"interval": 2, "batch_size": 2}
    ours, _ = opened(three, monkeypatch, on_gpu=True, **options)
    theirs, _ = opened(three, monkeypatch, on_gpu=False, **options)
    found = drawn(ours, frames, batch=4)
    assert found[2] == [True, False] * 3 + [True]
    check_alike(found, drawn(theirs, frames, batch=4))


def test_nothing_is_waited_for_before_the_end(three, monkeypatch):
    ours, queue = opened(three, monkeypatch, on_gpu=True, batch_size=2, legend=True)
    queue.is_slow, queue.waits = True, 0
    frames = pictures(4)
    targets = [allocate_planes(frame, *SIZE_WH) for frame in frames]
    times = [(number, Fraction(1)) for number in range(4)]
    batches = [
        ours.submit(frames[part], list(range(4))[part], times[part], targets[part], wants_maps=True)
        for part in (slice(0, 2), slice(2, 4))
    ]
    assert queue.waits == 0
    assert not any(batch.is_done() for batch in batches)
    assert [len(batch.finish()) for batch in batches] == [2, 2]
    assert queue.waits == 2


@pytest.mark.parametrize("kind", ["BOOL", "INT8", "DOUBLE", "UINT8", "INT64"])
def test_scores_of_other_types(tmp_path, monkeypatch, kind):
    weights = np.array([1.7, 0, 0], np.float32).reshape(1, 3, 1, 1)
    model = save_onnx(
        tmp_path / "cast.onnx", weights, then="Cast", to=getattr(TensorProto, kind), spec=make_spec(activation="none")
    )
    ours, _ = opened(model, monkeypatch, on_gpu=True)
    theirs, _ = opened(model, monkeypatch, on_gpu=False)
    frames = pictures(2)
    check_alike(drawn(ours, frames), drawn(theirs, frames))


def test_frames_that_stay_on_the_gpu_are_nv12(three, monkeypatch):
    frames = pictures(2, "yuv420p")
    ours, _ = opened(three, monkeypatch, on_gpu=True, batch_size=2)
    targets = [on_device(allocate_planes(frame, *SIZE_WH)) for frame in pictures(2, "nv12")]
    ours.submit(frames, [0, 1], [(0, Fraction(1)), (1, Fraction(1))], targets, wants_maps=False).finish()
    theirs, _ = opened(three, monkeypatch, on_gpu=False, batch_size=2)
    for target, (luma, cb, cr) in zip(targets, drawn(theirs, frames)[0], strict=True):
        for our, their in [(target.planes[0], luma), (target.planes[1][..., 0], cb), (target.planes[1][..., 1], cr)]:
            assert (np.abs(our.numpy().astype(int) - their) <= 1).mean() >= 0.97


def test_failures_on_the_gpu_are_told(three, monkeypatch):
    ours, queue = opened(three, monkeypatch, on_gpu=True)
    queue.failure = "CUDA error: an illegal memory access was encountered\nmore"
    frames = pictures(1)
    batch = ours.submit(frames, [0], [(0, Fraction(1))], [allocate_planes(frames[0], *SIZE_WH)], wants_maps=False)
    assert batch.is_done()
    with pytest.raises(EngineError) as caught:
        batch.finish()
    assert str(caught.value) == (
        "network 'three.onnx' failed on pictures on the GPU: CUDA error: an illegal memory access was encountered"
    )


def test_what_does_not_fit_is_refused_when_it_is_opened(three, tmp_path, monkeypatch):
    index = save_onnx(tmp_path / "index.onnx", np.ones((1, 3, 1, 1), np.float32), spec=make_spec(activation="index"))
    with pytest.raises(ConfigError, match="option 'smoothing' needs scores"):
        opened(index, monkeypatch, on_gpu=True, smoothing=0.5)
    one = save_onnx(tmp_path / "one.onnx", np.ones((1, 3, 1, 1), np.float32), spec=make_spec(LABELS, "softmax"))
    with pytest.raises(ModelError, match=r"has the shape \(1, 1, 8, 8\)"):
        opened(one, monkeypatch, on_gpu=True)
    with pytest.raises(ConfigError, match="the model has no class 'cat'"):
        opened(three, monkeypatch, on_gpu=True, classes=["cat"])
