"""Whether an exported network gives what the network that it was made from gives."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import numpy.typing as npt

from bmf_trt_seg.backends import select_backend
from bmf_trt_seg.errors import ModelError
from bmf_trt_seg.spec import ModelSpec

__all__ = ["LEAST_AGREEMENT", "Agreement", "Precision", "agreement", "check"]

Precision = Literal["fp32", "fp16", "qdq"]
Array = npt.NDArray[np.generic]

LEAST_AGREEMENT: dict[Precision, float] = {"fp32": 0.999, "fp16": 0.98, "qdq": 0.9}
"""Share of the pixels that must get the same class, 0 to 1."""
_ADVICE: dict[Precision, str] = {
    "fp32": "",
    "fp16": "; --least-agreement takes another limit",
    "qdq": "; more --qdq-frames may help, --fp16 does; --least-agreement takes another limit",
}
_MOST_DIFFERENCE = 1e-3
"""Of the scores of an fp32 network, as a share of their span; rounding alone makes about 1e-6."""


@dataclass(frozen=True)
class Agreement:
    """How two outputs compare."""

    max_difference: float
    """The largest difference of two scores; NaN for class indices."""
    span: float
    """From the lowest to the highest of the scores expected."""
    same_classes: float
    """Share of the pixels that get the same class, 0 to 1."""

    def __str__(self) -> str:
        same = f"{self.same_classes:.3%} of the pixels get the same class"
        if np.isnan(self.max_difference):
            return same
        return f"largest difference {self.max_difference:.2g}, scores spanning {self.span:.3g}; {same}"


def agreement(expected: Array, got: Array, activation: str) -> Agreement:
    """Compare two outputs of one shape: scores (N, C, h, w), one channel (N, 1, h, w), or indices (N, H, W).

    Raises ModelError if the shapes differ, or numbers are not finite.
    """
    if expected.shape != got.shape:
        raise ModelError(f"the exported network gives {got.shape}, the network that it was made from {expected.shape}")
    if activation == "index":
        return Agreement(np.nan, np.nan, float(np.mean(expected == got)))
    if not np.isfinite(got).all():
        beyond = "" if np.isfinite(expected).all() else ", nor does the network that it was made from"
        raise ModelError(f"the exported network does not give finite numbers{beyond}")
    one, other = expected.astype(np.float64), got.astype(np.float64)
    same = _classes(one, activation) == _classes(other, activation)
    return Agreement(float(np.abs(one - other).max()), float(np.ptp(one)), float(np.mean(same)))


def _classes(scores: npt.NDArray[np.float64], activation: str) -> npt.NDArray[np.int64]:
    if scores.shape[1] > 1:
        return scores.argmax(axis=1)
    return (scores >= (0.0 if activation == "sigmoid" else 0.5)).astype(np.int64)


def check(
    model: Path,
    spec: ModelSpec,
    reference: Callable[[npt.NDArray[np.float32]], Array],
    inputs: Mapping[str, npt.NDArray[np.float32]],
    precision: Precision,
    least: float | None = None,
) -> dict[str, Agreement]:
    """Run an ONNX file as the project does, and compare it with `reference` on each of `inputs`, by name.

    An input is a batch (N, 3, H, W) as `spec` describes it. `least` takes the place of LEAST_AGREEMENT's.
    Raises ModelError if an output is not what `spec` says, or differs by more than the limits.
    """
    least = LEAST_AGREEMENT[precision] if least is None else least
    found = {}
    with select_backend("onnxruntime", model)(model, spec, device="cpu", threads=0) as backend:
        for name, batch in inputs.items():
            found[name] = agreement(reference(batch), backend.infer(batch), spec.output.activation)
    for name, result in found.items():
        differs = precision == "fp32" and result.max_difference > _MOST_DIFFERENCE * max(result.span, 1.0)
        if differs or result.same_classes < least:
            limit = f"at most {_MOST_DIFFERENCE:g} of the span, and " if precision == "fp32" else ""
            raise ModelError(
                f"the exported network differs from the one that it was made from on {name}: {result}; allowed are "
                f"{limit}at least {least:.1%} of the pixels" + _ADVICE[precision]
            )
    return found
