"""The networks of the GPU tests and of h200.py: FCN-ResNet101 and SegFormer-B4 with random weights, as ONNX files.

Runs with any Python that has torch, torchvision, transformers and onnx; nothing is downloaded, nothing of ours is
imported. For each network NAME it writes into a folder:

NAME.onnx, NAME.json   opset 17, fp32, dynamic batch, 512x512; and its description
NAME.npz               "inputs" (8, 3, 512, 512); what PyTorch makes of them in fp32 without TF32: "classes" of all, and
                       "logits" of the first two

and torch_timings.json, milliseconds a batch in PyTorch; picture.png, a person, if scikit-image is there.

Batch norms are settled on pictures first, and the last layer is fitted to clusters of what reaches it: with random
weights alone, fp16 overflows and one class fills every picture.

    python3 benchmarks/export_networks.py FOLDER [--only NAME] [--no-timings] [--compile-seconds 150]
"""

from __future__ import annotations

import argparse
import contextlib
import json
import statistics
import time
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.nn import functional

SIZE = 512
BATCHES = (1, 4, 8)
_MEAN, _STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
_BRANCH = 0.2
_OPSET = 17  # the last that TensorRT 8.6 knows whole
_VOC = [
    "background", "aeroplane", "bicycle", "bird", "boat", "bottle", "bus", "car", "cat", "chair", "cow", "diningtable",
    "dog", "horse", "motorbike", "person", "pottedplant", "sheep", "sofa", "train", "tvmonitor",
]  # fmt: skip


class Fcn(nn.Module):
    """FCN-ResNet101, logits in the size of the picture."""

    labels = _VOC

    def __init__(self) -> None:
        super().__init__()
        from torchvision.models.segmentation import fcn_resnet101

        self.network = fcn_resnet101(weights=None, weights_backbone=None, num_classes=len(_VOC))
        for name, parameter in self.network.backbone.named_parameters():
            if name.endswith("bn3.weight"):  # residual branches of full strength make deep random networks chaotic:
                nn.init.constant_(parameter, _BRANCH)  # rounding to fp16 would change half of what reaches the end

    @property
    def last_layer(self) -> nn.Conv2d:
        return self.network.classifier[-1]

    def forward(self, input: torch.Tensor) -> torch.Tensor:
        logits = self.network.classifier(self.network.backbone(input)["out"])
        return functional.interpolate(logits, scale_factor=8.0, mode="bilinear", align_corners=False)


class SegFormer(nn.Module):
    """SegFormer-B4 as it is made for ADE20K, logits in a quarter of the picture's size."""

    labels = tuple(f"class{index}" for index in range(150))

    def __init__(self) -> None:
        super().__init__()
        from transformers import SegformerConfig, SegformerForSemanticSegmentation

        config = SegformerConfig(
            depths=[3, 8, 27, 3],
            hidden_sizes=[64, 128, 320, 512],
            decoder_hidden_size=768,
            num_labels=len(self.labels),
        )
        with contextlib.suppress(Exception):  # the plain arithmetic, where there is a choice
            config._attn_implementation = "eager"
        self.network = SegformerForSemanticSegmentation(config)

    @property
    def last_layer(self) -> nn.Conv2d:
        return self.network.decode_head.classifier

    def forward(self, input: torch.Tensor) -> torch.Tensor:
        return self.network(pixel_values=input, return_dict=False)[0]


NETWORKS: dict[str, Callable[[], nn.Module]] = {"fcn_resnet101": Fcn, "segformer_b4": SegFormer}


