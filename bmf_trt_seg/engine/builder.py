"""EngineFromOnnx: builds a TensorRT engine once, keeps it with its manifest, and finds it again."""

from __future__ import annotations

import contextlib
import hashlib
import logging
import os
import re
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import filelock
import numpy as np
import numpy.typing as npt

from bmf_trt_seg.engine.calibration import CalibrationData, entropy_calibrator
from bmf_trt_seg.engine.library import Gpu, Library, find_gpu, load_library
from bmf_trt_seg.engine.manifest import Manifest, manifest_path, read_manifest
from bmf_trt_seg.engine.network import OnnxNetwork, check_description, check_parsed, profiles_for, refused
from bmf_trt_seg.engine.options import BuildOptions
from bmf_trt_seg.errors import BackendUnavailable, ConfigError, EngineError, ModelError, SegError, StreamError
from bmf_trt_seg.outputs import check_writable, write_whole
from bmf_trt_seg.spec import ModelSpec

__all__ = ["BUILD_THREAD", "EngineFromOnnx", "Report", "engines_folder"]

BUILD_THREAD = "engine build"
"""Name of the thread that TensorRT works in."""
_POLL_SECONDS = 0.2
_STOP_SECONDS = 3.0
_MIB = 1 << 20
_log = logging.getLogger(__name__)

Report = Callable[[str, float | None], None]
"""Told what a build does and how much of it is done, 0 to 1; None if the library does not tell."""


def engines_folder() -> Path:
    """Where engines are kept: $BMF_TRT_SEG_ENGINES, else engines/ in the working directory."""
    return Path(os.environ.get("BMF_TRT_SEG_ENGINES") or "engines").expanduser()


