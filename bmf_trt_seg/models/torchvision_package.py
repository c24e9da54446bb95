"""The package torchvision, also where its compiled operators cannot be loaded."""

from __future__ import annotations

import re
from typing import Any

from bmf_trt_seg.errors import BackendUnavailable
from bmf_trt_seg.models.architecture import imported

__all__ = ["import_torchvision"]

_MOST_OPERATORS = 20
_declared: list[Any] = []
"""Libraries of operators, which have to live as long as torchvision."""


def import_torchvision() -> Any:
    """The package, imported; BackendUnavailable if it is not here or is broken in another way than this one.

    Its operators cannot be loaded beside a PyTorch that was built for other hardware, as a CPU build beside the wheel
    on PyPI, and the import ends with "operator torchvision::nms does not exist". Segmentation networks want none of
    them: declaring the names is enough.
    """
    torch = imported("torch")
    while True:
        try:
            return imported("torchvision")
        except BackendUnavailable as error:
            missing = re.search(r"operator torchvision::(\w+) does not exist", str(error))
            if missing is None or len(_declared) >= _MOST_OPERATORS:
                raise
            _declared.append(torch.library.Library("torchvision", "FRAGMENT"))
            _declared[-1].define(f"{missing[1]}() -> ()")
