"""What is in an engine or an ONNX file, as plain data."""

from __future__ import annotations

import collections
import json
import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from bmf_trt_seg.engine.loading import LoadedEngine, load_engine, read_plan
from bmf_trt_seg.engine.network import OnnxNetwork
from bmf_trt_seg.engine.options import ShapeRange
from bmf_trt_seg.errors import BackendUnavailable, EngineError

__all__ = ["Inspection", "LayerRow", "TensorRow", "inspect", "layer_row"]


@dataclass(frozen=True)
class TensorRow:
    """An input or output. Sizes that are not fixed are -1 or names; a profile is its min, opt and max shape."""

    mode: str
    name: str
    dtype: str
    shape: list[int | str]
    profiles: list[list[list[int]]] = field(default_factory=list)


@dataclass(frozen=True)
class LayerRow:
    """A layer of an engine: the types of what comes out are its precision."""

    name: str
    kind: str
    precision: str


@dataclass(frozen=True)
class Inspection:
    """Everything that is known of a file; what could not be looked into is said in `note`."""

    file: str
    kind: str
    bytes: int
    facts: dict[str, Any]
    tensors: list[TensorRow]
    operators: dict[str, int]
    """How often each operator (ONNX) or kind of layer (engine) occurs."""
    layers: list[LayerRow]
    manifest: dict[str, Any] | None = None
    note: str = ""


def inspect(path: Path, device: str = "auto") -> Inspection:
    """Look into an ONNX file or an engine. Raises ModelError, EngineError or StreamError if it is broken.

    Without a GPU, an engine's header and manifest are all that can be read.
    """
    return _onnx(path) if path.suffix.lower() == ".onnx" else _engine(path, device)


def _onnx(path: Path) -> Inspection:
    network = OnnxNetwork(path)
    proto = network.proto
    operators = collections.Counter(node.op_type for node in proto.graph.node)
    facts = {
        "opset": {entry.domain or "ai.onnx": entry.version for entry in proto.opset_import},
        "producer": f"{proto.producer_name} {proto.producer_version}".strip(),
        "operators": len(proto.graph.node),
        "quantized": network.is_quantized,
        "sha256": network.sha256(),
    }
    tensors = [
        TensorRow(mode, tensor.name, tensor.dtype, list(tensor.shape))
        for mode, group in (("input", network.inputs), ("output", network.outputs))
        for tensor in group
    ]
    return Inspection(str(path), "ONNX", path.stat().st_size, facts, tensors, dict(operators.most_common()), [])


def _engine(path: Path, device: str) -> Inspection:
    content, header, manifest = read_plan(path)
    kind = "TensorRT-RTX engine" if header.is_rtx else "TensorRT engine"
    values = manifest.model_dump(mode="json") if manifest else None
    facts: dict[str, Any] = {"written by": f"{kind.partition(' ')[0]} {header.version}"}
    try:
        loaded = load_engine(path, device)
    except (BackendUnavailable, EngineError) as error:  # no GPU, or not the one that it is for
        tensors = [
            TensorRow("input", name, "", _open_where_it_varies(shapes), [_as_lists(shapes)])
            for name, shapes in (manifest.profiles.items() if manifest else ())
        ]
        note = f"types and layers are not shown: {error}"
        return Inspection(str(path), kind, len(content), facts, tensors, {}, [], values, note)
    import torch

    with torch.cuda.device(loaded.gpu.index):
        layers = _layers(loaded)
    kinds = collections.Counter(layer.kind for layer in layers if layer.kind)
    return Inspection(
        str(path),
        kind,
        len(content),
        facts | _facts(loaded),
        _tensors(loaded),
        dict(kinds.most_common()),
        layers,
        values,
    )


def _as_lists(shapes: ShapeRange) -> list[list[int]]:
    return [list(shapes.min), list(shapes.opt), list(shapes.max)]


def _open_where_it_varies(shapes: ShapeRange) -> list[int | str]:
    return [low if low == high else -1 for low, high in zip(shapes.min, shapes.max, strict=True)]


def _facts(loaded: LoadedEngine) -> dict[str, Any]:
    engine = loaded.engine
    return {
        "loaded by": f"{loaded.library} on {loaded.gpu}",
        "layers": engine.num_layers,
        "context memory bytes": loaded.library.context_memory_bytes(engine),
        "auxiliary streams": getattr(engine, "num_aux_streams", None),
        "refittable": engine.refittable,
    }


def _tensors(loaded: LoadedEngine) -> list[TensorRow]:
    engine, trt = loaded.engine, loaded.library.trt
    rows = []
    for index in range(engine.num_io_tensors):
        name = engine.get_tensor_name(index)
        is_input = engine.get_tensor_mode(name) == trt.TensorIOMode.INPUT
        profiles = [
            [list(shape) for shape in engine.get_tensor_profile_shape(name, profile)]
            for profile in range(engine.num_optimization_profiles if is_input else 0)
        ]
        rows.append(
            TensorRow(
                "input" if is_input else "output",
                name,
                loaded.library.element_type(engine.get_tensor_dtype(name)),
                list(engine.get_tensor_shape(name)),
                profiles,
            )
        )
    return rows


_TYPE = re.compile(r"\b(FP32|FP16|BF16|FP8|FP4|INT8|INT4|INT32|INT64|UINT8|BOOL|FLOAT|HALF)\b", re.IGNORECASE)
_NAMES = {"float": "fp32", "half": "fp16"}


def _layers(loaded: LoadedEngine) -> list[LayerRow]:
    """From the engine inspector, whose JSON has objects where the engine was built with details, else names."""
    trt, engine = loaded.library.trt, loaded.engine
    inspector = engine.create_engine_inspector()
    context = engine.create_execution_context()
    if context is not None:  # types and formats of dynamic shapes are known for a context only
        for name, shape in _usual_shapes(loaded).items():
            context.set_input_shape(name, shape)
        inspector.execution_context = context
    text = inspector.get_engine_information(trt.LayerInformationFormat.JSON)
    # some layers have line breaks in their names
    layers = json.loads(text, strict=False).get("Layers", [])
    return [layer_row(layer) for layer in layers]


def _usual_shapes(loaded: LoadedEngine) -> dict[str, tuple[int, ...]]:
    engine, trt = loaded.engine, loaded.library.trt
    names = [engine.get_tensor_name(index) for index in range(engine.num_io_tensors)]
    inputs = [name for name in names if engine.get_tensor_mode(name) == trt.TensorIOMode.INPUT]
    return {name: tuple(engine.get_tensor_profile_shape(name, 0)[1]) for name in inputs}


def layer_row(layer: dict[str, Any] | str) -> LayerRow:
    """A layer of the inspector's JSON: by the types of what comes out, or of its weights where that is not told."""
    if isinstance(layer, str):
        return LayerRow(layer, "", "")
    types = [_type(output.get("Format/Datatype")) for output in layer.get("Outputs", [])]
    if not any(types):
        weights = layer.get("Weights")
        types = [_type(weights.get("Type"))] if isinstance(weights, dict) else []
    precision = "/".join(dict.fromkeys(filter(None, types)))
    return LayerRow(" ".join(str(layer.get("Name", "")).split()), str(layer.get("LayerType", "")), precision)


def _type(text: Any) -> str:
    found = _TYPE.search(str(text))
    return _NAMES.get(found[1].lower(), found[1].lower()) if found else ""
