"""Serialized TensorRT engines, on a stream of their own."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from bmf_trt_seg.backends import Backend, LayerTime, ProfiledRun
from bmf_trt_seg.backends.cuda_graphs import RecordedWork, record
from bmf_trt_seg.cuda_streams import give_back, take
from bmf_trt_seg.engine.library import Gpu
from bmf_trt_seg.engine.loading import LoadedEngine, rebuild_command, shared_engine
from bmf_trt_seg.engine.options import ShapeRange
from bmf_trt_seg.engine.profiling import layer_profiler
from bmf_trt_seg.errors import ConfigError, EngineError, ModelError

__all__ = ["TensorRTBackend"]

_ALIGNMENT = 256  # bytes; TensorRT takes no address that is not a multiple
_MOST_GRAPHS = 16
_NOT_IN_NUMPY = {"bfloat16": torch.float32}


@dataclass
class _Tensor:
    """An input or output of the engine, its element type, and where its values are for the batch of the moment."""

    name: str
    is_input: bool
    dtype: torch.dtype
    shape: tuple[int, ...]
    """As the engine has it: -1 for what is not fixed."""
    values: Any = None
    """A view of device memory, in the shape of the batch."""


class TensorRTBackend(Backend):
    """An engine built by `bmf-trt-seg build` or trtexec, with device memory for its tensors, allocated once.

    `infer` takes and gives host arrays, through pinned memory. `infer_on_device` takes and gives CUDA tensors and does
    not wait. Both run on the backend's own stream. The second batch of a size and place is recorded as a CUDA graph,
    if the engine allows it, which is replayed from then on.
    """

    use_cuda_graphs = True

    _loaded: LoadedEngine
    _context: Any = None
    _prepared = 0
    """The size of batch that the context and all memory are ready for."""

    def _open(self) -> None:
        self._loaded = shared_engine(self.model, self.device)
        self._device = torch.device("cuda", self._loaded.gpu.index)
        try:
            self._make_ready()
        except BaseException as error:
            memory = self._loaded.library.context_memory_bytes(self._loaded.engine)
            gpu = self._loaded.gpu
            self._release()
            if isinstance(error, RuntimeError) and "out of memory" in str(error).lower():
                raise self._no_memory(memory, gpu) from error
            raise

    def _make_ready(self) -> None:
        """A context, a stream, memory."""
        self._graphs: dict[tuple[int, int], RecordedWork] = {}
        self._last_kind: tuple[int, int] | None = None
        self._refused: set[tuple[int, int]] = set()
        self._tensors = self._read_tensors()
        self._picture = self._named(self.spec.input.name, is_input=True)
        outputs = self._wanted_outputs([tensor.name for tensor in self._tensors if not tensor.is_input])
        self._wanted = [self._named(name, is_input=False) for name in outputs]
        self._scores = self._wanted[0]
        self._profile, self._range = self._choose_profile()
        with torch.cuda.device(self._device):
            self._stream = take(self._device)
            self._ready, self._done = torch.cuda.Event(), torch.cuda.Event()
            self._context = self._new_context()
            self._memory: dict[str, torch.Tensor] = {}
            self._pinned: dict[str, torch.Tensor] = {}
            self._stream.wait_stream(torch.cuda.current_stream())  # for memory that another stream has just given up
            with torch.cuda.stream(self._stream):
                self._prepare(max(self.batch_size if self.fixed_batch is None else self.fixed_batch, self._range[0]))

    def describe(self) -> str:
        manifest = self._loaded.manifest
        precision = f", {manifest.precision}" if manifest else ""
        return f"{self._loaded.library} on {self._loaded.gpu.name}{precision}"

    @property
    def lasting(self) -> LoadedEngine | None:
        return self._loaded if self._loaded.is_shared else None

    @property
    def stream(self) -> torch.cuda.Stream:
        return self._stream

    def infer_on_device(self, batch: torch.Tensor) -> torch.Tensor:
        """Run the network on a batch in device memory, as the spec's input describes it, N pictures; without waiting.

        The batch is taken where it lies, if its address is a multiple of 256 and the engine wants no more pictures; it
        is ordered after what the current stream does to it, and the result before what that does next. The result is
        the spec's output tensor, N first, and valid until the next call.
        Raises EngineError for a batch of another shape, type or device, or if the engine fails.
        """
        if not self._is_open:
            raise EngineError(f"network '{self.model.name}' is not open: call open() before infer_on_device()")
        count = len(batch)
        if self.fixed_batch is not None and count > self.fixed_batch:
            return torch.cat([self.infer_on_device(part).clone() for part in batch.split(self.fixed_batch)])
        self._check_batch(count, tuple(batch.shape), str(batch.dtype).removeprefix("torch."))
        if batch.device != self._device or not batch.is_contiguous():
            kind = "contiguous" if batch.is_contiguous() else "not contiguous"
            raise self._failed(count, f"it is on {batch.device} and {kind}, expected contiguous on {self._device}")
        try:
            self._order_and_enqueue(batch, count)
        except EngineError:
            raise
        except RuntimeError as error:  # PyTorch's and BMF's
            raise self._failed(count, str(error).strip().splitlines()[0]) from error
        scores: torch.Tensor = self._scores.values[:count]
        return scores

    def _order_and_enqueue(self, batch: torch.Tensor, count: int) -> None:
        current = torch.cuda.current_stream(self._device)
        if current.cuda_stream == self._stream.cuda_stream:  # a pipeline's own: everything is in order there
            self._enqueue_batch(batch, count)
            return
        with torch.cuda.device(self._device):
            self._ready.record(current)
            self._stream.wait_event(self._ready)
            with torch.cuda.stream(self._stream):
                batch.record_stream(self._stream)
                self._enqueue_batch(batch, count)
            self._done.record(self._stream)
            current.wait_event(self._done)

    def _enqueue_batch(self, batch: torch.Tensor, count: int) -> None:
        size = self._padded(count)
        self._prepare(size)
        if size == count and batch.data_ptr() % _ALIGNMENT == 0:
            self._enqueue(batch.data_ptr())
            return
        self._picture.values[:count].copy_(batch)
        self._picture.values[count:].zero_()
        self._enqueue(self._picture.values.data_ptr())

    def _run(self, batch: npt.NDArray[np.generic]) -> npt.NDArray[np.generic]:
        return self._to_host(batch, [self._scores])[0][: len(batch)]

    def _run_all(self, batch: npt.NDArray[np.generic]) -> dict[str, npt.NDArray[np.generic]]:
        names = [tensor.name for tensor in self._wanted]
        size = self._padded(len(batch))
        padding = np.zeros((size - len(batch), *batch.shape[1:]), batch.dtype)
        found = self._to_host(np.concatenate([batch, padding]) if len(padding) else batch, self._wanted)
        if size == len(batch):
            return dict(zip(names, found, strict=True))
        kept = self._each(dict(zip(names, found, strict=True)), size, len(batch))
        return {name: np.concatenate([one[name] for one in kept]) for name in names}

    def _to_host(self, batch: npt.NDArray[np.generic], outputs: list[_Tensor]) -> list[npt.NDArray[np.generic]]:
        """What these outputs hold after a run on the batch, padding included; the caller owns it."""
        count = len(batch)
        self._check_batch(count, batch.shape, str(batch.dtype))
        size = self._padded(count)
        results = []
        try:
            with torch.cuda.device(self._device):
                self._ready.record(torch.cuda.current_stream())
            with torch.cuda.device(self._device), torch.cuda.stream(self._stream):
                self._stream.wait_event(self._ready)  # for who still reads what `infer_on_device` gave
                self._prepare(size)
                given = self._pinned_like(self._picture, self._picture.dtype)
                given.numpy()[:count] = batch
                given.numpy()[count:] = 0
                self._picture.values.copy_(given, non_blocking=True)
                self._enqueue(self._picture.values.data_ptr())
                for output in outputs:
                    host_type = _NOT_IN_NUMPY.get(str(output.dtype).removeprefix("torch."), output.dtype)
                    result = self._pinned_like(output, host_type)
                    result.copy_(output.values.to(host_type), non_blocking=True)
                    results.append(result)
                self._done.record(self._stream)
            self._done.synchronize()
        except EngineError:
            raise
        except RuntimeError as error:  # PyTorch's and BMF's
            raise self._failed(count, str(error).strip().splitlines()[0]) from error
        return [result.numpy().copy() for result in results]

    def _profiled_run(self, batch: npt.NDArray[np.generic]) -> ProfiledRun:
        profiler = layer_profiler(self._loaded.library.trt)
        uses_graphs = self.use_cuda_graphs
        self._forget_graphs()  # the profiler sees nothing of what is replayed, and recording fails under it
        self.use_cuda_graphs = False
        self._context.profiler = profiler
        try:
            self._run(batch)
            profiler.layers.clear()  # the first one may still load kernels
            begin_ns = time.perf_counter_ns()
            self._run(batch)
            end_ns = time.perf_counter_ns()
        finally:
            self.use_cuda_graphs = uses_graphs
            self._renew_context()  # not all editions let a context go on without its profiler
        layers = [LayerTime(name, milliseconds / 1e3) for name, milliseconds in profiler.layers]
        return ProfiledRun(begin_ns, end_ns, layers)

    def _forget_graphs(self) -> None:
        self._stream.synchronize()
        self._graphs.clear()
        self._refused.clear()
        self._last_kind = None

    def _renew_context(self) -> None:
        """Put a new context in the place of the one there is; the memory of the tensors stays."""
        self._forget_graphs()
        self._context, self._prepared = None, 0  # it goes first: an engine may have a profile for one context only
        with torch.cuda.device(self._device):
            self._context = self._new_context()

    def _close(self) -> None:
        with contextlib.suppress(RuntimeError):  # the GPU has failed before, and that was told
            self._stream.synchronize()
        self._release()

    def _release(self) -> None:
        """Let go of everything; the engine's memory goes with the last that refers to it."""
        self._graphs.clear()
        self._context, self._prepared = None, 0
        stream = self.__dict__.pop("_stream", None)
        if stream is not None:
            give_back(stream)
        for name in ("_loaded", "_tensors", "_picture", "_wanted", "_scores", "_memory", "_pinned"):
            self.__dict__.pop(name, None)

    # --------------------------------------------------------------------------------------------------- the engine

    def _read_tensors(self) -> list[_Tensor]:
        engine, library = self._loaded.engine, self._loaded.library
        tensors = []
        for index in range(engine.num_io_tensors):
            name = engine.get_tensor_name(index)
            is_input = engine.get_tensor_mode(name) == library.trt.TensorIOMode.INPUT
            kind = library.element_type(engine.get_tensor_dtype(name))
            dtype = getattr(torch, kind, None)
            if not isinstance(dtype, torch.dtype):
                raise ModelError(
                    f"tensor '{name}' of engine '{self.model.name}' is of type {kind}, which is not handled"
                )
            if engine.get_tensor_location(name) != library.trt.TensorLocation.DEVICE:
                raise ModelError(
                    f"tensor '{name}' of engine '{self.model.name}' is a size that other shapes depend on, which is "
                    "not handled; export the network with it fixed"
                )
            if engine.get_tensor_format(name) != library.trt.TensorFormat.LINEAR:
                raise ModelError(
                    f"tensor '{name}' of engine '{self.model.name}' has the format "
                    f"{engine.get_tensor_format_desc(name)}; rebuild it with plain ones (trtexec without "
                    "--inputIOFormats and --outputIOFormats)"
                )
            tensors.append(_Tensor(name, is_input, dtype, tuple(engine.get_tensor_shape(name))))
        return tensors

    def _named(self, name: str, *, is_input: bool) -> _Tensor:
        alike = {tensor.name: tensor for tensor in self._tensors if tensor.is_input == is_input}
        if name not in alike:
            raise self._missing_tensor("input" if is_input else "output", name, list(alike))
        return alike[name]

    def _choose_profile(self) -> tuple[int, tuple[int, int]]:
        """The first optimization profile that takes the pictures that will come, and its least and greatest batch."""
        tensor, engine = self._picture, self._loaded.engine
        shape = ["N" if size < 0 else size for size in tensor.shape]
        self._check_input(tensor.name, shape, str(tensor.dtype).removeprefix("torch."))
        others = [other.name for other in self._tensors if other.is_input and other is not tensor]
        self._check_constants(others)
        if self.fixed_batch is not None and min(tensor.shape) > 0:
            return 0, (self.fixed_batch, self.fixed_batch)
        wanted = self._picture_shape(self.fixed_batch or self.batch_size)
        ranges = []
        for profile in range(engine.num_optimization_profiles):
            low, _, high = (tuple(shape) for shape in engine.get_tensor_profile_shape(tensor.name, profile))
            ranges.append((low, high))
            fits = all(least <= size <= most for least, size, most in zip(low[1:], wanted[1:], high[1:], strict=True))
            if fits and wanted[0] <= high[0]:
                return profile, (low[0], high[0])
        raise self._no_profile(wanted, ranges)

    def _no_profile(
        self, wanted: tuple[int, ...], ranges: Sequence[tuple[tuple[int, ...], tuple[int, ...]]]
    ) -> Exception:
        low, high = max(ranges, key=lambda pair: pair[1][0])
        if all(least <= size <= most for least, size, most in zip(low[1:], wanted[1:], high[1:], strict=True)):
            return self._too_many(wanted[0], high[0])
        allowed = ", or ".join(
            "x".join(map(str, low)) + ("" if low == high else f" to {'x'.join(map(str, high))}") for low, high in ranges
        )
        return ModelError(
            f"engine '{self.model.name}' takes pictures of {allowed} as '{self._picture.name}', its description or "
            f"the option 'input_shapes' says {'x'.join(map(str, wanted))}; rebuild it: {self._rebuild(wanted[0])}"
        )

    def _too_many(self, count: int, most: int) -> ConfigError:
        return ConfigError(
            f"engine '{self.model.name}' takes batches of at most {most}, batch_size is {count}: choose {most}, or "
            f"rebuild it: {self._rebuild(count)}"
        )

    def _rebuild(self, batch: int) -> str:
        shapes = ShapeRange(min=self._picture_shape(1), opt=self._picture_shape(batch), max=self._picture_shape(batch))
        manifest = self._loaded.manifest
        if manifest is None:
            return f"{self._loaded.rebuild} --shapes {self._picture.name}:{shapes}"
        ranges = {**manifest.profiles, self._picture.name: shapes}
        return rebuild_command(manifest.model_copy(update={"profiles": ranges}), self.model)

    def _new_context(self) -> Any:
        loaded, library = self._loaded, self._loaded.library
        library.messages.take_errors()
        context = loaded.new_context()
        if context is None:
            raise self._no_memory(library.context_memory_bytes(loaded.engine), loaded.gpu)
        if context.active_optimization_profile != self._profile and not context.set_optimization_profile_async(
            self._profile, self._stream.cuda_stream
        ):
            raise self._failed(self.batch_size, self._reasons())
        return context

    # ---------------------------------------------------------------------------------------------------- the memory

    def _prepare(self, count: int) -> None:
        """Tell the engine how large the next batch is, and where all tensors but the picture's lie."""
        if self._prepared == count:
            return
        self._prepared = 0
        for tensor in self._tensors:
            if tensor.is_input:
                shape = self._input_shape(tensor, count)
                if not self._context.set_input_shape(tensor.name, shape):
                    raise self._failed(count, self._reasons())
                self._give_memory(tensor, shape)
                if tensor is not self._picture:
                    tensor.values.fill_(self.spec.constants[tensor.name])
        for tensor in self._tensors:
            if not tensor.is_input:
                shape = tuple(self._context.get_tensor_shape(tensor.name))
                if any(size < 0 for size in shape):
                    raise ModelError(
                        f"output '{tensor.name}' of engine '{self.model.name}' has a shape that depends on the "
                        f"picture, {shape}, which is not handled"
                    )
                self._give_memory(tensor, shape)
        self._prepared = count

    def _input_shape(self, tensor: _Tensor, count: int) -> tuple[int, ...]:
        """From the spec for the picture; for another input from the option, else the engine, else its profile."""
        if tensor is self._picture:
            return self._picture_shape(count)
        if tensor.name in self.input_shapes:
            return tuple(self.input_shapes[tensor.name])
        if all(size >= 0 for size in tensor.shape):
            return tensor.shape
        _, usual, _ = self._loaded.engine.get_tensor_profile_shape(tensor.name, self._profile)
        rest = [size if size >= 0 else middle for size, middle in zip(tensor.shape, usual, strict=True)][1:]
        return (count if tensor.shape[0] < 0 else tensor.shape[0], *rest)

    def _give_memory(self, tensor: _Tensor, shape: tuple[int, ...]) -> None:
        """Make `values` a view of device memory of this shape, of more memory only if what there is does not do."""
        from bmf_trt_seg.bmf_tensors import device_bytes

        size = max(1, int(np.prod(shape, dtype=np.int64))) * tensor.dtype.itemsize
        memory = self._memory.get(tensor.name)
        if memory is None or len(memory) < size:
            self._graphs.clear()  # they write to what is given up here, as the engine may still be doing
            self._stream.synchronize()
            try:
                memory = self._memory[tensor.name] = device_bytes(size, self._device)
            except RuntimeError as error:
                raise self._no_memory(size, self._loaded.gpu) from error
        tensor.values = (
            memory[: int(np.prod(shape, dtype=np.int64)) * tensor.dtype.itemsize].view(tensor.dtype).view(shape)
        )
        self._set_address(tensor, memory.data_ptr())

    def _set_address(self, tensor: _Tensor, address: int) -> None:
        if not self._context.set_tensor_address(tensor.name, address):
            raise self._failed(len(tensor.values), self._reasons())

    def _pinned_like(self, tensor: _Tensor, dtype: torch.dtype) -> torch.Tensor:
        """Page-locked host memory in the shape of a tensor's values, kept."""
        memory = self._pinned.get(tensor.name)
        if memory is None or len(memory) < len(tensor.values):
            memory = self._pinned[tensor.name] = torch.empty(tensor.values.shape, dtype=dtype, pin_memory=True)
        return memory[: len(tensor.values)]

    # ------------------------------------------------------------------------------------------------------- the run

    def _enqueue(self, address: int) -> None:
        """Let the engine work on the batch at this address. The current stream is ours."""
        kind = self._prepared, address  # a batch's size, and where it is
        graph = self._graphs.get(kind)
        if graph is not None:
            if not graph.replay():
                raise self._failed(len(self._picture.values), "CUDA refuses its recorded work")
            return
        self._set_address(self._picture, address)
        self._execute()
        if self.use_cuda_graphs and kind == self._last_kind and kind not in self._refused:
            self._record(kind)
        self._last_kind = kind

    def _record(self, kind: tuple[int, int]) -> None:
        graph = record(self._stream.cuda_stream, self._execute)
        if graph is None:  # not all engines can be recorded
            self._loaded.library.messages.take_errors()
            self._refused = {*list(self._refused)[: _MOST_GRAPHS - 1], kind}
            return
        if len(self._graphs) == _MOST_GRAPHS:
            self._graphs.pop(next(iter(self._graphs)))
        self._graphs[kind] = graph

    def _execute(self) -> None:
        if not self._context.execute_async_v3(self._stream.cuda_stream):
            raise self._failed(len(self._picture.values), self._reasons())

    def _padded(self, count: int) -> int:
        """The size that a batch has to have for the engine, which may have a least one."""
        least, most = self._range
        if count > most:
            raise self._too_many(count, most)
        return max(count, least)

    def _check_batch(self, count: int, shape: tuple[int, ...], dtype: str) -> None:
        expected = self._picture_shape(count)
        if shape != expected or dtype != self.spec.input.dtype:
            raise self._failed(count, f"it is {dtype} {shape}, expected {self.spec.input.dtype} {expected}")

    def _picture_shape(self, count: int) -> tuple[int, ...]:
        size = self.spec.input.height, self.spec.input.width
        return (count, 3, *size) if self.spec.input.layout == "nchw" else (count, *size, 3)

    def _failed(self, count: int, reason: str) -> EngineError:
        return EngineError(f"TensorRT failed on '{self.model.name}' with a batch of {count}: {reason}")

    def _reasons(self) -> str:
        messages = self._loaded.library.messages.take_errors()
        return "; ".join(" ".join(message.split())[:300] for message in messages[:2]) or "it did not say why"

    def _no_memory(self, size: int, gpu: Gpu) -> EngineError:
        free, total = torch.cuda.mem_get_info(self._device)
        return EngineError(
            f"engine '{self.model.name}' needs {size >> 20} MiB more on {gpu.name}, where {free >> 20} of "
            f"{total >> 20} MiB are free: lower batch_size, end what else uses the GPU, or choose another with device "
            "'cuda:N'"
        )
