"""Engines for the tests on a GPU, and networks, pictures and clips to try them on. The benchmark uses them, too."""

from __future__ import annotations

import functools
import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import av
import clips
import numpy as np
import numpy.typing as npt
import onnx
from factories import make_spec, save_onnx
from onnx import TensorProto, helper, numpy_helper
from PIL import Image

from bmf_trt_seg.engine.builder import EngineFromOnnx
from bmf_trt_seg.engine.calibration import CalibrationData
from bmf_trt_seg.engine.library import load_library
from bmf_trt_seg.engine.options import BuildOptions
from bmf_trt_seg.spec import ModelSpec, spec_path

# not all machines have the cuBLAS and cuDNN that other tactics call
TACTICS = ["EDGE_MASK_CONVOLUTIONS", "JIT_CONVOLUTIONS"]
QUICK = int(os.environ.get("BMF_TRT_SEG_QUICK_LEVEL", "1"))
"""opt_level of engines whose speed does not matter."""
BATCHES = (1, 4, 8)
WEIGHTS = np.random.default_rng(0).normal(size=(2, 3, 3, 3)).astype(np.float32)
"""Of the network of the backends' contract: a convolution and a sigmoid."""
SPEC = make_spec(activation="none")


def options(**values: Any) -> BuildOptions:
    """Quick to build and exact, unless `values` say otherwise."""
    return BuildOptions(**{"tactic_sources": TACTICS, "opt_level": QUICK, "tf32": False, **values})


def fast(precision: str, **values: Any) -> BuildOptions:
    """As a user builds: TensorRT's own opt_level, TF32."""
    return options(**{"precision": precision, "opt_level": None, "tf32": True, **values})


def build_of(network: str, precision: str) -> BuildOptions:
    """How each network is built for tests and benchmark: exact in fp32, fast in fp16 as far as the time allows."""
    if precision == "fp32":
        return options()
    return fast("fp16", opt_level={"fcn_resnet101": None, "segformer_b4": QUICK}.get(network, QUICK))


def engine(
    model: Path,
    spec: ModelSpec | None = None,
    *,
    batch: tuple[int, int, int] = BATCHES,
    build: BuildOptions | None = None,
    calibration: CalibrationData | None = None,
    target: Path | None = None,
    **values: Any,
) -> EngineFromOnnx:
    """An engine, built unless it is there."""
    if spec is None and spec_path(model).exists():
        spec = ModelSpec.read(spec_path(model))
    made = EngineFromOnnx(
        model, build or options(**values), spec=spec, batch=batch, calibration=calibration, target=target
    )
    made.build()
    return made


def foreign_engine(
    model: Path, target: Path, profiles: Sequence[Mapping[str, tuple[Sequence[int], ...]]], *flags: str
) -> Path:
    """An engine as another program writes it: no manifest, any number of profiles, layers without details."""
    library = load_library("tensorrt")
    trt: Any = library.trt
    builder = trt.Builder(library.logger)
    network = builder.create_network(library.network_flags())
    parser = trt.OnnxParser(network, library.logger)
    assert parser.parse_from_file(str(model)), [str(parser.get_error(index)) for index in range(parser.num_errors)]
    config = builder.create_builder_config()
    config.builder_optimization_level = QUICK
    config.clear_flag(trt.BuilderFlag.TF32)
    config.set_tactic_sources(sum(1 << int(trt.TacticSource.__members__[name]) for name in TACTICS))
    for flag in flags:
        config.set_flag(getattr(trt.BuilderFlag, flag))
    made = []
    for shapes in profiles:
        profile = builder.create_optimization_profile()
        for name, (low, usual, high) in shapes.items():
            profile.set_shape(name, low, usual, high)
        config.add_optimization_profile(profile)
        made.append(profile)
    plan = builder.build_serialized_network(network, config)
    assert plan is not None, library.messages.take_errors()
    target.write_bytes(bytes(plan))
    return target


