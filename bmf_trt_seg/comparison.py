"""One network in several precisions, side by side: how fast, how large, and how alike their class maps are."""

from __future__ import annotations

import contextlib
import itertools
import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from bmf_trt_seg.backends import BACKENDS, Backend, select_backend
from bmf_trt_seg.calibration_frames import calibration_data, sample
from bmf_trt_seg.confusion import ConfusionMatrix, scores_of
from bmf_trt_seg.engine.builder import EngineFromOnnx
from bmf_trt_seg.engine.library import NO_GPU, find_gpu
from bmf_trt_seg.engine.network import OnnxNetwork
from bmf_trt_seg.engine.options import BuildOptions, Precision
from bmf_trt_seg.errors import BackendUnavailable, ConfigError, EngineError, SegError, StreamError
from bmf_trt_seg.frames import FramePlanes
from bmf_trt_seg.postprocess import Postprocess, chosen_classes
from bmf_trt_seg.preprocess import Preprocess
from bmf_trt_seg.spec import ModelSpec
from bmf_trt_seg.timing import Work, warm_up

__all__ = [
    "Candidate",
    "Comparison",
    "Pictures",
    "Setup",
    "compared_backend",
    "is_quantized",
    "noise",
    "read_pictures",
    "resized",
]

_NOISE_PICTURES = 4
_ENGINE_FAILURES = (BackendUnavailable, StreamError)  # of the machine, not of a precision: no other one would do


@dataclass(frozen=True)
class Pictures:
    """Pictures as the network takes them, (N, 3, h, w) or (N, h, w, 3), and their own sizes."""

    batch: npt.NDArray[np.generic]
    sizes_wh: tuple[tuple[int, int], ...]
    source: str
    """Where they are from; '' for noise."""

    def of_size(self, size: int) -> npt.NDArray[np.generic]:
        """A batch of `size` of them, again from the first one where there are fewer."""
        return np.ascontiguousarray(self.batch[np.arange(size) % len(self.batch)])


@dataclass(frozen=True)
class Setup:
    """What is compared, and on what."""

    model: Path
    spec: ModelSpec
    backend: str
    """'onnxruntime', 'pytorch' or 'tensorrt'."""
    batches: tuple[int, ...]
    """Sizes of batches, ascending."""
    build: BuildOptions = field(default_factory=BuildOptions)
    """Of engines; the precision is replaced."""
    device: str = "auto"
    threads: int = 1
    input_shapes: dict[str, tuple[int, ...]] = field(default_factory=dict)
    """Of inputs beside the picture that leave sizes open."""
    quantized: Path | None = None
    """An ONNX file with Q/DQ operators, for int8."""
    calibration: Path | None = None
    """A video or a folder of pictures, for int8."""
    calibration_frames: int = 128

    @property
    def most(self) -> int:
        """The largest batch."""
        return self.batches[-1]


@dataclass
class Candidate:
    """A precision: its file, and what is known of it. Without a `backend`, `problem` says why it could not be."""

    precision: Precision
    problem: str = ""
    backend: Backend | None = None
    ran_on: str = ""
    """Where, in a few words."""
    file: Path | None = None
    file_bytes: int | None = None
    device_bytes: int | None = None
    """What it takes on its GPU, weights and largest batch included; None on a CPU."""
    build_seconds: float | None = None
    works: dict[int, Work] = field(default_factory=dict)
    """To be timed, by size of batch."""
    batch_problems: dict[int, str] = field(default_factory=dict)
    """Why a size of batch is not."""
    agreement: float | None = None
    """Share of pixels, 0 to 1, that are of the same class as in the reference."""
    mean_iou: float | None = None
    """Mean intersection over union of the classes, the reference being the truth; 0 to 1."""


