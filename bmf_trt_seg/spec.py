"""ModelSpec: what a network takes and gives, kept as JSON beside the model file.

A network is described, not coded: `person.onnx` has `person.json` beside it, and every step of the pipeline reads
from there which tensors there are, how a picture becomes their numbers and how their numbers become classes.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any, Literal

import pydantic

from bmf_trt_seg.colors import default_palette, parse_hex
from bmf_trt_seg.errors import ConfigError, StreamError
from bmf_trt_seg.json_text import parsed
from bmf_trt_seg.validation import Strict, validated

__all__ = ["NO_CLASS", "Color", "InputSpec", "ModelSpec", "OutputSpec", "Task", "spec_path"]

Task = Literal["segmentation", "image", "raw"]

NO_CLASS = 255
"""The value of a pixel of a class map that belongs to no class (the usual ignore index of segmentation data sets)."""


def _checked_color(text: str) -> str:
    parse_hex(text)
    return text.lower()


Color = Annotated[
    str,
    pydantic.Field(pattern=r"^#[0-9a-fA-F]{6}$", examples=["a colour '#rrggbb'"]),
    pydantic.AfterValidator(_checked_color),
]
_Finite = Annotated[float, pydantic.Field(allow_inf_nan=False)]
_Triple = tuple[_Finite, _Finite, _Finite]


class InputSpec(Strict):
    """The input tensor: `x = (rgb / 255 - mean) / std` for each channel, in the order and layout given."""

    name: str = pydantic.Field("input", description="Name of the input tensor.")
    layout: Literal["nchw", "nhwc"] = pydantic.Field("nchw", description="Order of the dimensions.")
    height: int = pydantic.Field(ge=1, le=16384, description="Height of the input, in pixels.")
    width: int = pydantic.Field(ge=1, le=16384, description="Width of the input, in pixels.")
    dtype: Literal["float32", "float16", "uint8"] = pydantic.Field(
        "float32", description="Element type; with uint8, mean and std are not applied."
    )
    channel_order: Literal["rgb", "bgr"] = pydantic.Field("rgb", description="Order of the colour channels.")
    mean: _Triple = pydantic.Field((0.0, 0.0, 0.0), description="Mean per channel, pictures being 0 to 1.")
    std: _Triple = pydantic.Field((1.0, 1.0, 1.0), description="Standard deviation per channel.")
    resize: Literal["stretch", "letterbox"] = pydantic.Field(
        "stretch",
        description="How a picture of another shape fits: stretched, or whole with borders (of the mean colour).",
    )

    @pydantic.field_validator("std")
    @classmethod
    def _not_zero(cls, std: _Triple) -> _Triple:
        if not all(std):
            raise ValueError("a standard deviation cannot be 0")
        return std

    def placement(self, width: int, height: int) -> tuple[int, int, int, int]:
        """Where in the input a picture of this size lies: left, top, width, height in the input's pixels."""
        if self.resize == "stretch":
            return 0, 0, self.width, self.height
        scale = min(self.width / width, self.height / height)
        fitted_width, fitted_height = max(1, round(width * scale)), max(1, round(height * scale))
        return (self.width - fitted_width) // 2, (self.height - fitted_height) // 2, fitted_width, fitted_height


class OutputSpec(Strict):
    """The output tensor: scores (N, C, H, W), one channel (N, 1, H, W), or class indices (N, H, W)."""

    name: str = pydantic.Field("output", description="Name of the output tensor.")
    layout: Literal["nchw", "nhwc"] = pydantic.Field("nchw", description="Order of the dimensions of scores.")
    activation: Literal["softmax", "sigmoid", "none", "index"] = pydantic.Field(
        description="What turns the output into probabilities: softmax or sigmoid of logits, none if they are "
        "probabilities already; index if the output holds class indices."
    )
    threshold: float | None = pydantic.Field(
        None,
        ge=0.0,
        le=1.0,
        description="Least probability a class needs, else the pixel is background; 0.5 for one channel, "
        "no limit for several.",
    )