def node(
    number: int, module: str, option: dict[str, Any], inputs: Sequence[str], outputs: Sequence[str], **info: Any
) -> dict[str, Any]:
    """A node of a BMF graph, on a thread of its own; info: of its module, but the name."""
    return {
        "id": number, "scheduler": number, "module_info": {"name": module, **info}, "input_manager": "immediate",
        "input_streams": [{"identifier": stream} for stream in inputs],
        "output_streams": [{"identifier": stream} for stream in outputs], "option": option,
    }  # fmt: skip


def contract_network(path: Path, batch: int | str = "N") -> Path:
    return save_onnx(path, WEIGHTS, then="Sigmoid", batch=batch)


def contract_batch(size: int, seed: int = 0) -> npt.NDArray[np.float32]:
    return np.random.default_rng(seed).random((size, 3, 8, 8), np.float32)


def contract_result(batch: npt.NDArray[np.float32]) -> npt.NDArray[np.float64]:
    padded = np.pad(batch.astype(float), [(0, 0), (0, 0), (1, 1), (1, 1)])
    windows = np.lib.stride_tricks.sliding_window_view(padded, (3, 3), axis=(2, 3))
    return 1 / (1 + np.exp(-np.einsum("nchwij,ocij->nohw", windows, WEIGHTS)))