def compared_backend(name: str, model: Path, device: str) -> str:
    """The backend that 'auto' means for a comparison: TensorRT if there is a GPU for it, else by the kind of file.

    Raises ConfigError for an engine, which is of one precision, and for what no backend runs; BackendUnavailable.
    """
    suffix = model.suffix.lower()
    if suffix in BACKENDS["tensorrt"].suffixes:
        raise ConfigError(
            f"model '{model.name}' is an engine, which has one precision: give the .onnx file that it was built from"
        )
    entry = BACKENDS["tensorrt"]
    if name == "auto":
        builds = suffix in entry.builds_from and entry.library is not None and device != "cpu" and _has_gpu(device)
        name = (
            "tensorrt" if builds
            else next((other for other, entry in BACKENDS.items() if suffix in entry.suffixes), "auto")
        )  # fmt: skip
    select_backend(name, model)
    if name == "tensorrt" and find_gpu(device) is None:
        raise BackendUnavailable(NO_GPU)
    return name


def _has_gpu(device: str) -> bool:
    try:
        return find_gpu(device) is not None
    except BackendUnavailable:
        return False


def resized(spec: ModelSpec, shape: Sequence[int]) -> ModelSpec:
    """The description for pictures of this shape of the network's input. Raises ConfigError if it is none."""
    is_nchw = spec.input.layout == "nchw"
    if len(shape) != 4 or shape[1 if is_nchw else 3] != 3:
        raise ConfigError(
            f"--shapes: '{spec.input.name}' is the picture, got {'x'.join(map(str, shape))}; expected a shape as "
            f"{'1x3x512x512' if is_nchw else '1x512x512x3'}"
        )
    height, width = shape[2:] if is_nchw else shape[1:3]
    return spec.model_copy(update={"input": spec.input.model_copy(update={"height": height, "width": width})})


def read_pictures(source: Path, spec: ModelSpec, count: int) -> Pictures:
    """At most `count` pictures of a folder, a video, or a picture. Raises StreamError, ConfigError."""
    return _preprocessed(sample(source, count), spec, str(source))


def noise(spec: ModelSpec) -> Pictures:
    """Random pictures of the network's own size, always the same."""
    random = np.random.default_rng(0)
    width, height = spec.input.width, spec.input.height
    frames = (
        FramePlanes("rgb24", width, height, (random.integers(0, 256, (height, width, 3), np.uint8),))
        for _ in range(_NOISE_PICTURES)
    )
    return _preprocessed(frames, spec, "")


def _preprocessed(frames: Iterator[FramePlanes], spec: ModelSpec, source: str) -> Pictures:
    preprocess = Preprocess(spec.input)
    batches, sizes = [], []
    for frame in frames:
        batches.append(preprocess([frame]).copy())
        sizes.append((frame.width, frame.height))
    if not batches:
        raise StreamError(f"'{source}' has no pictures in it")
    return Pictures(np.concatenate(batches), tuple(sizes), source)


