"""The manifest beside an engine: what it was built from, for what, and how; and what a plan tells of itself."""

from __future__ import annotations

import hashlib
import json
import shlex
import struct
from pathlib import Path
from typing import Any

import pydantic

from bmf_trt_seg.engine.options import BuildOptions, Precision, ShapeRange
from bmf_trt_seg.errors import ConfigError, EngineError, StreamError
from bmf_trt_seg.json_text import parsed
from bmf_trt_seg.spec import ModelSpec
from bmf_trt_seg.validation import Strict, validated

__all__ = ["Manifest", "PlanHeader", "is_plan", "manifest_path", "plan_header", "read_manifest"]

_NO_PART_OF_THE_KEY: Any = {
    **dict.fromkeys(
        ["onnx", "spec", "calibration_source", "calibration_frames", "build_seconds", "plan_bytes", "plan_sha256"], True
    ),
    "options": {"shapes"},  # the profiles say it, with what was left open filled in
}


class Manifest(Strict):
    """Everything an engine depends on; see the fields."""

    library: str = pydantic.Field(
        pattern="^tensorrt(_rtx)?$", examples=["'tensorrt' or 'tensorrt_rtx'"], description="What built it."
    )
    version: str = pydantic.Field(description="Version of that library.")
    gpu: str | None = pydantic.Field(description="Name of the GPU it was built on; null if on none (TensorRT-RTX).")
    compute_capability: str | None = pydantic.Field(description="Of that GPU, as in '9.0'.")
    precision: Precision
    profiles: dict[str, ShapeRange] = pydantic.Field(description="Shapes of the inputs, by name.")
    onnx: str = pydantic.Field(description="The ONNX file, as it was given.")
    onnx_sha256: str = pydantic.Field(description="Its SHA-256, external weights included.")
    calibration: str | None = pydantic.Field(None, description="Digest of the pictures that INT8 was calibrated on.")
    calibration_source: str = pydantic.Field("", description="Where those came from.")
    calibration_frames: int = pydantic.Field(0, ge=0, description="How many of them were asked for.")
    options: BuildOptions
    spec: ModelSpec | None = pydantic.Field(None, description="The network's description, if there was one.")
    build_seconds: float = pydantic.Field(0.0, ge=0.0)
    plan_bytes: int = pydantic.Field(0, ge=0)
    plan_sha256: str = pydantic.Field("", description="Of the engine itself: a damaged one gives wrong masks.")

    @property
    def key(self) -> str:
        """A digest of all that makes another engine; what the build took, file names and the description do not.

        Options at their defaults are no part of it: a new one would make all engines new.
        """
        values = self.model_dump(mode="json", exclude=_NO_PART_OF_THE_KEY, exclude_defaults=True)
        return hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()

    @property
    def built_for(self) -> str:
        """'TensorRT 8.6.1 on NVIDIA H200 (compute capability 9.0)'."""
        name = "TensorRT-RTX" if self.library == "tensorrt_rtx" else "TensorRT"
        where = f" on {self.gpu} (compute capability {self.compute_capability})" if self.gpu else ""
        return f"{name} {self.version}{where}"

    @property
    def command(self) -> str:
        """The command that builds it again, for a shell."""
        options = self.options.model_copy(
            update={"shapes": {name: shapes for name, shapes in self.profiles.items() if shapes.opt}}
        )
        calibrate = ""
        if self.calibration is not None:
            source = shlex.quote(self.calibration_source)
            calibrate = f" --calibrate {source} --calibrate-frames {self.calibration_frames}"
        return f"bmf-trt-seg build {shlex.quote(self.onnx)}{options.flags()}{calibrate}"

    def text(self) -> str:
        return json.dumps(self.model_dump(mode="json"), indent=2) + "\n"


def manifest_path(plan: Path) -> Path:
    """Where an engine's manifest lies: beside it, with .json after its whole name."""
    return plan.with_name(plan.name + ".json")


def read_manifest(plan: Path) -> Manifest | None:
    """The manifest of an engine, or None if there is none. ConfigError if it says something impossible."""
    path = manifest_path(plan)
    try:
        values = parsed(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None
    except OSError as error:
        raise StreamError(f"manifest '{path}' cannot be read: {error.strerror}") from error
    except ValueError as error:
        raise ConfigError(f"manifest '{path}' is no JSON: {error}") from error
    return validated(Manifest, values, f"manifest '{path}'")


class PlanHeader(Strict):
    """What the first bytes of a plan tell."""

    version: str
    """Of the TensorRT that wrote it, four numbers."""
    is_rtx: bool
    missing_bytes: int
    """How much of the plan is cut off."""


_HEADER = struct.Struct("<4s12xQ4B")  # mark, size of the whole plan, version
_MARKS = {b"ftrt": False, b"vtrt": True}


def is_plan(first_bytes: bytes) -> bool:
    """Whether a file that begins so is a serialized engine."""
    return first_bytes[:4] in _MARKS


def plan_header(content: bytes, name: str) -> PlanHeader:
    """The header of a plan's content; EngineError if it is none."""
    if content[:4] not in _MARKS:
        found = "is empty" if not content else f"begins with {content[:8]!r}"
        raise EngineError(f"'{name}' is no TensorRT engine: it {found}; build one: bmf-trt-seg build MODEL.onnx")
    if len(content) < _HEADER.size:
        raise EngineError(f"engine '{name}' is cut short: there are {len(content)} bytes of it; copy it again")
    mark, size, *version = _HEADER.unpack_from(content)
    return PlanHeader(
        version=".".join(map(str, version)), is_rtx=_MARKS[mark], missing_bytes=max(0, size - len(content))
    )
