"""The steps of NVIDIA's CV-CUDA segmentation sample, in its operators and PyTorch's, to hold our kernels against.

Batches are NV12 (N, H * 3 / 2, W, 1) uint8 CUDA tensors; everything runs on PyTorch's current stream.
"""

from __future__ import annotations

from typing import Any

import cvcuda
import torch

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


def _stream() -> Any:
    return cvcuda.as_stream(torch.cuda.current_stream())


def _torch(tensor: Any) -> torch.Tensor:
    return torch.as_tensor(tensor.cuda(), device="cuda")


class CvCudaSteps:
    """Pre-processing, and drawing of one class's colour, step by step."""

    def __init__(self, size_hw: tuple[int, int], network_hw: tuple[int, int], dtype: torch.dtype) -> None:
        self._size_hw, self._network_hw, self._dtype = size_hw, network_hw, dtype
        shape = (1, 1, 1, 3)
        self._mean = cvcuda.as_tensor(torch.tensor(MEAN, device="cuda").reshape(shape), "NHWC")
        self._mean_chw, self._std_chw = (torch.tensor(values, device="cuda")[:, None, None] for values in (MEAN, STD))
        self._std = cvcuda.as_tensor(torch.tensor(STD, device="cuda").reshape(shape), "NHWC")

    def preprocess(self, nv12: torch.Tensor) -> torch.Tensor:
        """(N, 3, h, w): cvtcolor, resize, convertto, normalize, reformat, as the sample has them."""
        with _stream():
            rgb = self.rgb(nv12)
            height, width = self._network_hw
            small = cvcuda.resize(rgb, (len(nv12), height, width, 3), cvcuda.Interp.LINEAR)
            floats = cvcuda.convertto(small, cvcuda.Type.F32, 1 / 255)
            normalized = cvcuda.normalize(floats, self._mean, self._std, cvcuda.NormalizeFlags.SCALE_IS_STDDEV)
            return _torch(cvcuda.reformat(normalized, "NCHW")).to(self._dtype)

    def preprocess_fused(self, nv12: torch.Tensor) -> torch.Tensor:
        """The same with the operator that resizes, converts and reformats at once; PyTorch normalizes."""
        with _stream():
            height, width = self._network_hw
            planes = cvcuda.resize_crop_convert_reformat(
                self.rgb(nv12),
                (width, height),
                cvcuda.Interp.LINEAR,
                cvcuda.RectI(0, 0, width, height),
                layout="NCHW",
                data_type=cvcuda.Type.F32,
                scale=1 / 255,
            )
            return ((_torch(planes) - self._mean_chw) / self._std_chw).to(self._dtype)

    def rgb(self, nv12: torch.Tensor) -> Any:
        return cvcuda.cvtcolor(cvcuda.as_tensor(nv12, "NHWC"), cvcuda.ColorConversion.YUV2RGB_NV12)

    def draw(self, nv12: torch.Tensor, scores: torch.Tensor, class_index: int, color: Any) -> torch.Tensor:
        """NV12 again: argmax, the mask resized, its colour composed over the picture, converted back."""
        with _stream():
            height, width = self._size_hw
            mask = (scores.argmax(1) == class_index).to(torch.uint8)[..., None] * 128
            large = cvcuda.resize(cvcuda.as_tensor(mask, "NHWC"), (len(mask), height, width, 1), cvcuda.Interp.LINEAR)
            drawn = cvcuda.composite(color, self.rgb(nv12), large, 3)
            return _torch(cvcuda.cvtcolor(drawn, cvcuda.ColorConversion.RGB2YUV_NV12))

    def color(self, count: int, rgb: tuple[int, int, int]) -> Any:
        """A batch of one colour, for `draw`."""
        filled = torch.tensor(rgb, dtype=torch.uint8, device="cuda").expand(count, *self._size_hw, 3).contiguous()
        return cvcuda.as_tensor(filled, "NHWC")


__all__ = ["CvCudaSteps"]
