"""The segmentation networks of torchvision, trained on COCO's pictures with Pascal VOC's classes."""

from __future__ import annotations

import urllib.parse
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

from bmf_trt_seg.errors import StreamError
from bmf_trt_seg.models.architecture import Architecture, imported
from bmf_trt_seg.models.datasets import PASCAL_VOC
from bmf_trt_seg.models.torchvision_package import import_torchvision
from bmf_trt_seg.models.weights import read_weights

__all__ = ["TORCHVISION"]

_BRANCH_STRENGTH = 0.2


def _create(name: str, classes: int) -> Any:
    import_torchvision()
    torch = imported("torch")
    create = getattr(imported("torchvision.models.segmentation"), name)
    network = create(weights=None, weights_backbone=None, num_classes=classes)
    for parameter, values in network.backbone.named_parameters():
        # residual branches of full strength make deep networks with random weights chaotic: rounding to fp16 would
        # change half of what reaches the end
        if parameter.endswith("bn3.weight"):
            torch.nn.init.constant_(values, _BRANCH_STRENGTH)
    return network


def _published(name: str) -> Mapping[str, Any]:
    import_torchvision()
    weights = imported("torchvision.models").get_model_weights(name).DEFAULT
    file = Path(imported("torch.hub").get_dir(), "checkpoints", Path(urllib.parse.urlparse(weights.url).path).name)
    if not file.is_file():
        try:
            return dict(weights.get_state_dict(progress=False, check_hash=True))
        except (OSError, RuntimeError) as error:
            reason = getattr(error, "reason", None) or error
            raise StreamError(
                f"the weights of '{name}' cannot be downloaded ({reason}): get {weights.url} elsewhere and give it as "
                f"--weights FILE, or put it into '{file.parent}'; --weights none does without"
            ) from error
    return read_weights(file)


def _last_layer(name: str, network: Any) -> Any:
    return network.classifier.high_classifier if name.startswith("lraspp") else network.classifier[-1]


def _architecture(name: str) -> Architecture:
    return Architecture(
        name=name,
        library="torchvision",
        data_set=PASCAL_VOC,
        size_hw=(520, 520),
        weights=f"torchvision's {name} COCO_WITH_VOC_LABELS_V1",
        license="BSD-3-Clause",
        create=partial(_create, name),
        published=partial(_published, name),
        renamed=lambda network, weights: weights,
        last_layer=partial(_last_layer, name),
    )


TORCHVISION: dict[str, Architecture] = {
    name: _architecture(name)
    for name in (
        "fcn_resnet101",
        "fcn_resnet50",
        "deeplabv3_resnet101",
        "deeplabv3_resnet50",
        "lraspp_mobilenet_v3_large",
    )
}
"""By torchvision's names."""