class EngineFromOnnx:
    """A TensorRT engine that an ONNX file, options, a GPU and a TensorRT together determine."""

    def __init__(
        self,
        model: Path,
        options: BuildOptions,
        *,
        spec: ModelSpec | None = None,
        batch: tuple[int, int, int] = (1, 4, 8),
        calibration: CalibrationData | None = None,
        device: str = "auto",
        target: Path | None = None,
    ) -> None:
        """batch: smallest, usual and largest batch, if the network leaves it open. target: the plan to write; by
        default one of its own in `engines_folder()`.

        Everything that can be known before the build is checked here. Raises ModelError for a broken file, ConfigError
        for options that do not fit it or this TensorRT, BackendUnavailable without TensorRT or a GPU it needs.
        """
        self.network = OnnxNetwork(model)
        self.library = load_library()
        self.gpu = _gpu(self.library, device)
        self._calibration = calibration
        self.manifest = Manifest(
            library=self.library.module,
            version=self.library.version,
            gpu=self.gpu.name if self.gpu else None,
            compute_capability=self.gpu.compute_capability if self.gpu else None,
            precision=options.precision,
            profiles=profiles_for(self.network, options, spec, batch),
            onnx=str(model.absolute()),
            onnx_sha256=self.network.sha256(),
            calibration=calibration.identity if calibration else None,
            calibration_source=calibration.source if calibration else "",
            calibration_frames=calibration.count if calibration else 0,
            options=options,
            spec=spec,
        )
        if spec is not None:
            check_description(self.network, spec)
        self._check_options()
        self._has_own_name = target is not None
        name = f"{model.stem}.{options.precision}.{self.manifest.key[:12]}.engine"
        self.path = target or engines_folder() / name

    @property
    def is_built(self) -> bool:
        """Whether the engine is there, built from all the same."""
        try:
            there = read_manifest(self.path)
            size = self.path.stat().st_size
        except (ConfigError, OSError):  # not there, or of another time: a build puts it right
            return False
        return there is not None and there.key == self.manifest.key and there.plan_bytes == size

    def build(
        self,
        report: Report = lambda phase, fraction: None,
        cancelled: Callable[[], bool] = lambda: False,
        *,
        force: bool = False,
    ) -> bool:
        """Make the engine unless it is there; whether it was made.

        Of several processes that want the same engine one builds and the others wait. The plan and its manifest appear
        when they are complete, or not at all. Raises ModelError for a network that TensorRT refuses, EngineError if the
        build fails or `cancelled` says so, StreamError if the result cannot be written.
        """
        if self.is_built and not force and self._manifest_is_current():
            return False
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            check_writable(self.path)
            if self.path.is_dir():
                raise StreamError(f"'{self.path}' cannot be written: it is a folder")
            with self._lock(report, cancelled):
                if self.is_built and not force:
                    self._renew_spec()
                    return False
                start = time.monotonic()
                plan = self._built(report, cancelled)
                self._write(plan, time.monotonic() - start)
        except OSError as error:
            if isinstance(error, StreamError):
                raise
            hint = "" if self._has_own_name else "; set the environment variable BMF_TRT_SEG_ENGINES to another folder"
            raise StreamError(f"engine '{self.path}' cannot be written: {error.strerror or error}{hint}") from error
        return True

    def _check_options(self) -> None:
        options, library = self.manifest.options, self.library
        if options.precision == "bf16":
            if library.is_strongly_typed and not any("bfloat16" in tensor for tensor in _weight_types(self.network)):
                raise ConfigError(
                    f"option 'precision': {library} takes bf16 from the network's own types, and "
                    f"'{self.network.path.name}' has none; export it in bfloat16, or choose fp16"
                )
            if not library.is_strongly_typed:
                library.builder_flag("BF16", "precision")
        if options.precision == "int8" and self._calibration is None and not self.network.is_quantized:
            raise ConfigError(
                f"option 'precision': '{self.network.path.name}' does not say how it is quantized (Q/DQ); give "
                "pictures to calibrate on: bmf-trt-seg build MODEL.onnx --int8 --calibrate VIDEO_OR_FOLDER"
            )
        if self._calibration is not None and self.network.is_quantized:
            raise ConfigError(
                f"'{self.network.path.name}' says itself how it is quantized (Q/DQ): leave --calibrate out"
            )
        if self._calibration is not None and options.precision != "int8":
            raise ConfigError(f"pictures to calibrate on are for int8, the precision is {options.precision}")
        _flags(options, library)
        if options.strip and library.is_strongly_typed and (options.precision == "fp16" or self._calibration):
            raise ConfigError(
                f"option 'strip': {library} builds {options.precision} from a translation of "
                f"'{self.network.path.name}', whose weights are not those of the file; leave it out"
            )
        if options.strip and self.gpu is None:
            raise BackendUnavailable(f"option 'strip': {library} wants a GPU for this, and PyTorch finds none here")

    @contextlib.contextmanager
    def _lock(self, report: Report, cancelled: Callable[[], bool]) -> Iterator[None]:
        """Hold the lock of this engine; waits for whoever builds it now."""
        lock = filelock.FileLock(self.path.with_name(f".{self.path.name}.lock"))
        waited = False
        while not lock.is_locked:
            try:
                lock.acquire(timeout=0)
            except NotImplementedError as error:
                raise StreamError(
                    f"engine '{self.path}' cannot be written: this file system has no locks; set the environment "
                    "variable BMF_TRT_SEG_ENGINES to a folder on another"
                ) from error
            except filelock.Timeout:
                if not waited:
                    _log.info("another process builds '%s'; waiting for it", self.path)
                    waited = True
                if cancelled():
                    raise _was_cancelled(self.path) from None
                report("waiting for another process that builds it", None)
                time.sleep(_POLL_SECONDS)
        try:
            yield
        finally:
            lock.release()

    def _built(self, report: Report, cancelled: Callable[[], bool]) -> bytes:
        """Let TensorRT build, in a thread of its own: it does not listen to signals while it works."""
        result: list[bytes] = []
        failures: list[BaseException] = []
        stop, done = threading.Event(), threading.Event()

        def work() -> None:
            try:
                result.append(self._serialized(report, stop, failures))
            except BaseException as error:
                failures.append(error)
            finally:
                done.set()

        try:
            threading.Thread(target=work, name=BUILD_THREAD, daemon=True).start()
            while not done.wait(_POLL_SECONDS):
                if not self.library.reports_progress:
                    report("building", None)
                if cancelled():
                    raise _was_cancelled(self.path)
        finally:
            stop.set()
            if self.library.reports_progress:  # it ends at its next step, if that is not far; else it cannot be ended
                done.wait(_STOP_SECONDS)
        if failures:
            raise failures[0]
        report("done", 1.0)
        return result[0]

    def _serialized(self, report: Report, stop: threading.Event, failures: list[BaseException]) -> bytes:
        trt, library = self.library.trt, self.library
        if self.gpu is not None:
            import torch

            torch.cuda.set_device(self.gpu.index)
        library.messages.take_errors()
        builder = trt.Builder(library.logger)
        network = builder.create_network(library.network_flags())
        parser = trt.OnnxParser(network, library.logger)
        report("reading the network", None)
        converted = self._converted(report, stop)
        parsed = parser.parse_from_file(str(self.network.path)) if converted is None else parser.parse(converted)
        check_parsed(parsed, parser, self.network)
        sizes = [network.get_input(i).name for i in range(network.num_inputs) if network.get_input(i).is_shape_tensor]
        if sizes:
            raise ModelError(
                f"input '{sizes[0]}' of model '{self.network.path.name}' is a size that other shapes depend on, which "
                "is not handled; export the network with it fixed"
            )

        config = builder.create_builder_config()
        self._configure(config)
        profile = builder.create_optimization_profile()
        for name, shapes in self.manifest.profiles.items():
            profile.set_shape(name, shapes.min, shapes.opt, shapes.max)
        config.add_optimization_profile(profile)
        kept: list[Any] = [profile]  # TensorRT does not hold what it is given
        if self._calibration is not None and library.calibrates:
            kept.append(self._calibrator(report, stop, failures))
            config.int8_calibrator = kept[-1]
            usual = builder.create_optimization_profile()  # calibration wants pictures of one shape
            for name, shapes in self.manifest.profiles.items():
                usual.set_shape(name, shapes.opt, shapes.opt, shapes.opt)
            config.set_calibration_profile(usual)
            kept.append(usual)
        if library.reports_progress:
            kept.append(_progress_monitor(trt, report, stop, failures))
            config.progress_monitor = kept[-1]
        timings = self._timings_path() if library.keeps_timings else None
        if timings is not None:
            _use_timings(config, timings)

        plan = builder.build_serialized_network(network, config)
        if failures:  # of the calibrator, or of who is told of progress
            raise failures[0]
        if plan is None:
            if stop.is_set():
                raise _was_cancelled(self.path)
            raise refused(library.messages.take_errors(), f"{library} cannot build '{self.network.path.name}'")
        if timings is not None:
            _keep_timings(config, timings)
        return bytes(plan)

    def _converted(self, report: Report, stop: threading.Event) -> bytes | None:
        """The network in the precision that is wanted, if the builder takes it from there; None if as it is."""
        precision = self.manifest.options.precision
        if not self.library.is_strongly_typed:
            return None
        try:
            if precision == "fp16":
                return self.network.in_half_precision()
            if precision == "int8" and self._calibration is not None:
                return self.network.quantized(self._calibration_batches(report, stop))
        except SegError:
            raise
        except (ValueError, RuntimeError) as error:  # what onnx and ONNX Runtime raise
            reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
            raise ModelError(f"model '{self.network.path}' cannot be translated to {precision}: {reason}") from error
        return None

    def _configure(self, config: Any) -> None:
        trt, options, library = self.library.trt, self.manifest.options, self.library
        for flag in _flags(options, library):
            config.set_flag(flag)
        if not options.tf32:
            config.clear_flag(trt.BuilderFlag.TF32)
        if options.workspace_mib is not None:
            config.set_memory_pool_limit(trt.MemoryPoolType.WORKSPACE, options.workspace_mib * _MIB)
        if options.opt_level is not None:
            config.builder_optimization_level = options.opt_level
        if options.hardware_compatible:
            config.hardware_compatibility_level = trt.HardwareCompatibilityLevel.AMPERE_PLUS
        if options.tactic_sources is not None:
            config.set_tactic_sources(sum(1 << int(_tactic_source(trt, name)) for name in options.tactic_sources))
        library.let_contexts_share_profiles(config)
        config.profiling_verbosity = trt.ProfilingVerbosity.DETAILED  # so that `inspect` sees types and kernels

    def _calibration_batches(
        self, report: Report, stop: threading.Event
    ) -> Iterator[dict[str, npt.NDArray[np.generic]]]:
        """What the inputs hold in their usual shapes, for one batch after the other, until the build is cancelled."""
        assert self._calibration is not None
        shape = self.manifest.profiles[self._picture_input()].opt
        constants = self._constants()
        count = 0
        for batch in self._calibration.batches(shape[0]):
            if stop.is_set():
                raise _was_cancelled(self.path)
            if batch.shape != shape:
                raise ConfigError(
                    f"pictures to calibrate on are {'x'.join(map(str, batch.shape))}, as the model's description says; "
                    f"the usual shape of the engine is {'x'.join(map(str, shape))}"
                )
            count += len(batch)
            report(f"calibrating, {count} pictures", None)
            yield {**constants, self._picture_input(): batch}
        if not count:
            raise ConfigError(f"there are no pictures to calibrate on in '{self._calibration.source}'")

    def _calibrator(self, report: Report, stop: threading.Event, failures: list[BaseException]) -> Any:
        assert self._calibration is not None
        size = self.manifest.profiles[self._picture_input()].opt[0]
        text = f"{self.library} {self.manifest.onnx_sha256} {size} {self._calibration.identity}"
        name = f"{self.network.path.stem}.{hashlib.sha256(text.encode()).hexdigest()[:12]}.calibration"
        batches = self._calibration_batches(report, stop)
        return entropy_calibrator(self.library, batches, size, self.path.with_name(name), failures)

    def _constants(self) -> dict[str, npt.NDArray[np.generic]]:
        """The inputs beside the picture, as the description has them."""
        spec = self.manifest.spec
        values = spec.constants if spec is not None else {}
        return {
            tensor.name: np.full(self.manifest.profiles[tensor.name].opt, values[tensor.name], tensor.dtype)
            for tensor in self.network.inputs
            if tensor.name in values
        }

    def _picture_input(self) -> str:
        spec = self.manifest.spec
        return spec.input.name if spec is not None else next(iter(self.manifest.profiles))

    def _timings_path(self) -> Path:
        gpu = re.sub(r"\W+", "-", self.manifest.gpu or "any")
        return self.path.with_name(f".timings.{self.library.module}-{self.library.version}-{gpu}")

    def _write(self, plan: bytes, seconds: float) -> None:
        """Put both files in place; whoever sees a plan sees its own manifest, and after a failure there is neither."""
        of_the_plan = {"plan_bytes": len(plan), "plan_sha256": hashlib.sha256(plan).hexdigest()}
        self.manifest = self.manifest.model_copy(update={"build_seconds": round(seconds, 2), **of_the_plan})
        manifest = manifest_path(self.path)

        def publish(whole: Path) -> None:
            whole.write_bytes(plan)
            self.path.unlink(missing_ok=True)
            write_whole(manifest, lambda path: path.write_text(self.manifest.text(), encoding="utf-8"))

        try:
            write_whole(self.path, publish)
        except BaseException:
            if not self.path.exists():
                manifest.unlink(missing_ok=True)
            raise

    def _manifest_is_current(self) -> bool:
        """Whether the manifest of what is built says this description; taken over as ours if so."""
        there = read_manifest(self.path)
        if there is None or (there.spec, there.onnx) != (self.manifest.spec, self.manifest.onnx):
            return False
        self.manifest = there
        return True

    def _renew_spec(self) -> None:
        """A description that has changed makes no other engine, but the manifest should say it, if it can."""
        there = read_manifest(self.path)
        assert there is not None
        self.manifest = there.model_copy(update={"spec": self.manifest.spec, "onnx": self.manifest.onnx})
        if self.manifest != there:
            with contextlib.suppress(OSError):
                write_whole(
                    manifest_path(self.path), lambda path: path.write_text(self.manifest.text(), encoding="utf-8")
                )


