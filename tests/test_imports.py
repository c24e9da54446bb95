"""The arrows of the design: who may import whom, and that optional libraries are imported where they are used."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import bmf_trt_seg

ROOT = Path(bmf_trt_seg.__file__).parent
PACKAGE = "bmf_trt_seg"

# A module imports from layers above its own only.
LAYERS = [
    ["cuda_memory", "cuda_streams", "trace"],
    [
        "",
        "arrivals",
        "backends.cuda_graphs",
        "batch",
        "batch.work_folder",
        "bmf_tensors",
        "colors",
        "cuda_queue",
        "engine",
        "engine.profiling",
        "errors",
        "feed_states",
        "garbage",
        "hardware",
        "json_text",
        "no_signal",
        "live",
        "live.signals",
        "live_outputs",
        "metrics",
        "models.datasets",
        "models.scores",
        "native_output",
        "records",
        "retry",
        "scheduler_threads",
        "sources",
        "sources.urls",
        "stream_packets",
        "text_values",
        "timing",
        "watch",
        "watch.page",
        "watch.shares",
    ],
    [
        "batch.cluster",
        "batch.storage",
        "cuda_kernels",
        "engine.library",
        "frames",
        "health",
        "http_server",
        "live.placement",
        "live_outputs.interleave",
        "live_outputs.sound",
        "live_outputs.target",
        "media",
        "sources.feed",
        "models",
        "models.architecture",
        "models.labels",
        "models.packages",
        "outputs",
        "validation",
    ],
    [
        "backends.fair_queue",
        "engine.calibration",
        "engine.options",
        "finish",
        "gpu_jpeg",
        "legend",
        "live_outputs.options",
        "live_outputs.outlet",
        "live_outputs.pusher",
        "models.onnx_export",
        "models.own_network",
        "models.random_weights",
        "models.tflite",
        "models.torchvision_package",
        "models.weights",
        "segmentation",
        "sources.packets",
        "spec",
        "watch.jpeg",
    ],
    [
        "backends",
        "confusion",
        "engine.manifest",
        "engine.network",
        "live_outputs.encoder",
        "live_outputs.files",
        "live_outputs.hls",
        "live_outputs.push",
        "models.catalog",
        "models.segformer",
        "models.torchvision_networks",
        "options",
        "postprocess",
        "preprocess",
        "watch.preview",
    ],
    ["graph_format"],
    [
        "batch.cuts",
        "sources.nvdecoder",
        "backends.onnxruntime",
        "backends.pytorch",
        "backends.shared",
        "engine.builder",
        "engine.loading",
        "graph",
        "graph_boxes",
        "masks",
        "models.check",
        "models.describe",
        "overlay",
        "plots",
        "watch.streams",
    ],
    [
        "backends.tensorrt",
        "engine.inspection",
        "graph_drawing",
        "graph_new",
        "live.graphs",
        "models.export",
        "looks",
        "networks",
        "overlay_cuda",
        "preprocess_cuda",
        "prometheus",
        "replay",
        "stage_times",
        "watch.motion",
        "watch.status",
    ],
    ["live.feeds", "pipeline_cuda", "pipeline_tensors", "transcode", "watch.pages"],
    ["batch.parts", "graph_schema", "live.device_names", "live.reread", "pipeline"],
    ["bmf_frames", "changes", "bmf_module", "live.networks", "pictures"],
    [
        "batch.inputs",
        "batch.window",
        "calibration_frames",
        "evaluation",
        "live.supervisor",
        "live_sink",
        "module",
        "picture_inference",
        "sinks",
        "sources.live",
        "sources.nvdec",
        "sources.sound",
        "still_pictures",
        "watch.options_page",
    ],
    ["batch.ledger", "batch.settings"],
    ["batch.tasks"],
    ["batch.schedule", "batch.worker"],
    ["batch.pool", "batch.report"],
    ["batch.driver", "live.messages", "live.sinks"],
    ["live.places", "live.worker", "live.worker_process"],
    ["live.device"],
    ["live.devices"],
    ["live.device_pages"],
    [
        "cli",
        "cli.doctor",
        "cli.inputs",
        "cli.logs",
        "cli.network_flags",
        "cli.options",
        "cli.progress",
        "cli.redrawn",
        "cli.reports",
        "cli.web",
        "comparison",
    ],
    [
        "cli.batch_status",
        "cli.live_status",
        "cli.bench",
        "cli.build",
        "cli.describe",
        "cli.engines",
        "cli.export",
        "cli.graph",
        "cli.inspect",
    ],
    ["cli.batch", "cli.evaluate", "cli.images", "cli.infer", "cli.live", "cli.models", "cli.segment"],
    ["cli.render", "cli.run"],
    ["cli.main"],
]
LAYER_OF = {name: number for number, names in enumerate(LAYERS) for name in names}
MODULES = {
    ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix("__init__").rstrip("."): path
    for path in sorted(ROOT.rglob("*.py"))
}
STEPS = {"preprocess", "preprocess_cuda", "postprocess", "overlay", "overlay_cuda"}
BMF_ADAPTERS = {
    "batch.window",
    "module",
    "bmf_frames",
    "bmf_module",
    "bmf_tensors",
    "live_sink",
    "sinks",
    "sources.live",
    "sources.nvdec",
    "sources.sound",
}

# Who may import a library, and whether at the top of the file.
OPTIONAL = {
    "bmf": {
        "batch.window": True,
        "module": True,
        "bmf_module": True,
        "bmf_frames": True,
        "bmf_tensors": True,
        "live_sink": True,
        "sinks": True,
        "sources.live": True,
        "sources.nvdec": True,
        "sources.sound": True,
        "graph": False,
        "hardware": False,
        "cli.doctor": False,
    },
    "torch": {
        "backends.pytorch": True,
        "backends.tensorrt": True,
        "bmf_tensors": True,
        "comparison": False,
        "confusion": False,
        "cuda_kernels": False,
        "cuda_memory": True,
        "cuda_queue": True,
        "cuda_streams": True,
        "engine.builder": False,
        "engine.calibration": False,
        "engine.library": False,
        "engine.loading": False,
        "engine.inspection": False,
        "hardware": False,
        "models.onnx_export": True,
        "models.random_weights": True,
        "models.scores": True,
        "sources.nvdecoder": True,
        "frames": False,
        "gpu_jpeg": False,
        "legend": False,
        "overlay_cuda": False,
        "pipeline_cuda": False,
        "trace": False,
        "watch.jpeg": False,
    },
    "onnxruntime": {"backends.onnxruntime": True, "engine.network": False},
    "cuda": {"backends.cuda_graphs": True, "cuda_kernels": False, "cuda_streams": False},
    "tensorrt": {},  # `engine.library` imports it by name
    "tensorrt_rtx": {},
    "onnx": {"models.tflite": False, "engine.network": False, "engine.builder": False},
    "tflite": {"models.tflite": False},
    "fsspec": {"batch.storage": False},
    "ray": {"batch.cluster": False},
    "av": {
        "batch.cuts": True,
        "batch.parts": True,
        "live_outputs.encoder": True,
        "live_outputs.files": True,
        "live_outputs.hls": True,
        "live_outputs.push": True,
        "live_outputs.pusher": True,
        "live_outputs.sound": True,
        "live_sink": True,
        "media": True,
        "finish": True,
        "calibration_frames": True,
        "sources.feed": True,
        "sources.live": True,
        "sources.packets": True,
        "sources.nvdec": True,
        "sources.nvdecoder": True,
        "stream_packets": True,
    },
    "matplotlib": {"plots": False},
    "prometheus_client": {"prometheus": False},
    "torchmetrics": {"confusion": False},
    "PIL": {"gpu_jpeg": True, "legend": True, "masks": True, "picture_inference": True, "pictures": True},
    "tqdm": {"cli.progress": True},
    "pycocotools": {"records": True},
}


def imports(name: str) -> Iterator[tuple[str, bool]]:
    """Everything a module imports, by full name, and whether at the top of the file; types only do not count."""
    tree = ast.parse(MODULES[name].read_text(encoding="utf-8"))
    inner = {
        id(node)
        for outer in ast.walk(tree)
        if isinstance(outer, ast.FunctionDef | ast.AsyncFunctionDef)
        for node in ast.walk(outer)
    }
    for_types = {
        id(node)
        for outer in ast.walk(tree)
        if isinstance(outer, ast.If) and ast.unparse(outer.test) == "TYPE_CHECKING"
        for node in ast.walk(outer)
    }
    for node in ast.walk(tree):
        if id(node) in for_types:
            continue
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield alias.name, id(node) not in inner
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "imports are absolute here"
            for alias in node.names:
                full = f"{node.module}.{alias.name}"
                is_module = full.removeprefix(f"{PACKAGE}.") in MODULES
                yield (full if is_module else str(node.module)), id(node) not in inner


def imports_of_ours(name: str) -> set[str]:
    return {
        full.removeprefix(PACKAGE).lstrip(".")
        for full, _ in imports(name)
        if full == PACKAGE or full.startswith(f"{PACKAGE}.")
    }


def test_every_module_has_a_layer():
    assert set(MODULES) == set(LAYER_OF)


@pytest.mark.parametrize("name", MODULES)
def test_imports_point_one_way(name):
    wrong = [other for other in imports_of_ours(name) if LAYER_OF[other] >= LAYER_OF[name]]
    assert not wrong


def test_steps_do_not_import_each_other():
    for name in STEPS | {other for other in MODULES if other.startswith("backends")}:
        others = STEPS | {"backends"}
        own = {name, name.removesuffix("_cuda"), "backends" if name.startswith("backends") else name}
        assert not (imports_of_ours(name) & others) - own


@pytest.mark.parametrize("name", ["preprocess", "postprocess", "overlay", "legend", "records", "colors", "frames"])
def test_arithmetic_knows_no_networks_and_no_files(name):
    assert not imports_of_ours(name) & {"backends", "pipeline", "media", "graph", "models.catalog"}
    assert not {full for full, _ in imports(name)} & {"pathlib", "os", "io"}


@pytest.mark.parametrize("name", [name for name in MODULES if name.startswith("backends")])
def test_backends_know_no_frames(name):
    allowed = {"backends", "errors", "spec"}
    if name == "backends.shared":
        allowed |= {"backends.fair_queue"}
    if name == "backends.tensorrt":
        allowed |= {
            "backends.cuda_graphs",
            "bmf_tensors",
            "cuda_streams",
            "engine.library",
            "engine.loading",
            "engine.options",
            "engine.profiling",
        }
    assert imports_of_ours(name) <= allowed


@pytest.mark.parametrize("library", OPTIONAL)
def test_libraries_are_imported_where_they_are_used(library):
    found = {}
    for name in MODULES:
        for full, at_top in imports(name):
            if full.split(".")[0] == library:
                found[name] = found.get(name, False) or at_top
    assert found == OPTIONAL[library]


def test_tensors_of_bmf_wait_until_a_frame_is_on_a_gpu():
    """`bmf_tensors` wants PyTorch, which frames in CPU memory do without."""
    assert [at_top for full, at_top in imports("bmf_frames") if full == f"{PACKAGE}.bmf_tensors"] == [False] * 2


BLOCKED = [
    "bmf", "cuda", "fsspec", "matplotlib", "onnx", "onnxruntime", "prometheus_client", "ray", "s3fs", "tensorrt",
    "tensorrt_rtx", "tflite", "torch", "torchmetrics",
]  # fmt: skip
BARE = """
import importlib, sys

