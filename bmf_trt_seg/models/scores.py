"""A network as one tensor in, one tensor out: what libraries wrap scores in is taken off, heads are put on."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

import torch
from torch import nn
from torch.nn import functional

__all__ = ["Head", "Scores"]

Head = Literal["none", "softmax", "argmax"]


class Scores(nn.Module):  # type: ignore[misc]
    """The scores of a network, (N, C, h, w), and what a head makes of them.

    head 'softmax': probabilities, (N, C, h, w), of the network's own size; one channel goes through a sigmoid.
    head 'argmax': class indices, (N, H, W) int32, of the picture's size: scores are enlarged bilinearly before, since
    indices cannot be enlarged without steps. int32, because TensorRT 8 has no outputs of 64 bits.
    """

    def __init__(self, network: nn.Module, head: Head = "none") -> None:
        super().__init__()
        self.network = network
        self.head = head

    def forward(self, input: torch.Tensor) -> torch.Tensor:
        scores = unwrapped(self.network(input))
        if self.head == "none":
            return scores
        if self.head == "softmax":
            return torch.sigmoid(scores) if scores.shape[1] == 1 else torch.softmax(scores, dim=1)
        if scores.shape[-2:] != input.shape[-2:]:
            scores = functional.interpolate(scores, size=input.shape[-2:], mode="bilinear", align_corners=False)
        return scores.argmax(dim=1).to(torch.int32)


def unwrapped(result: Any) -> torch.Tensor:
    """The scores in what a network returns: a tensor, {"out": tensor}, .logits, or the first of several.

    Raises TypeError for anything else.
    """
    if hasattr(result, "logits"):
        result = result.logits
    elif isinstance(result, Mapping) and "out" in result:
        result = result["out"]
    elif isinstance(result, (tuple, list)) and result:
        result = result[0]
    if not isinstance(result, torch.Tensor):
        raise TypeError(f"it returns {type(result).__name__}, expected a tensor, a tuple or a dictionary with 'out'")
    return result