def pictures(count: int, seed: int, size: int = SIZE) -> torch.Tensor:
    """Normalized pictures, (count, 3, size, size): smooth noise at several scales, as in photographs, with edges."""
    rng = torch.Generator().manual_seed(seed)
    rgb = torch.zeros(count, 3, size, size)
    for cells in (2, 4, 8, 16, 32, 64):
        noise = torch.rand(count, 3, cells, cells, generator=rng) - 0.5
        rgb += functional.interpolate(noise, (size, size), mode="bicubic", align_corners=False) * (2.0 / cells**0.5)
    shapes = functional.interpolate(torch.rand(count, 1, 6, 6, generator=rng), (size, size), mode="bicubic")
    rgb = torch.where(shapes > 0.55, rgb.flip(1) * 0.7 + 0.2, rgb)
    rgb = (rgb - rgb.amin((2, 3), keepdim=True)) / (rgb.amax((2, 3), keepdim=True) - rgb.amin((2, 3), keepdim=True))
    return (rgb - torch.tensor(_MEAN)[:, None, None]) / torch.tensor(_STD)[:, None, None]


@torch.no_grad()
def settle(model: Any, batches: int, device: torch.device, size: int = SIZE) -> None:
    """Give batch norms the statistics of real data, and the last layer clusters to tell apart."""
    model.train()
    for module in model.modules():
        if isinstance(module, nn.modules.batchnorm._BatchNorm):
            module.momentum = None  # the plain mean over all batches
            module.reset_running_stats()
        elif isinstance(module, nn.Dropout | nn.Dropout2d) or "DropPath" in type(module).__name__:
            module.eval()
    for index in range(batches):
        model(pictures(4, 100 + index, size).to(device))
    model.eval()
    caught: list[torch.Tensor] = []
    hook = model.last_layer.register_forward_pre_hook(lambda module, inputs: caught.append(inputs[0].float()))
    for index in range(4):
        model(pictures(4, 200 + index, size).to(device))
    hook.remove()
    features = torch.cat([feature.movedim(1, -1).reshape(-1, feature.shape[1]) for feature in caught])
    _fit_last_layer(model.last_layer, features)


def _fit_last_layer(layer: nn.Conv2d, features: torch.Tensor, clusters: int = 16) -> None:
    """Make the layer tell clusters of its inputs (k-means) apart: the nearest centre has the greatest logit.

    Classes beyond the clusters never win. The logits span about 20.
    """
    rng = torch.Generator().manual_seed(0)
    some = features[torch.randperm(len(features), generator=rng)[:20000].to(features.device)]
    centres = some[torch.randperm(len(some), generator=rng)[:clusters].to(features.device)].clone()
    for _ in range(30):
        nearest = torch.cdist(some, centres).argmin(1)
        for index in range(clusters):
            members = some[nearest == index]
            centres[index] = members.mean(0) if len(members) else some[index]
    middle = some.mean(0)
    offsets = centres - middle
    weight = torch.zeros_like(layer.weight[:, :, 0, 0])
    weight[:clusters] = offsets
    bias = torch.full_like(layer.bias, 0.0)
    bias[:clusters] = -(offsets @ middle) - 0.5 * (offsets**2).sum(1)
    logits = some @ weight[:clusters].T + bias[:clusters]
    scale = 20.0 / (logits.amax() - logits.amin())
    bias *= scale
    bias[clusters:] = float(logits.amin() * scale) - 5.0
    layer.weight.copy_(weight[:, :, None, None] * scale)
    layer.bias.copy_(bias)


def spec(name: str, labels: tuple[str, ...] | list[str]) -> dict[str, Any]:
    return {
        "task": "segmentation",
        "labels": list(labels),
        "background": 0,
        "input": {"name": "input", "height": SIZE, "width": SIZE, "mean": list(_MEAN), "std": list(_STD)},
        "output": {"name": "output", "activation": "softmax"},
        "source": f"benchmarks/export_networks.py: {name} with random weights",
    }