def save_network(
    path: Path,
    nodes: Sequence[onnx.NodeProto],
    inputs: Mapping[str, tuple[int, Sequence[int | str]]],
    outputs: Mapping[str, tuple[int, Sequence[int | str]]],
    constants: Mapping[str, npt.NDArray[Any]] | None = None,
) -> Path:
    """An ONNX file of these operators; inputs and outputs by name: element type and shape."""
    graph = helper.make_graph(
        list(nodes),
        "network",
        [helper.make_tensor_value_info(name, *tensor) for name, tensor in inputs.items()],
        [helper.make_tensor_value_info(name, *tensor) for name, tensor in outputs.items()],
        [numpy_helper.from_array(value, name) for name, value in (constants or {}).items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    path.write_bytes(model.SerializeToString())
    return path


def wide_network(path: Path, where: str, side: int = 2048) -> Path:
    """Small weights and a tensor of 1 GiB: 'between layers', or 'for the output'."""
    rng = np.random.default_rng(0)
    if where == "between layers":
        channels_out = 2
        nodes = [
            helper.make_node("Conv", ["input", "first"], ["middle"], pads=[1, 1, 1, 1]),
            helper.make_node("Sin", ["middle"], ["bent"]),  # keeps the two apart
            helper.make_node("Conv", ["bent", "second"], ["output"], pads=[1, 1, 1, 1]),
        ]
        weights = {
            "first": rng.normal(size=(64, 3, 3, 3)).astype(np.float32),
            "second": rng.normal(size=(channels_out, 64, 3, 3)).astype(np.float32),
        }
    else:
        channels_out, weights = 66, {}
        nodes = [helper.make_node("Concat", ["input"] * (channels_out // 3), ["output"], axis=1)]
    save_network(
        path,
        nodes,
        {"input": (TensorProto.FLOAT, [1, 3, side, side])},
        {"output": (TensorProto.FLOAT, [1, channels_out, side, side])},
        weights,
    )
    labels = [f"class{index}" for index in range(channels_out)]
    make_spec(labels, "softmax", input={"height": side, "width": side}).write(spec_path(path))
    return path


def unknown_operator(path: Path) -> Path:
    """A network whose second operator, named 'strange_one', no TensorRT has heard of."""
    clips.bright_model(path)
    model = onnx.load(str(path))
    model.graph.node[1].op_type, model.graph.node[1].name = "Frobnicate", "strange_one"
    path.write_bytes(model.SerializeToString())
    return path


# ----------------------------------------------------------------------------------------------------------- pictures


@functools.cache
def picture() -> npt.NDArray[np.uint8]:
    """A person, (H, W, 3) RGB: from $BMF_TRT_SEG_PICTURE or picture.png beside the networks, else a drawn figure."""
    folder = os.environ.get("BMF_TRT_SEG_NETWORKS")
    named = [os.environ.get("BMF_TRT_SEG_PICTURE"), str(Path(folder) / "picture.png") if folder else None]
    for path in filter(None, named):
        if Path(path).is_file():
            with Image.open(path) as image:
                return np.array(image.convert("RGB"))
    rows, columns = np.mgrid[:512, :512]
    drawn = np.stack([60 + rows // 8, 90 + columns // 10, 140 - rows // 10], -1).astype(np.uint8)
    head = ((rows - 170) / 95) ** 2 + ((columns - 256) / 72) ** 2 < 1
    body = ((rows - 520) / 240) ** 2 + ((columns - 256) / 190) ** 2 < 1
    drawn[body] = (40, 60, 120)
    drawn[head] = (220, 180, 150)
    return drawn


def view(number: int, width: int, height: int) -> npt.NDArray[np.uint8]:
    """The picture as a slowly moving camera sees it, (height, width, 3)."""
    whole = picture()
    phase = 2 * np.pi * number / 90
    scale = 0.85 - 0.1 * np.sin(phase)
    side_x = scale * whole.shape[1]
    side_y = min(whole.shape[0] * scale, side_x * height / width)
    left = (whole.shape[1] - side_x) * (0.5 + 0.4 * np.cos(phase))
    top = (whole.shape[0] - side_y) * (0.25 + 0.2 * np.sin(phase))
    box = (left, top, left + side_x, top + side_y)
    return np.asarray(Image.fromarray(whole).resize((width, height), Image.Resampling.BILINEAR, box=box))


def views_nchw(count: int, spec: ModelSpec) -> npt.NDArray[np.float32]:
    """Views of the picture as a network of RGB from 0 to 1 takes them."""
    size = spec.input.width, spec.input.height
    return np.stack([view(7 * index, *size).transpose(2, 0, 1) for index in range(count)]).astype(np.float32) / 255


def draw_view(number: int, width: int, height: int, pixel_format: str) -> av.VideoFrame:
    """For `clips.write_clip`."""
    return av.VideoFrame.from_ndarray(np.ascontiguousarray(view(number, width, height)), format="rgb24").reformat(
        format=pixel_format
    )


def write_portrait(path: Path, frames: int, size_wh: tuple[int, int], **recipe: Any) -> Path:
    """A clip of the picture."""
    return clips.write_clip(path, frames=frames, size_wh=size_wh, draw=draw_view, **recipe)


# ---------------------------------------------------------------------------------------------------------- agreement


def class_maps(scores: npt.NDArray[Any], spec: ModelSpec) -> npt.NDArray[np.uint8]:
    """Class indices (N, h, w) of scores (N, C, h, w), in the network's own resolution."""
    if scores.shape[1] == 1:
        return (scores[:, 0] >= (spec.output.threshold or 0.5)).astype(np.uint8)
    return scores.argmax(1).astype(np.uint8)


def poison(backend: Any) -> None:
    """Fill the output with what no network gives, so that what is not written is seen."""
    import torch

    values = backend._scores.values
    values.fill_(float("nan") if values.is_floating_point() else 1 if values.dtype == torch.bool else 77)
    torch.cuda.synchronize()


def device_maps(
    backend: Any, inputs: npt.NDArray[np.float32], batch: int, each: Callable[[Any, int], None] | None = None
) -> npt.NDArray[np.uint8]:
    """Class maps of inputs, run in batches on the device, the output poisoned before each run."""
    import torch

    result = []
    for start in range(0, len(inputs), batch):
        part = torch.from_numpy(inputs[start : start + batch]).cuda().contiguous()
        if backend._scores.values is not None:
            poison(backend)
        scores = backend.infer_on_device(part)
        assert not torch.isnan(scores).any(), "a part of the output was not written"
        if each is not None:
            each(scores, start)
        maps = scores.argmax(1) if scores.shape[1] > 1 else scores[:, 0] >= (backend.spec.output.threshold or 0.5)
        result.append(maps.to(torch.uint8).cpu().numpy())
    return np.concatenate(result)
