"""PyTorch to ONNX: the exporter that the PyTorch at hand has, and what makes its files easy to run."""

from __future__ import annotations

import contextlib
import io
import logging
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch

from bmf_trt_seg.errors import ModelError
from bmf_trt_seg.models.architecture import imported

__all__ = ["INPUT", "OPSET", "OUTPUT", "export_onnx"]

OPSET = 17  # the last that TensorRT 8.6 knows whole; dynamo has none below 18
INPUT, OUTPUT = "input", "output"
_LARGEST_BATCH = 64


def export_onnx(
    network: torch.nn.Module,
    path: Path,
    size_hw: tuple[int, int],
    *,
    dynamic_batch: bool = False,
    dynamic_size: bool = False,
) -> str:
    """Write a network of one input (N, 3, H, W) float32 and one output as an ONNX file with its weights in it.

    `dynamic_batch` leaves N open, `dynamic_size` H and W, else they are 1 and `size_hw`. Which of PyTorch's exporters
    did it is returned: 'torchscript', or 'dynamo' where that one is gone or fails. Raises ModelError.
    """
    onnx = imported("onnx")
    device = next((weight.device for weight in network.parameters()), torch.device("cpu"))
    example = torch.rand(2 if dynamic_batch else 1, 3, *size_hw, device=device)
    problems = []
    for way, arguments in _ways(dynamic_batch, dynamic_size).items():
        try:
            with _quiet(), torch.no_grad():
                torch.onnx.export(
                    network.eval(),
                    (example,),
                    str(path),
                    input_names=[INPUT],
                    output_names=[OUTPUT],
                    opset_version=OPSET,
                    **arguments,
                )
            made = onnx.load(str(path))
            if not dynamic_size:
                _resize_by_constants(made, onnx)
            onnx.checker.check_model(made)
            onnx.save(made, str(path))
            return way
        except Exception as error:  # whatever an exporter trips over: the other one is tried
            reason = str(error).strip() or type(error).__name__
            problems.append(f"{way}: {reason.splitlines()[0][:200]}")
    raise ModelError(f"PyTorch cannot export the network: {'; '.join(problems)}")


def _ways(dynamic_batch: bool, dynamic_size: bool) -> dict[str, dict[str, Any]]:
    axes: dict[str, dict[int, str]] = {INPUT: {}, OUTPUT: {}}
    shapes: dict[int, Any] = {}
    if dynamic_batch:
        axes[INPUT][0] = axes[OUTPUT][0] = "N"
        shapes[0] = torch.export.Dim("N", min=1, max=_LARGEST_BATCH)
    if dynamic_size:
        axes[INPUT].update({2: "H", 3: "W"})
        shapes.update({2: torch.export.Dim("H", min=32, max=8192), 3: torch.export.Dim("W", min=32, max=8192)})
    return {
        "torchscript": {"dynamo": False, "dynamic_axes": axes},
        "dynamo": {"dynamo": True, "dynamic_shapes": {INPUT: shapes}, "external_data": False},
    }


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Without the exporters' advice, which is for those who wrote the network."""
    before = logging.root.manager.disable
    logging.disable(logging.ERROR)
    try:
        with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(before)


def _resize_by_constants(model: Any, onnx: Any) -> None:
    """Resize by constant scales, where the sizes are known: TensorRT then need not work them out from shapes."""
    inferred = onnx.shape_inference.infer_shapes(model, data_prop=True).graph
    shapes = {
        value.name: [size.dim_value for size in value.type.tensor_type.shape.dim]
        for value in (*inferred.value_info, *inferred.input, *inferred.output)
    }
    for node in model.graph.node:
        if node.op_type != "Resize":
            continue
        before, after = shapes.get(node.input[0], []), shapes.get(node.output[0], [])
        if len(before) != 4 or len(after) != 4:
            continue
        if not all(before[2:]) or not all(after[2:]):
            continue
        scales = np.array([1.0, 1.0, after[2] / before[2], after[3] / before[3]], np.float32)
        # what a runtime makes of a scale in single precision must be the size that it stands for
        if list(np.floor(np.array(before[2:], np.float32) * scales[2:])) != after[2:]:
            continue
        name = f"{node.output[0]}_scales"
        model.graph.initializer.append(onnx.numpy_helper.from_array(scales, name))
        del node.input[1:]
        node.input.extend(["", name])
    _drop_unused(model.graph)


def _drop_unused(graph: Any) -> None:
    """Remove operators and weights that nobody uses any more."""
    while True:
        used = {name for node in graph.node for name in node.input} | {value.name for value in graph.output}
        idle = [node for node in graph.node if not any(output in used for output in node.output)]
        if not idle:
            break
        for node in idle:
            graph.node.remove(node)
    for weight in [weight for weight in graph.initializer if weight.name not in used]:
        graph.initializer.remove(weight)