def export(model: nn.Module, path: Path, size: int = SIZE) -> str:
    """Write the ONNX file, checked; which of PyTorch's exporters did it."""
    import onnx

    example = pictures(2, 1, size).to(next(model.parameters()).device)
    names = {"input_names": ["input"], "output_names": ["output"], "opset_version": _OPSET}
    ways: dict[str, dict[str, Any]] = {
        "torchscript": {"dynamo": False, "dynamic_axes": {"input": {0: "N"}, "output": {0: "N"}}},
        "dynamo": {
            "dynamo": True,
            "dynamic_shapes": {"input": {0: torch.export.Dim("N", min=1, max=64)}},
            "external_data": False,
        },
    }
    problems = []
    for way, arguments in ways.items():
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                torch.onnx.export(model, (example,), str(path), **names, **arguments)
            made = onnx.load(str(path))
            opset = next(entry.version for entry in made.opset_import if entry.domain in ("", "ai.onnx"))
            if opset != _OPSET:
                raise ValueError(f"it made opset {opset}")
            _simplify(made)
            onnx.checker.check_model(made)
            onnx.save(made, str(path))
            return way
        except Exception as error:  # whatever an exporter trips over: the other one is tried
            problems.append(f"{way}: {type(error).__name__}: {str(error)[:300]}")
    raise SystemExit(f"{path.name} cannot be exported: " + "; ".join(problems))


def _simplify(model: Any) -> None:
    """Resize by constant scales, where the sizes are known: TensorRT then need not work them out from shapes."""
    import onnx

    shapes = {}
    inferred = onnx.shape_inference.infer_shapes(model, data_prop=True).graph
    for value in (*inferred.value_info, *inferred.input, *inferred.output):
        shapes[value.name] = [dim.dim_value for dim in value.type.tensor_type.shape.dim]
    for node in model.graph.node:
        if node.op_type != "Resize":
            continue
        before, after = shapes.get(node.input[0], []), shapes.get(node.output[0], [])
        if len(before) != 4 or len(after) != 4 or not all(before[2:]) or not all(after[2:]):
            continue
        name = f"{node.output[0]}_scales"
        scales = np.array([1.0, 1.0, after[2] / before[2], after[3] / before[3]], np.float32)
        model.graph.initializer.append(onnx.numpy_helper.from_array(scales, name))
        del node.input[:]
        node.input.extend([_source(inferred, node.output[0]), "", name])
    _drop_unused(model)


def _source(graph: Any, output: str) -> str:
    return next(node.input[0] for node in graph.node if output in node.output)


def _drop_unused(model: Any) -> None:
    """Remove operators whose results nobody uses any more."""
    while True:
        used = {name for node in model.graph.node for name in node.input} | {out.name for out in model.graph.output}
        idle = [node for node in model.graph.node if not any(output in used for output in node.output)]
        if not idle:
            return
        for node in idle:
            model.graph.node.remove(node)


@contextlib.contextmanager
def _tf32(allowed: bool) -> Iterator[None]:
    before = torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = allowed
    try:
        yield
    finally:
        torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32 = before


@torch.inference_mode()
def reference(model: nn.Module, inputs: torch.Tensor) -> tuple[np.ndarray, np.ndarray]:
    """Class maps of all inputs, uint8, and logits of the first two: fp32, no TF32, one picture at a time."""
    classes, logits = [], []
    with _tf32(False):
        for index, picture in enumerate(inputs):
            scores = model(picture[None])[0]
            classes.append(scores.argmax(0).to(torch.uint8).cpu().numpy())
            if index < 2:
                logits.append(scores.float().cpu().numpy())
    return np.stack(classes), np.stack(logits)


@torch.inference_mode()
def milliseconds(run: Callable[[], Any], repeats: int = 7, seconds: float = 0.15) -> float:
    """Median time of a call over several repeats, by CUDA events."""
    for _ in range(5):
        run()
    torch.cuda.synchronize()
    begin = time.perf_counter()
    run()
    torch.cuda.synchronize()
    count = max(3, int(seconds / (time.perf_counter() - begin)))
    took = []
    for _ in range(repeats):
        start, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
        start.record()
        for _ in range(count):
            run()
        end.record()
        end.synchronize()
        took.append(start.elapsed_time(end) / count)
    return round(statistics.median(took), 4)


