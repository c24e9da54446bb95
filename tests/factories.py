"""Pictures, descriptions and networks, made up by tests of single modules."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
import pytest

from bmf_trt_seg.frames import FramePlanes, PixelFormat, plane_shapes
from bmf_trt_seg.spec import ModelSpec, spec_path

FORMATS: tuple[PixelFormat, ...] = ("yuv420p", "nv12", "rgb24")
ODD_SIZES = [(1, 1), (3, 5), (2, 7), (33, 17), (32, 18)]


def make_picture(
    pixel_format: PixelFormat = "yuv420p",
    width: int = 33,
    height: int = 17,
    *,
    seed: int = 0,
    fill: int | None = None,
    **color_space: Any,
) -> FramePlanes:
    """Random pixels, or `fill` on every plane, in rows that are padded."""
    rng = np.random.default_rng(seed)
    planes = []
    for rows, columns, *components in plane_shapes(pixel_format, width, height):
        shape = rows, columns + 5, *components
        memory = rng.integers(0, 256, shape, np.uint8) if fill is None else np.full(shape, fill, np.uint8)
        planes.append(memory[:, :columns])
    return FramePlanes(pixel_format, width, height, tuple(planes), **color_space)


def make_spec(
    labels: Sequence[str] = ("background", "person"),
    activation: str = "sigmoid",
    *,
    input: dict[str, Any] | None = None,
    output: dict[str, Any] | None = None,
    **others: Any,
) -> ModelSpec:
    """A network for 8x8 pictures; `input` and `output` add to its description."""
    return ModelSpec.model_validate(
        {
            "labels": list(labels),
            "input": {"height": 8, "width": 8, **(input or {})},
            "output": {"activation": activation, **(output or {})},
            **others,
        }
    )


def save_onnx(
    path: Path,
    weights: npt.NDArray[Any],
    *,
    batch: int | str = "N",
    size_hw: tuple[int | str, int | str] = (8, 8),
    then: str = "Identity",
    spec: ModelSpec | None = None,
    **attributes: Any,
) -> Path:
    """One convolution by weights (C, 3, h, w) and the operator `then`; with its description beside it, if given."""
    element = onnx.helper.np_dtype_to_tensor_dtype(weights.dtype)
    pads = [weights.shape[2] // 2, weights.shape[3] // 2] * 2
    graph = onnx.helper.make_graph(
        [
            onnx.helper.make_node("Conv", ["input", "weights"], ["raw"], pads=pads),
            onnx.helper.make_node(then, ["raw"], ["output"], **attributes),
        ],
        "network",
        [onnx.helper.make_tensor_value_info("input", element, [batch, 3, *size_hw])],
        [onnx.helper.make_empty_tensor_value_info("output")],
        [onnx.numpy_helper.from_array(weights, "weights")],
    )
    model = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 17)], ir_version=8)
    path.write_bytes(onnx.shape_inference.infer_shapes(model).SerializeToString())
    if spec is not None:
        spec.write(spec_path(path))
    return path


def complaint(kind: type[Exception], function: Callable[..., object], *values: Any, **options: Any) -> str:
    """What a call that is to fail says, which is one line."""
    with pytest.raises(kind) as caught:
        function(*values, **options)
    assert type(caught.value) is kind
    assert "\n" not in str(caught.value)
    return str(caught.value)