class Comparison:
    """Candidates, made one after the other and all kept open, so that they can be timed in turn."""

    def __init__(self, setup: Setup, pictures: Pictures) -> None:
        self.candidates: list[Candidate] = []
        self.reference = ""
        """What class maps are compared with: 'fp32', or that of another backend."""
        self.notes: list[str] = []
        self._setup = setup
        self._pictures = pictures
        self._closing = contextlib.ExitStack()
        self._folder: Path | None = None

    def __enter__(self) -> Comparison:
        return self

    def __exit__(self, *raised: object) -> None:
        self._closing.close()

    def add(self, precision: Precision, report: Callable[[str, float | None], None]) -> Candidate:
        """Make, open and warm up a precision; one that there cannot be has a `problem` and no backend.

        `report` is told of the build of an engine. Raises BackendUnavailable or StreamError where none could be.
        """
        candidate = Candidate(precision)
        self.candidates.append(candidate)
        try:
            spec = self._make(candidate, report)
            if spec is not None:
                self._open(candidate, spec)
        except _ENGINE_FAILURES:
            raise
        except SegError as error:
            candidate.problem, candidate.backend = str(error), None
        return candidate

    # ------------------------------------------------------------------------------------------------------ the files

    def _make(self, candidate: Candidate, report: Callable[[str, float | None], None]) -> ModelSpec | None:
        """Find or make the file of a precision; what it takes, or None if there is none."""
        setup, precision = self._setup, candidate.precision
        source = setup.quantized if precision == "int8" and setup.quantized is not None else setup.model
        if precision == "int8" and source is setup.model and setup.calibration is None and not is_quantized(source):
            candidate.problem = (
                "it wants pictures to calibrate on: --calibration VIDEO_OR_FOLDER; or a network with Q/DQ operators: "
                "--quantized FILE.onnx"
            )
            return None
        if setup.backend == "tensorrt":
            return self._make_engine(candidate, source, report)
        if precision in ("fp16", "bf16"):
            candidate.problem = f"{setup.backend} runs the network in the types it has; only TensorRT changes them"
            return None
        if precision == "int8" and source is setup.model and setup.calibration is not None:
            if setup.backend != "onnxruntime":
                candidate.problem = f"{setup.backend} quantizes nothing; give an .onnx file"
                return None
            report("quantizing", None)
            source = self._quantized(source, setup.calibration)
        candidate.file = source
        candidate.file_bytes = _size_of(source)
        return setup.spec

    def _make_engine(
        self, candidate: Candidate, source: Path, report: Callable[[str, float | None], None]
    ) -> ModelSpec:
        setup, data = self._setup, None
        if candidate.precision == "int8" and setup.calibration is not None and not OnnxNetwork(source).is_quantized:
            data = calibration_data(setup.calibration, setup.spec.input, setup.calibration_frames)
        engine = EngineFromOnnx(
            source,
            setup.build.model_copy(update={"precision": candidate.precision}),
            spec=setup.spec,
            batch=(1, setup.most, setup.most),
            calibration=data,
            device=setup.device,
        )
        engine.build(report)
        candidate.file, candidate.file_bytes = engine.path, engine.manifest.plan_bytes
        candidate.build_seconds = engine.manifest.build_seconds
        return setup.spec

    def _quantized(self, source: Path, calibration: Path) -> Path:
        """The network with Q/DQ operators, in a file that goes with the comparison."""
        spec = self._setup.spec
        data = calibration_data(calibration, spec.input, self._setup.calibration_frames)
        network = OnnxNetwork(source)
        tensor = next((tensor for tensor in network.inputs if tensor.name == spec.input.name), None)
        size = tensor.shape[0] if tensor is not None and tensor.shape else 1
        constants = {
            other.name: np.full(
                [number if isinstance(number, int) else 1 for number in other.shape],
                spec.constants[other.name],
                other.dtype,
            )
            for other in network.inputs
            if other.name in spec.constants
        }
        batches = data.batches(size if isinstance(size, int) else 1)
        content = network.quantized({**constants, spec.input.name: batch} for batch in batches)
        if self._folder is None:
            self._folder = Path(self._closing.enter_context(tempfile.TemporaryDirectory()))
        path = self._folder / f"{source.stem}.int8.onnx"
        path.write_bytes(content)
        return path

    # -------------------------------------------------------------------------------------------------- opened and run

    def _open(self, candidate: Candidate, spec: ModelSpec) -> None:
        setup = self._setup
        assert candidate.file is not None
        kind = select_backend(setup.backend, candidate.file)
        memory = _DeviceMemory(setup.device) if setup.backend == "tensorrt" else None
        backend = kind(
            candidate.file, spec, device=setup.device, threads=setup.threads, batch_size=setup.most,
            input_shapes=setup.input_shapes,
        )  # fmt: skip
        self._closing.callback(backend.close)
        backend.open()
        candidate.backend, candidate.ran_on = backend, backend.describe()
        for size in reversed(setup.batches):  # larger memory later would undo what was recorded for smaller batches
            if backend.fixed_batch not in (None, size):
                candidate.batch_problems[size] = f"the network takes batches of {backend.fixed_batch} only"
                continue
            try:
                work = _work(backend, self._pictures.of_size(size))
                warm_up(work)
            except SegError as error:
                candidate.batch_problems[size] = str(error)
                continue
            candidate.works[size] = work
        candidate.works = dict(sorted(candidate.works.items()))
        candidate.batch_problems = dict(sorted(candidate.batch_problems.items()))
        if memory is not None:
            candidate.device_bytes = memory.taken()

    def compare(self) -> None:
        """Fill in how alike the class maps of the candidates are to those of fp32.

        That is the candidate fp32, else what ONNX Runtime makes of the network on the CPU.
        """
        spec, setup = self._setup.spec, self._setup
        if spec.task != "segmentation":
            self.notes.append(f"no class maps are compared: the network's task is '{spec.task}'")
            return
        opened = [candidate for candidate in self.candidates if candidate.backend is not None]
        reference = next((candidate.backend for candidate in opened if candidate.precision == "fp32"), None)
        self.reference = "fp32"
        with contextlib.ExitStack() as closing:
            if reference is None:
                if setup.model.suffix.lower() != ".onnx" or not opened:
                    return
                self.reference = "fp32 of onnxruntime on the CPU"
                kind = select_backend("onnxruntime", setup.model)
                reference = closing.enter_context(
                    kind(setup.model, spec, device="cpu", threads=setup.threads, input_shapes=setup.input_shapes)
                )
            wanted = list(self._maps(reference))
        for candidate in opened:
            assert candidate.backend is not None
            try:
                self._rate(candidate, wanted, self._maps(candidate.backend))
            except BackendUnavailable as error:
                candidate.mean_iou = None
                if str(error) not in self.notes:
                    self.notes.append(f"no mIoU: {error}")

    def _rate(
        self, candidate: Candidate, wanted: list[npt.NDArray[np.uint8]], found: Iterator[npt.NDArray[np.uint8]]
    ) -> None:
        spec = self._setup.spec
        try:
            matrix, missing = ConfusionMatrix(len(spec.labels)), None
        except BackendUnavailable as error:
            matrix, missing = None, error
        same = total = 0
        for truth_hw, map_hw in zip(wanted, found, strict=True):
            same += int(np.count_nonzero(truth_hw == map_hw))
            total += map_hw.size
            if matrix is not None:
                matrix.add(truth_hw.astype(np.int16), map_hw)
        candidate.agreement = same / total
        if matrix is not None:
            candidate.mean_iou = scores_of(matrix.counts, spec.labels).mean_iou
        if missing is not None:
            raise missing

    def _maps(self, backend: Backend) -> Iterator[npt.NDArray[np.uint8]]:
        """Class maps of all pictures, in their own sizes, one after the other."""
        spec, batch = self._setup.spec, self._pictures.batch
        postprocess = Postprocess(spec, chosen_classes(spec.labels, spec.background, None))
        sizes = iter(self._pictures.sizes_wh)
        step = backend.fixed_batch or 1
        for start in range(0, len(batch), step):
            scores = backend.infer(batch[start : start + step])
            postprocess.check(scores.shape)
            for of_picture, size_wh in zip(scores, itertools.islice(sizes, step), strict=False):
                yield postprocess(of_picture, size_wh)


