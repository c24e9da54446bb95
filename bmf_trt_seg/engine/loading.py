"""A serialized engine from its file into the memory of a GPU, and what is wrong with it if it does not get there."""

from __future__ import annotations

import hashlib
import re
import shlex
import threading
import weakref
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bmf_trt_seg.engine.library import NO_GPU, Gpu, Library, find_gpu, load_library
from bmf_trt_seg.engine.manifest import Manifest, PlanHeader, manifest_path, plan_header, read_manifest
from bmf_trt_seg.engine.network import OnnxNetwork
from bmf_trt_seg.errors import BackendUnavailable, ConfigError, EngineError, StreamError

__all__ = ["LoadedEngine", "load_engine", "read_plan", "shared_engine"]

_LOADING = threading.Lock()  # TensorRT loads engines, and makes contexts of one, in one thread at a time
_LOADED: weakref.WeakValueDictionary[tuple[object, ...], LoadedEngine] = weakref.WeakValueDictionary()
_OWN_NAME = re.compile(r"\.[0-9a-f]{12}\.engine$")  # a name after all it depends on: another build, another name


@dataclass(frozen=True)
class LoadedEngine:
    """An engine in the memory of a GPU."""

    path: Path
    library: Library
    gpu: Gpu
    engine: Any
    """TensorRT's ICudaEngine."""
    manifest: Manifest | None
    header: PlanHeader
    plan_bytes: int

    @property
    def is_shared(self) -> bool:
        """Whether `shared_engine` gives it to all who ask for it."""
        return self.manifest is not None or self.library.shares_profiles

    def new_context(self) -> Any:
        """An execution context; None if there is no memory for it."""
        with _LOADING:
            return self.engine.create_execution_context()

    @property
    def rebuild(self) -> str:
        """The command that builds it again."""
        return rebuild_command(self.manifest, self.path)


def rebuild_command(manifest: Manifest | None, path: Path) -> str:
    """The command that builds an engine again, as far as it is known."""
    target = "" if _OWN_NAME.search(path.name) else f" -o {shlex.quote(str(path))}"
    return f"{manifest.command if manifest else 'bmf-trt-seg build MODEL.onnx'}{target}"


def read_plan(path: Path) -> tuple[bytes, PlanHeader, Manifest | None]:
    """A plan's content, header and manifest. EngineError if it is no whole plan, StreamError if it cannot be read."""
    content, header, manifest = _read(path)
    is_described = _describes(manifest, content)
    if not is_described:
        content, header, manifest = _read(path)  # a build may just have put both in place
        is_described = _describes(manifest, content)
    if header.missing_bytes:
        raise EngineError(
            f"engine '{path}' is cut short: {header.missing_bytes} of {len(content) + header.missing_bytes} bytes are "
            f"missing; copy it again, or rebuild it: {rebuild_command(manifest, path)}"
        )
    if not is_described:
        raise EngineError(
            f"engine '{path}' is not the one that its manifest '{manifest_path(path).name}' describes: it is damaged, "
            f"or another took its place; rebuild it: {rebuild_command(manifest, path)} --force, or delete the manifest"
        )
    return content, header, manifest


def _describes(manifest: Manifest | None, content: bytes) -> bool:
    """False for the manifest of another plan. It takes a third of a second for 100 MB."""
    return manifest is None or manifest.plan_sha256 == hashlib.sha256(content).hexdigest()


def _read(path: Path) -> tuple[bytes, PlanHeader, Manifest | None]:
    try:
        content = path.read_bytes()
    except OSError as error:
        raise StreamError(f"engine '{path}' cannot be read: {error.strerror}") from error
    return content, plan_header(content, str(path)), read_manifest(path)


def shared_engine(path: Path, device: str = "auto") -> LoadedEngine:
    """`load_engine`, but an engine that is on that GPU already is not loaded again: its weights are there once.

    TensorRT 8.6 crashes when a second context wants a profile, unless the engine was built for that, as ours are.
    """
    gpu = find_gpu(device)
    try:
        found = path.stat()
    except OSError:
        return load_engine(path, device)  # which says what is wrong
    key = (path.resolve(), found.st_mtime_ns, found.st_size, device == "cpu", gpu.index if gpu else None)
    with _LOADING:
        loaded = _LOADED.get(key)
        if loaded is None:
            loaded = load_engine(path, device)
            if loaded.is_shared:
                _LOADED[key] = loaded
        return loaded