def timings(model: nn.Module, inputs: torch.Tensor, compile_seconds: float) -> dict[str, dict[str, float]]:
    """Milliseconds a batch by way and batch size. fp32 may use TF32, as TensorRT's does by default."""
    result: dict[str, dict[str, float]] = {}
    half = model.half  # the model is converted in place, last
    with _tf32(True):
        result["fp32 eager"] = {str(n): milliseconds(lambda n=n: model(inputs[:n])) for n in BATCHES}
        half()
        halves = inputs.half()
        result["fp16 eager"] = {str(n): milliseconds(lambda n=n: model(halves[:n])) for n in BATCHES}
        begin = time.monotonic()
        tries = [("default", 4), ("reduce-overhead", 4), ("default", 1), ("default", 8), ("reduce-overhead", 1),
                 ("reduce-overhead", 8)]  # fmt: skip
        for mode, n in tries:
            if time.monotonic() - begin > compile_seconds:
                print(f"  no time left for torch.compile {mode}, batch {n}", flush=True)
                continue
            name = "fp16 compile" if mode == "default" else f"fp16 compile {mode}"
            try:
                torch._dynamo.reset()
                compiled = torch.compile(model, mode=mode, dynamic=False)
                batch = halves[:n].clone()
                result.setdefault(name, {})[str(n)] = milliseconds(lambda run=compiled, batch=batch: run(batch))
            except Exception as error:
                print(f"  torch.compile {mode}, batch {n}: {type(error).__name__}: {str(error)[:200]}", flush=True)
        model.to(memory_format=torch.channels_last)
        rows = halves.contiguous(memory_format=torch.channels_last)
        result["fp16 eager channels_last"] = {str(n): milliseconds(lambda n=n: model(rows[:n])) for n in BATCHES}
    return result


def save_picture(path: Path) -> None:
    """NASA's portrait of Eileen Collins (public domain), if scikit-image brings it."""
    try:
        import skimage
        from PIL import Image

        with Image.open(Path(skimage.__file__).parent / "data" / "astronaut.png") as image:
            image.convert("RGB").save(path)
    except (ImportError, OSError) as error:
        print(f"no picture: {error}", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description="Export the networks of the GPU tests and time them in PyTorch.")
    parser.add_argument("folder", type=Path)
    parser.add_argument("--only", choices=list(NETWORKS), help="one network")
    parser.add_argument("--no-timings", action="store_true")
    parser.add_argument("--compile-seconds", type=float, default=150, help="for torch.compile, a network (default 150)")
    arguments = parser.parse_args()
    arguments.folder.mkdir(parents=True, exist_ok=True)
    save_picture(arguments.folder / "picture.png")
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    for name in [arguments.only] if arguments.only else list(NETWORKS):
        begin = time.monotonic()
        torch.manual_seed(0)
        model = NETWORKS[name]()
        with _tf32(False):
            settle(model.to(device), 12 if device.type == "cuda" else 2, device)
        inputs = pictures(8, 1)
        classes, logits = reference(model, inputs.to(device))
        np.savez(arguments.folder / f"{name}.npz", inputs=inputs.numpy(), classes=classes, logits=logits)
        path = arguments.folder / f"{name}.onnx"
        description = json.dumps(spec(name, model.labels), indent=2) + "\n"
        path.with_suffix(".json").write_text(description, encoding="utf-8")
        way = export(model, path)
        counts = np.bincount(classes.ravel())
        gaps = np.sort(logits, axis=1)
        near = float(np.mean(gaps[:, -1] - gaps[:, -2] < 0.02))
        print(
            f"{name}: {path.stat().st_size / 1e6:.0f} MB by {way}, {np.count_nonzero(counts)} classes, the most "
            f"frequent on {counts.max() / counts.sum():.1%}; logits {logits.min():.1f} to {logits.max():.1f}, "
            f"{near:.2%} of pixels within 0.02 of a tie; {time.monotonic() - begin:.0f} s",
            flush=True,
        )
        if device.type == "cuda" and not arguments.no_timings:
            file = arguments.folder / "torch_timings.json"
            known = json.loads(file.read_text()) if file.exists() else {}
            known["torch"] = torch.__version__
            known[name] = timings(model, inputs.to(device), arguments.compile_seconds)
            file.write_text(json.dumps(known, indent=2) + "\n")
            print(json.dumps(known[name]), f"{time.monotonic() - begin:.0f} s", flush=True)


if __name__ == "__main__":
    main()