class ModelSpec(Strict):
    """Everything that has to be known to use a network; see the fields."""

    task: Task = pydantic.Field(
        "segmentation",
        description="What becomes of the output: segmentation draws classes on the picture; image puts the output, "
        "which is a picture, in its place; raw hands all outputs on as arrays and leaves the picture as it is.",
    )
    labels: Annotated[list[str], pydantic.Field(min_length=1, max_length=255)] = pydantic.Field(
        default_factory=list,
        description="Class names, by index. A network of one channel has two: what 0 and what 1 mean.",
    )
    background: int | None = pydantic.Field(0, ge=0, description="Index of the background class; null if none.")
    palette: list[Color] = pydantic.Field(
        default_factory=list, description="A colour '#rrggbb' per label; empty for colours of ours."
    )
    input: InputSpec
    output: OutputSpec
    outputs: list[str] = pydantic.Field(
        default_factory=list, description="Of task raw, the outputs to hand on, by name; empty for all."
    )
    white: float = pydantic.Field(
        1.0, gt=0, allow_inf_nan=False, description="Of task image, the output's value of white: 1 or 255."
    )
    constants: dict[str, _Finite] = pydantic.Field(
        default_factory=dict, description="What inputs beside the picture hold, by name: one number for all elements."
    )
    source: str = pydantic.Field("", description="Where the network comes from.")
    license: str = pydantic.Field("", description="The network's licence.")

    @pydantic.model_validator(mode="before")
    @classmethod
    def _without_classes(cls, values: Any) -> Any:
        """Where there are no classes, an activation and a background need not be said; labels may be empty."""
        if not isinstance(values, dict) or values.get("task") not in ("raw", "image"):
            return values
        if values.get("labels") == []:
            values = {name: value for name, value in values.items() if name != "labels"}
        output = values.get("output", {})
        output = {"activation": "none", **output} if isinstance(output, dict) else output
        return {"background": None, **values, "output": output}

    @pydantic.model_validator(mode="after")
    def _consistent(self) -> ModelSpec:
        if self.task != "raw" and self.outputs:
            raise ValueError(f"'outputs' is for task 'raw'; with '{self.task}', 'output' names the only one")
        if self.task != "segmentation" and self.labels:
            raise ValueError(f"'labels' are for task 'segmentation', this is '{self.task}'")
        if self.task == "segmentation" and not self.labels:
            raise ValueError("'labels' is missing; it takes a list of 1 to 255 names of classes, by index")
        if self.palette and len(self.palette) != len(self.labels):
            raise ValueError(f"palette has {len(self.palette)} colours for {len(self.labels)} labels; give one each")
        if self.background is not None and self.background >= len(self.labels):
            raise ValueError(f"background is class {self.background}, but there are {len(self.labels)} labels")
        if self.background is not None and len(self.labels) == 1:
            raise ValueError(
                f"the only label, '{self.labels[0]}', is the background: name a class beside it, or set background to "
                "null"
            )
        if len(set(self.labels)) != len(self.labels):
            twice = next(label for label in self.labels if self.labels.count(label) > 1)
            raise ValueError(f"label '{twice}' stands twice")
        return self

    def wanted_outputs(self, existing: list[str]) -> list[str]:
        """The outputs that are read, of those that the network has or lacks; the first one is what `infer` gives."""
        if self.task == "raw":
            return self.outputs or existing
        return [self.output.name]

    @property
    def colors(self) -> list[str]:
        """A colour '#rrggbb' per label."""
        return self.palette or default_palette(len(self.labels))

    @classmethod
    def read(cls, path: Path) -> ModelSpec:
        """The spec in a JSON file; StreamError if it cannot be read, ConfigError if it says something impossible."""
        try:
            values = parsed(path.read_text(encoding="utf-8"))
        except OSError as error:
            raise StreamError(f"model description '{path}' cannot be read: {error.strerror}") from error
        except ValueError as error:
            raise ConfigError(f"model description '{path}' is no JSON: {error}") from error
        return validated(cls, values, f"model description '{path}'")

    def write(self, path: Path) -> None:
        """Write the spec as JSON, without what is at its default."""
        values = self.model_dump(mode="json", exclude_defaults=True)
        path.write_text(json.dumps({"task": self.task, **values}, indent=2) + "\n", encoding="utf-8")


def spec_path(model: Path) -> Path:
    """Where the description of a model file lies: beside it, with the ending .json."""
    return model.with_suffix(".json")