def _gpu(library: Library, device: str) -> Gpu | None:
    if device == "cpu":
        raise ConfigError("device 'cpu': TensorRT has GPUs only; choose 'cuda', or the backend 'onnxruntime'")
    gpu = find_gpu(device)
    if gpu is None and library.module == "tensorrt":
        raise BackendUnavailable(
            f"{library} builds engines on the GPU they are for, and PyTorch finds none here; the backend 'onnxruntime' "
            "needs none"
        )
    return gpu


def _flags(options: BuildOptions, library: Library) -> list[Any]:
    """Builder flags; ConfigError for what this TensorRT cannot build."""
    names = []
    if not library.is_strongly_typed:
        # layers that cannot be quantized are to fall back to fp16, not to fp32
        names += {"fp32": [], "fp16": ["FP16"], "bf16": ["BF16"], "int8": ["INT8", "FP16"]}[options.precision]
    wanted = [(name, "precision") for name in names]
    if options.version_compatible:
        if library.module == "tensorrt_rtx":
            raise ConfigError(f"option 'version_compatible': {library} has no such engines; leave it out")
        wanted.append(("VERSION_COMPATIBLE", "version_compatible"))
    if options.strip:
        wanted.append(("STRIP_PLAN", "strip"))
    if options.hardware_compatible and not hasattr(library.trt, "HardwareCompatibilityLevel"):
        raise ConfigError(f"option 'hardware_compatible': {library} has no such engines; leave it out")
    for name in options.tactic_sources or []:
        _tactic_source(library.trt, name)
    return [library.builder_flag(name, option) for name, option in wanted]


