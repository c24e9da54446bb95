"""The networks of the GPU tests and of h200.py: FCN-ResNet101 and SegFormer-B4 with random weights, as ONNX files.

Runs with any Python that has torch, torchvision, transformers and onnx; nothing is downloaded, nothing has to be
installed of this project. The networks are made as `bmf-trt-seg models export NAME --weights none` makes them. For each
network NAME it writes into a folder:

NAME.onnx, NAME.json   opset 17, fp32, dynamic batch, 512x512; and its description
NAME.npz               "inputs" (8, 3, 512, 512); what PyTorch makes of them in fp32 without TF32: "classes" of all, and
                       "logits" of the first two

and torch_timings.json, milliseconds a batch in PyTorch; picture.png, a person, if scikit-image is there.

    python3 benchmarks/export_networks.py FOLDER [--only NAME] [--no-timings] [--compile-seconds 150]
"""

from __future__ import annotations

import argparse
import contextlib
import json
import statistics
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

sys.path.insert(0, str(Path(__file__).parents[1]))  # not installed where this runs

from bmf_trt_seg.models.architecture import IMAGENET_MEAN, IMAGENET_STD
from bmf_trt_seg.models.onnx_export import export_onnx
from bmf_trt_seg.models.random_weights import pictures, settle
from bmf_trt_seg.models.scores import Scores
from bmf_trt_seg.models.segformer import SEGFORMER
from bmf_trt_seg.models.torchvision_networks import TORCHVISION

SIZE = 512
BATCHES = (1, 4, 8)


NETWORKS = {"fcn_resnet101": TORCHVISION["fcn_resnet101"], "segformer_b4": SEGFORMER["segformer-b4"]}


def spec(name: str, labels: tuple[str, ...] | list[str]) -> dict[str, Any]:
    return {
        "task": "segmentation",
        "labels": list(labels),
        "background": 0,
        "input": {
            "name": "input",
            "height": SIZE,
            "width": SIZE,
            "mean": list(IMAGENET_MEAN),
            "std": list(IMAGENET_STD),
        },
        "output": {"name": "output", "activation": "softmax"},
        "source": f"benchmarks/export_networks.py: {name} with random weights",
    }


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
        architecture = NETWORKS[name]
        labels = architecture.data_set.labels
        network = architecture.create(len(labels)).to(device)
        with _tf32(False):
            batches = 12 if device.type == "cuda" else 2
            settle(network, architecture.last_layer(network), batches, (SIZE, SIZE))
        model = Scores(network).eval()
        inputs = pictures(8, 1, (SIZE, SIZE))
        classes, logits = reference(model, inputs.to(device))
        np.savez(arguments.folder / f"{name}.npz", inputs=inputs.numpy(), classes=classes, logits=logits)
        path = arguments.folder / f"{name}.onnx"
        description = json.dumps(spec(name, labels), indent=2) + "\n"
        path.with_suffix(".json").write_text(description, encoding="utf-8")
        way = export_onnx(model, path, (SIZE, SIZE), dynamic_batch=True)
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