def _work(backend: Backend, batch: npt.NDArray[np.generic]) -> Work:
    """An inference to be timed: of pictures that are on the GPU already, if the network takes them there."""
    if backend.stream is None:
        return Work(len(batch), lambda: backend.infer(batch))
    import torch

    stream = backend.stream
    try:
        on_device = torch.from_numpy(batch).to(stream.device)
    except RuntimeError as error:  # there is no memory for it
        reason = str(error).strip().splitlines()[0]
        raise EngineError(f"a batch of {len(batch)} cannot be put on the GPU: {reason}") from error
    current = torch.cuda.current_stream(stream.device)
    return Work(len(batch), lambda: backend.infer_on_device(on_device), current.synchronize)


class _DeviceMemory:
    """How much of a GPU's memory is taken from now on, by whomever."""

    def __init__(self, device: str) -> None:
        import torch

        gpu = find_gpu(device)
        self._torch: Any = torch
        self._index = gpu.index if gpu is not None else 0
        torch.zeros(1, device=f"cuda:{self._index}")  # what CUDA itself takes is taken
        self._free = self._now()

    def taken(self) -> int:
        return max(0, self._free - self._now())

    def _now(self) -> int:
        self._torch.cuda.synchronize(self._index)
        free: int = self._torch.cuda.mem_get_info(self._index)[0]
        return free


def is_quantized(path: Path) -> bool:
    """Whether a file is a network that says itself where it is quantized. Raises ModelError for a broken one."""
    return path.suffix.lower() == ".onnx" and OnnxNetwork(path).is_quantized


def _size_of(path: Path) -> int:
    weights = OnnxNetwork(path).weight_files() if path.suffix.lower() == ".onnx" else []
    return sum(file.stat().st_size for file in (path, *weights) if file.exists())