def _tactic_source(trt: Any, name: str) -> Any:
    known = trt.TacticSource.__members__
    if name.upper() not in known:
        raise ConfigError(f"option 'tactic_sources': got '{name}', allowed are {', '.join(known)}")
    return known[name.upper()]


def _weight_types(network: OnnxNetwork) -> list[str]:
    from onnx import TensorProto

    return [str(TensorProto.DataType.Name(weight.data_type)).lower() for weight in network.proto.graph.initializer]


def _progress_monitor(trt: Any, report: Report, stop: threading.Event, failures: list[BaseException]) -> Any:
    """TensorRT tells of phases within phases; the outermost one, with what its inner ones add, is what is reported."""

    class Monitor(trt.IProgressMonitor):  # type: ignore[misc]
        def __init__(self) -> None:
            trt.IProgressMonitor.__init__(self)
            self._phases: dict[str, tuple[str | None, int, int]] = {}  # parent, steps done, steps in all
            self._most = 0.0  # phases that come late make the sum go back

        def phase_start(self, phase_name: str, parent_phase: str | None, num_steps: int) -> None:
            self._phases[phase_name] = (parent_phase, 0, max(num_steps, 1))
            self._tell(phase_name)

        def step_complete(self, phase_name: str, step: int) -> bool:
            if phase_name in self._phases:
                parent, _, steps = self._phases[phase_name]
                self._phases[phase_name] = (parent, min(step + 1, steps), steps)
            self._tell(phase_name)
            return not stop.is_set()

        def phase_finish(self, phase_name: str) -> None:
            self._phases.pop(phase_name, None)

        def _tell(self, phase_name: str) -> None:
            fraction, name = 0.0, phase_name
            while name in self._phases:
                parent, done, steps = self._phases[name]
                fraction = min(1.0, (done + fraction) / steps)
                name = parent or ""
            self._most = max(self._most, fraction)
            try:
                report(phase_name, self._most)
            except BaseException as error:  # it cannot pass through TensorRT
                failures.append(error)
                stop.set()

    return Monitor()


def _use_timings(config: Any, path: Path) -> None:
    """Let a build use what earlier ones measured, as far as it fits this GPU and can be read."""
    known = b""
    with contextlib.suppress(OSError):
        known = path.read_bytes()
    cache = config.create_timing_cache(known)
    if cache is None or not config.set_timing_cache(cache, False):
        config.set_timing_cache(config.create_timing_cache(b""), False)


def _keep_timings(config: Any, path: Path) -> None:
    """Keep what a build measured; the engine does not depend on it, so a failure is none."""
    cache = config.get_timing_cache()
    if cache is not None:
        content = bytes(cache.serialize())
        with contextlib.suppress(OSError):
            write_whole(path, lambda whole: whole.write_bytes(content))


def _was_cancelled(path: Path) -> EngineError:
    return EngineError(f"the build of '{path}' was cancelled; nothing was written")
