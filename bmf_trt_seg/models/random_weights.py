"""Random weights that behave as trained ones do: for measuring and for trying, not for segmenting.

With what initialisation leaves, fp16 overflows and one class fills every picture. So batch norms get the statistics of
pictures, and the last layer is fitted to clusters of what reaches it.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import nn
from torch.nn import functional

from bmf_trt_seg.models.architecture import IMAGENET_MEAN, IMAGENET_STD

__all__ = ["pictures", "settle"]

_CLUSTERS = 16
_LOGIT_SPAN = 20.0


def pictures(count: int, seed: int, size_hw: tuple[int, int]) -> torch.Tensor:
    """Normalized pictures, (count, 3, H, W) float32: smooth noise at several scales, as in photographs, with edges."""
    rng = torch.Generator().manual_seed(seed)
    rgb = torch.zeros(count, 3, *size_hw)
    for cells in (2, 4, 8, 16, 32, 64):
        noise = torch.rand(count, 3, cells, cells, generator=rng) - 0.5
        rgb += functional.interpolate(noise, size_hw, mode="bicubic", align_corners=False) * (2.0 / cells**0.5)
    shapes = functional.interpolate(torch.rand(count, 1, 6, 6, generator=rng), size_hw, mode="bicubic")
    rgb = torch.where(shapes > 0.55, rgb.flip(1) * 0.7 + 0.2, rgb)
    low, high = rgb.amin((2, 3), keepdim=True), rgb.amax((2, 3), keepdim=True)
    mean, std = torch.tensor(IMAGENET_MEAN)[:, None, None], torch.tensor(IMAGENET_STD)[:, None, None]
    return ((rgb - low) / (high - low) - mean) / std


def settle(network: nn.Module, last_layer: nn.Conv2d, batches: int, size_hw: tuple[int, int]) -> None:
    """Give batch norms the statistics of pictures, and `last_layer` clusters to tell apart.

    The network runs where its weights are, on `batches` batches of four pictures. It is in evaluation mode afterwards.
    """
    with torch.no_grad():
        _settle_norms(network, last_layer.weight.device, batches, size_hw)
        caught: list[torch.Tensor] = []
        hook = last_layer.register_forward_pre_hook(lambda module, inputs: caught.append(inputs[0].float()))
        for index in range(min(4, batches)):
            network(pictures(4, 200 + index, size_hw).to(last_layer.weight.device))
        hook.remove()
        _fit(last_layer, torch.cat([feature.movedim(1, -1).reshape(-1, feature.shape[1]) for feature in caught]))


def _settle_norms(network: nn.Module, device: torch.device, batches: int, size_hw: tuple[int, int]) -> None:
    network.train()
    for module in network.modules():
        if isinstance(module, nn.modules.batchnorm._BatchNorm):
            module.momentum = None  # the plain mean over all batches
            module.reset_running_stats()
        elif isinstance(module, nn.Dropout | nn.Dropout2d) or "DropPath" in type(module).__name__:
            module.eval()
    for index in range(batches):
        network(pictures(4, 100 + index, size_hw).to(device))
    network.eval()


def _fit(layer: Any, features: torch.Tensor) -> None:
    """Make the layer tell clusters of its inputs (k-means) apart: the nearest centre has the greatest logit.

    Classes beyond the clusters never win.
    """
    rng = torch.Generator().manual_seed(0)
    clusters = min(_CLUSTERS, layer.out_channels)
    some = features[torch.randperm(len(features), generator=rng)[:20000].to(features.device)]
    centres = some[torch.randperm(len(some), generator=rng)[:clusters].to(features.device)].clone()
    for _ in range(30):
        nearest = torch.cdist(some, centres).argmin(1)
        for index in range(len(centres)):
            members = some[nearest == index]
            centres[index] = members.mean(0) if len(members) else some[index]
    middle = some.mean(0)
    offsets = centres - middle
    weight = torch.zeros_like(layer.weight[:, :, 0, 0])
    weight[: len(centres)] = offsets
    bias = torch.zeros(layer.out_channels, device=features.device)
    bias[: len(centres)] = -(offsets @ middle) - 0.5 * (offsets**2).sum(1)
    logits = some @ weight[: len(centres)].T + bias[: len(centres)]
    scale = _LOGIT_SPAN / (logits.amax() - logits.amin()).clamp(min=1e-6)
    bias *= scale
    bias[len(centres) :] = float(logits.amin() * scale) - 5.0
    layer.weight.copy_(weight[:, :, None, None] * scale)
    if layer.bias is not None:
        layer.bias.copy_(bias)
