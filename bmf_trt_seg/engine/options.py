"""How an engine is built: precision, shapes, limits, compatibility."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from typing import Annotated, Any, Literal

import pydantic

from bmf_trt_seg.json_text import parsed
from bmf_trt_seg.validation import Strict

__all__ = ["BuildOptions", "Precision", "Shape", "ShapeRange", "options_from_text", "parse_shape", "parse_shapes"]

Precision = Literal["fp32", "fp16", "bf16", "int8"]
Shape = Annotated[tuple[Annotated[int, pydantic.Field(ge=1)], ...], pydantic.Field(max_length=8)]


class ShapeRange(Strict):
    """What an optimization profile says of one input: the smallest, the usual and the largest shape."""

    min: Shape
    opt: Shape
    max: Shape

    @pydantic.model_validator(mode="after")
    def _ordered(self) -> ShapeRange:
        if not _is_ordered((self.min, self.opt, self.max)):
            raise ValueError(f"shapes must go from small to large in every dimension, got {self}")
        return self

    def __str__(self) -> str:
        parts = ["x".join(map(str, shape)) for shape in (self.min, self.opt, self.max)]
        return parts[0] if len(set(parts)) == 1 else "/".join(parts)


def parse_shape(text: str) -> tuple[int, ...]:
    """'1x3x256x256' as a tuple; ValueError if it is no shape."""
    sizes = text.strip().lower().split("x")
    if not all(size.isdecimal() for size in sizes):
        raise ValueError(f"'{text}' is no shape; write it as 1x3x256x256")
    return tuple(int(size) for size in sizes)


def parse_shapes(text: str) -> dict[str, dict[str, tuple[int, ...]]]:
    """'input:1x3x256x256/4x3x256x256/8x3x256x256,...' as shape ranges by input; one shape alone is all three.

    The name may be left out for a network of one input; it is '' then. Raises ValueError.
    """
    ranges: dict[str, dict[str, tuple[int, ...]]] = {}
    parts = [part for part in text.split(",") if part]
    if len(parts) > 1 and any(":" not in part for part in parts):
        raise ValueError(
            f"'{text}' does not say of which inputs; write sizes as 1x3x256x256, and several inputs as a:1x3x8x8,b:1x4"
        )
    for part in parts:
        name, _, shapes = part.rpartition(":")
        sizes = [parse_shape(shape) for shape in shapes.split("/")]
        if len(sizes) not in (1, 3):
            raise ValueError(f"'{part}' has {len(sizes)} shapes; give one, or three as min/opt/max")
        if not _is_ordered(sizes):
            raise ValueError(f"'{part}' must go from small to large in every dimension, and from 1")
        if name.strip() in ranges:
            raise ValueError(f"'{part}' follows another for the same input; name each input once")
        ranges[name.strip()] = {"min": sizes[0], "opt": sizes[len(sizes) // 2], "max": sizes[-1]}
    if not ranges:
        raise ValueError(f"'{text}' has no shape in it; write it as 1x3x256x256")
    return ranges


def _is_ordered(shapes: Sequence[tuple[int, ...]]) -> bool:
    return len({len(shape) for shape in shapes}) == 1 and all(
        sizes[0] >= 1 and list(sizes) == sorted(sizes) for sizes in zip(*shapes, strict=True)
    )


def _ranges_from_text(value: Any) -> Any:
    return (parse_shapes(value) if value.strip() else None) if isinstance(value, str) else value


def _list_from_text(value: Any) -> Any:
    return [part.strip() for part in value.split(",") if part.strip()] or None if isinstance(value, str) else value


class BuildOptions(Strict):
    """Options of an engine's build; see the fields."""

    precision: Precision = pydantic.Field(
        "fp32", description="Arithmetic of the layers; the tensors that go in and out keep the network's own types."
    )
    shapes: Annotated[dict[str, ShapeRange] | None, pydantic.BeforeValidator(_ranges_from_text)] = pydantic.Field(
        None,
        description="Shapes of dynamic inputs, by name, as min/opt/max: 'input:1x3x256x256/4x3x256x256/8x3x256x256'.",
    )
    workspace_mib: int | None = pydantic.Field(
        None, ge=1, description="Most memory a layer may use while it works, in MiB; default: all of the GPU's."
    )
    opt_level: int | None = pydantic.Field(
        None, ge=0, le=5, description="How long to search for fast kernels, 0 to 5; default: TensorRT's own, 3."
    )
    tf32: bool = pydantic.Field(True, description="Whether fp32 layers may round their inputs to 10 bits of mantissa.")
    version_compatible: bool = pydantic.Field(False, description="The engine runs in later versions of TensorRT, too.")
    hardware_compatible: bool = pydantic.Field(
        False, description="The engine runs on GPUs of other generations, Ampere and later, too; it is slower."
    )
    strip: bool = pydantic.Field(
        False, description="Leave the weights out of the engine; they are read from the ONNX file when it is loaded."
    )
    tactic_sources: Annotated[list[str] | None, pydantic.BeforeValidator(_list_from_text)] = pydantic.Field(
        None, description="Libraries to take kernels from, as TensorRT's TacticSource names them; default: TensorRT's."
    )

    def flags(self) -> str:
        """These options as flags of `bmf-trt-seg build`, with a space before each."""
        text = "" if self.precision == "fp32" else f" --{self.precision}"
        for name, value in self.model_dump(exclude_defaults=True, exclude={"precision", "shapes"}).items():
            flag = "--" + {"workspace_mib": "workspace"}.get(name, name).replace("_", "-")
            if name == "tf32":
                text += " --no-tf32"
            elif isinstance(value, bool):
                text += f" {flag}"
            else:
                text += f" {flag} {shlex.quote(','.join(value)) if isinstance(value, list) else value}"
        if self.shapes:
            ranges = (f"{name}:{shape}" if name else str(shape) for name, shape in self.shapes.items())
            text += f" --shapes {shlex.quote(','.join(ranges))}"
        return text


def options_from_text(value: Any) -> Any:
    """Build options written as text: JSON, or 'precision=fp16,opt_level=5'. Anything else is left as it is."""
    if not isinstance(value, str):
        return value
    text = value.strip()
    if text.startswith("{"):
        try:
            return parsed(text)
        except ValueError as error:
            raise ValueError(f"it is no JSON: {error}") from error
    pairs = [part.partition("=") for part in text.split(",") if part.strip()]
    for name, equals, _ in pairs:
        if not equals:
            raise ValueError(
                f"'{name.strip()}' is not NAME=VALUE, as precision=fp16 is; lists want JSON: "
                '{"tactic_sources": ["A", "B"]}'
            )
    return {name.strip(): content.strip() for name, _, content in pairs}