class Blocked:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in {blocked}:
            raise ModuleNotFoundError(f"{{name}} is blocked", name=name)

sys.meta_path.insert(0, Blocked())
for name in {names}:
    try:
        importlib.import_module(name)
    except ImportError as error:
        print(name, error.name)
"""


def test_modules_import_in_a_bare_environment():
    """All but the adapters to BMF, and to a backend's own library."""
    names = [f"{PACKAGE}.{name}".rstrip(".") for name in MODULES if name not in BMF_ADAPTERS]
    done = subprocess.run(
        [sys.executable, "-c", BARE.format(blocked=BLOCKED, names=names)],
        capture_output=True,
        text=True,
        check=True,
        env={"PYTHONPATH": str(ROOT.parent)},
    )
    assert done.stderr == ""
    assert done.stdout.splitlines() == [
        "bmf_trt_seg.backends.onnxruntime onnxruntime",
        "bmf_trt_seg.backends.pytorch torch",
        "bmf_trt_seg.backends.tensorrt torch",
        "bmf_trt_seg.cuda_memory torch",
        "bmf_trt_seg.cuda_queue torch",
        "bmf_trt_seg.cuda_streams torch",
        "bmf_trt_seg.models.onnx_export torch",
        "bmf_trt_seg.models.random_weights torch",
        "bmf_trt_seg.models.scores torch",
        "bmf_trt_seg.sources.nvdecoder torch",
    ]