def load_engine(path: Path, device: str = "auto") -> LoadedEngine:
    """Load an engine built by `bmf-trt-seg build` or trtexec on a device ('auto', 'cuda', 'cuda:N').

    Raises EngineError that says what it was built for, what this is and how to rebuild it, BackendUnavailable without
    a GPU or TensorRT.
    """
    gpu = find_gpu(device)
    content, header, manifest = read_plan(path)
    library = load_library("tensorrt_rtx" if header.is_rtx else "tensorrt")
    if device == "cpu":
        raise ConfigError("device 'cpu': TensorRT has GPUs only; choose 'cuda', or the backend 'onnxruntime'")
    if gpu is None:
        raise BackendUnavailable(NO_GPU)
    import torch

    with torch.cuda.device(gpu.index):
        library.messages.take_errors()
        runtime = library.trt.Runtime(library.logger)
        if manifest is not None and manifest.options.version_compatible:
            runtime.engine_host_code_allowed = True  # such a plan brings the runtime of its own version with it
        engine = runtime.deserialize_cuda_engine(content)
        if engine is None:
            raise _not_loaded(path, library, gpu, header, manifest, len(content))
        if manifest is not None and manifest.options.strip:
            _refit(engine, library, manifest, path)
    return LoadedEngine(path, library, gpu, engine, manifest, header, len(content))


def _not_loaded(
    path: Path, library: Library, gpu: Gpu, header: PlanHeader, manifest: Manifest | None, size: int
) -> EngineError:
    import torch

    messages = library.messages.take_errors()
    text = " ".join(messages).lower()
    built_for = (
        manifest.built_for if manifest else f"{'TensorRT-RTX' if header.is_rtx else 'TensorRT'} {header.version}"
    )
    here = f"this is {library} on {gpu}"
    rebuild = f"rebuild it here: {rebuild_command(manifest, path)}"
    if "memory" in text and "version" not in text:
        free, total = torch.cuda.mem_get_info(gpu.index)
        return EngineError(
            f"engine '{path}' ({size >> 20} MiB) does not fit into the memory of {gpu.name}: {free >> 20} of "
            f"{total >> 20} MiB are free; end what else uses the GPU, or choose another with device 'cuda:N'"
        )
    if "version" in text or "incompatible device" in text or "compute" in text:
        detail = f" ({' '.join(messages[0].split())[:200]})" if messages and manifest is None else ""
        return EngineError(f"engine '{path}' was built for {built_for}; {here}{detail}; {rebuild}")
    reason = " ".join(messages[0].split())[:300] if messages else "TensorRT did not say why"
    return EngineError(f"engine '{path}', built for {built_for}, cannot be loaded; {here}: {reason}; {rebuild}")


def _refit(engine: Any, library: Library, manifest: Manifest, path: Path) -> None:
    """Give a stripped engine its weights, from the ONNX file that it was built from."""
    trt = library.trt
    source = next((p for p in (Path(manifest.onnx), path.with_name(Path(manifest.onnx).name)) if p.is_file()), None)
    if source is None:
        raise EngineError(
            f"engine '{path}' was built without weights (--strip), and the file that has them, '{manifest.onnx}', is "
            "not here: put it there, or beside the engine"
        )
    if OnnxNetwork(source).sha256() != manifest.onnx_sha256:
        raise EngineError(
            f"engine '{path}' was built without weights (--strip), and '{source}' has changed since; rebuild it: "
            f"{rebuild_command(manifest, path)}"
        )
    refitter = trt.Refitter(engine, library.logger)
    if not trt.OnnxParserRefitter(refitter, library.logger).refit_from_file(str(source)) or (
        not refitter.refit_cuda_engine()
    ):
        reasons = " ".join(" ".join(library.messages.take_errors()).split())[:300]
        raise EngineError(f"engine '{path}' could not be given the weights of '{source}': {reasons}")
