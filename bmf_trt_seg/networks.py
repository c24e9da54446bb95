"""From options to a network's backend: the file, its description, its shapes, and the engine that is built from it."""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bmf_trt_seg.backends import BACKENDS, Backend, select_backend
from bmf_trt_seg.backends.shared import SharedBackend
from bmf_trt_seg.engine.library import NO_GPU
from bmf_trt_seg.engine.manifest import read_manifest
from bmf_trt_seg.errors import BackendUnavailable, ConfigError
from bmf_trt_seg.models.catalog import find
from bmf_trt_seg.options import SegmentOptions
from bmf_trt_seg.spec import ModelSpec, spec_path

if TYPE_CHECKING:
    from bmf_trt_seg.engine.builder import EngineFromOnnx

__all__ = ["backend_for", "description", "engine_for"]

_log = logging.getLogger(__name__)


def backend_for(options: SegmentOptions, cancelled: Callable[[], bool]) -> tuple[Backend, SegmentOptions]:
    """The backend that `options` name, not open yet, and the options as the network's shapes make them.

    An engine is built here if there is none of the ONNX file yet; `cancelled` is asked meanwhile. With the option
    'shared', it is one stream's face of a network that others use, too, and gets each picture at once. Raises
    ConfigError, ModelError, EngineError, BackendUnavailable or StreamError.
    """
    model, spec, options = _network(options)
    backend = select_backend(options.backend, model)
    engine = _engine(model, spec, options)
    if engine is None and "build" in options.model_fields_set:
        raise ConfigError(
            f"option 'build': nothing is built from '{model.name}' here; give backend 'tensorrt' and an .onnx file, or "
            "leave it out"
        )
    if engine is not None:
        if not engine.is_built:
            _log.info("building an engine from '%s', once; this may take minutes", model)
        engine.build(cancelled=cancelled)
        model = engine.path
    settings: dict[str, Any] = {
        "device": options.device,
        "threads": options.threads,
        "batch_size": options.batch_size,
        "input_shapes": options.input_shapes,
    }
    if options.shared and spec.task == "raw":
        raise ConfigError(f"option 'shared': the task of '{model.name}' is 'raw', which no streams share; leave it out")
    if not options.shared:
        return backend(model, spec, **settings), options
    shared = SharedBackend(
        model, spec, backend=backend, name=options.name, max_latency_ms=options.max_latency_ms, **settings
    )
    return shared, options.model_copy(update={"batch_size": 1})  # batches are made behind it


def engine_for(options: SegmentOptions) -> EngineFromOnnx | None:
    """The engine that these options want built, which may be built already; None if they want none.

    Raises what `backend_for` does; BackendUnavailable where no engine could run.
    """
    return _engine(*_network(options)) if options.backend == "tensorrt" else None


def _network(options: SegmentOptions) -> tuple[Path, ModelSpec, SegmentOptions]:
    """The file, its description, and the options, as the option 'input_shapes' makes them."""
    model = find(options.model)
    return model, *_with_input_shapes(description(model), options)


def _engine(model: Path, spec: ModelSpec, options: SegmentOptions) -> EngineFromOnnx | None:
    if options.backend != "tensorrt" or model.suffix.lower() not in BACKENDS["tensorrt"].builds_from:
        return None
    select_backend(options.backend, model)
    from bmf_trt_seg.engine.builder import EngineFromOnnx

    most = options.batch_size
    engine = EngineFromOnnx(model, options.build, spec=spec, batch=(1, most, most), device=options.device)
    if engine.gpu is None:
        raise BackendUnavailable(NO_GPU)
    return engine


def description(model: Path) -> ModelSpec:
    """What lies beside a network's file, or is in its engine's manifest. ConfigError if neither does."""
    path = spec_path(model)
    if path.exists():
        return ModelSpec.read(path)
    manifest = read_manifest(model)
    if manifest is not None and manifest.spec is not None:
        return manifest.spec
    raise ConfigError(
        f"model '{model}' has no description: '{path.name}' should lie beside it and say what the network "
        "takes and gives (see 'Your own network' in the README)"
    )


def _with_input_shapes(spec: ModelSpec, options: SegmentOptions) -> tuple[ModelSpec, SegmentOptions]:
    """The description and the options as the option 'input_shapes' makes them."""
    shapes = options.input_shapes or {}
    shape = shapes.get(spec.input.name) or shapes.get("")  # a shape without a name is the picture's
    if shape is None:
        return spec, options
    is_nchw = spec.input.layout == "nchw"
    if len(shape) != 4 or 0 in shape or shape[1 if is_nchw else 3] != 3:
        raise ConfigError(
            f"option 'input_shapes': '{spec.input.name}' is the picture, got {'x'.join(map(str, shape))}; expected a "
            f"shape as {'1x3x512x512' if is_nchw else '1x512x512x3'}"
        )
    batch, height, width = shape[0], *(shape[2:] if is_nchw else shape[1:3])
    if batch != options.batch_size and "batch_size" in options.model_fields_set:
        raise ConfigError(
            f"option 'input_shapes' says a batch of {batch}, batch_size says {options.batch_size}; leave one out"
        )
    resized = spec.input.model_copy(update={"height": height, "width": width})
    return spec.model_copy(update={"input": resized}), options.model_copy(update={"batch_size": batch})
