"""One picture through one network, step by step, each step timed."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image

from bmf_trt_seg.backends import Backend, LayerTime
from bmf_trt_seg.errors import ConfigError, StreamError
from bmf_trt_seg.frames import FramePlanes, allocate_planes
from bmf_trt_seg.networks import backend_for
from bmf_trt_seg.options import SegmentOptions
from bmf_trt_seg.outputs import make_folder, publish, temporary_path
from bmf_trt_seg.overlay import Look, Overlay
from bmf_trt_seg.pictures import color_profile, read_picture, write_picture
from bmf_trt_seg.postprocess import Postprocess, chosen_classes
from bmf_trt_seg.preprocess import Preprocess
from bmf_trt_seg.spec import ModelSpec
from bmf_trt_seg.stage_times import Stage, StageTimes

__all__ = ["FILES", "Inference", "infer_picture", "write_inference"]

FILES = ("classes.png", "overlay.png", "profiling.json")
"""What `write_inference` writes."""

PROFILED = "infer, layer by layer"
"""The stage that layers belong to."""


@dataclass(frozen=True)
class Inference:
    """What came of it."""

    described: str
    """The network, and where it ran."""
    size_wh: tuple[int, int]
    """Of the picture."""
    classes: npt.NDArray[Any]
    """(H, W) class indices: uint8, or uint16 where the network gives indices itself, which may be no class."""
    drawn: FramePlanes
    """The picture with the classes and their legend."""
    profile: bytes | None
    """The picture's ICC profile."""
    shares: list[tuple[str, float]]
    """Each class that occurs, and its part of the pixels, the largest first."""
    times: StageTimes
    layers: Sequence[LayerTime]
    """Of one run that was slower for it; empty if the backend cannot tell."""


def infer_picture(source: Path, options: SegmentOptions, runs: int) -> Inference:
    """Load a network, run it `runs` times (at least once) on a picture, and once more with its layers timed.

    The stages are 'import', 'load', 'read', 'preprocess', 'infer' (`runs` times), PROFILED,
    'postprocess' and 'draw'. Raises ConfigError, ModelError, EngineError, BackendUnavailable or StreamError.
    """
    times = StageTimes()
    with times.stage("read", file=source.name):
        frame = read_picture(source)
    with times.stage("import"):
        backend, options = backend_for(options, cancelled=lambda: False)
    spec = backend.spec
    if spec.task != "segmentation":
        raise ConfigError(f"model '{backend.model.name}' is described as of task '{spec.task}', which gives no classes")
    with times.stage("load", model=backend.model.name):
        backend.open()
    try:
        described = f"{backend.model.name}, {backend.describe()}"
        output = _timed_runs(backend, frame, runs, times)
    finally:
        backend.close()
    layers = next((stage.layers for stage in times.stages if stage.layers), ())
    size_wh = frame.width, frame.height
    with times.stage("postprocess"):
        shown = chosen_classes(spec.labels, spec.background, options.classes)
        postprocess = Postprocess(spec, shown, options.threshold)
        classes = postprocess(output, size_wh)
        raw = postprocess.indices(output, size_wh) if spec.output.activation == "index" else classes
    with times.stage("draw"):
        drawn = _drawn(frame, classes, shown, spec, options)
    profile = color_profile(source)
    return Inference(described, size_wh, raw, drawn, profile, _shares(classes, spec), times, layers)


def _timed_runs(backend: Backend, frame: FramePlanes, runs: int, times: StageTimes) -> npt.NDArray[np.generic]:
    """The network's output of the picture."""
    with times.stage("preprocess"):
        batch = Preprocess(backend.spec.input)([frame])
    for number in range(runs):
        with times.stage("infer", run=number + 1):
            output = backend.infer(batch)
    profiled = backend.profile(batch)
    if profiled is not None:
        facts = {"note": "with its layers timed, which makes it slower"}
        times.stages.append(Stage(PROFILED, profiled.begin_ns, profiled.end_ns, facts, profiled.layers))
    Postprocess(backend.spec, []).check(output.shape)
    return output[0]


def _drawn(
    frame: FramePlanes, classes: npt.NDArray[np.uint8], shown: Sequence[int], spec: ModelSpec, options: SegmentOptions
) -> FramePlanes:
    look = Look(
        colors={index: spec.colors[index] for index in shown},
        labels={index: spec.labels[index] for index in shown},
        style=options.style,
        alpha=options.alpha,
        legend=True,
    )
    overlay = Overlay(look)
    drawn = allocate_planes(frame, *overlay.size(frame.width, frame.height))
    overlay.draw(frame, classes, drawn)
    return drawn


def _shares(classes: npt.NDArray[np.uint8], spec: ModelSpec) -> list[tuple[str, float]]:
    counts = np.bincount(classes.ravel(), minlength=256)
    names = dict(enumerate(spec.labels))
    found = [(names.get(int(index), "no class"), counts[index] / classes.size) for index in np.flatnonzero(counts)]
    return sorted(found, key=lambda entry: -entry[1])


def write_inference(inference: Inference, folder: Path) -> None:
    """Write `FILES` into a folder, all of them or none. Raises StreamError."""
    make_folder(folder)
    targets = [folder / name for name in FILES]
    names = {temporary_path(target): target for target in targets}
    classes, drawn, profiling = names
    try:
        Image.fromarray(inference.classes).save(classes)
        write_picture(inference.drawn, drawn, inference.profile)
        inference.times.write(profiling, inference.described)
        publish(names)
    except StreamError:
        raise
    except OSError as error:
        raise StreamError(f"nothing can be written to '{folder}': {error.strerror or error}") from error
    finally:
        for temporary in names:
            temporary.unlink(missing_ok=True)
