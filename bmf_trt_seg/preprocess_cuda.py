"""`Preprocess` for pictures in the memory of a GPU, in PyTorch's operators, on its current stream."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from bmf_trt_seg.colors import ycbcr_to_rgb_matrix
from bmf_trt_seg.frames import FramePlanes
from bmf_trt_seg.preprocess import from_rgb_matrix
from bmf_trt_seg.spec import InputSpec

if TYPE_CHECKING:
    import torch

__all__ = ["CudaPreprocess"]


class CudaPreprocess:
    """Turns the planes `on_device` of pictures into the batch that an `InputSpec` describes, on the same device."""

    def __init__(self, spec: InputSpec) -> None:
        self._spec = spec
        self._affine: dict[tuple[str, str, str, str], tuple[torch.Tensor, torch.Tensor]] = {}

    def __call__(self, frames: Sequence[FramePlanes]) -> torch.Tensor:
        """One batch, (N, 3, h, w) or (N, h, w, 3) in the spec's element type, contiguous, on the device of the planes.

        Equal to what `Preprocess` makes of the same pictures but for rounding: half a code value per halving.
        """
        import torch

        assert frames[0].on_device is not None
        spec, device = self._spec, frames[0].on_device[0].device
        batch_nchw = torch.zeros((len(frames), 3, spec.height, spec.width), device=device)
        if spec.dtype == "uint8":
            batch_nchw += torch.tensor(spec.mean, device=device)[:, None, None]
        for picture, frame in zip(batch_nchw, frames, strict=True):
            left, top, width, height = spec.placement(frame.width, frame.height)
            picture[:, top : top + height, left : left + width] = self._converted(frame, width, height)
        batch = batch_nchw if spec.layout == "nchw" else batch_nchw.permute(0, 2, 3, 1)
        if spec.dtype == "uint8":
            batch = (batch * 255.0).round_()
        return batch.to(getattr(torch, spec.dtype)).contiguous()

    def _converted(self, frame: FramePlanes, width: int, height: int) -> torch.Tensor:
        """The picture resized, (3, height, width) float32, normalized and in the network's channel order."""
        import torch

        assert frame.on_device is not None
        codes = torch.cat([_resized(_as_nchw(plane), width, height) for plane in frame.on_device], dim=1)[0]
        to_rgb, from_rgb = self._matrices(frame, codes.device)
        rgb = torch.einsum("oc,chw->ohw", to_rgb[:, :3], codes) + to_rgb[:, 3, None, None]
        rgb.clamp_(0.0, 1.0)
        return torch.einsum("oc,chw->ohw", from_rgb[:, :3], rgb) + from_rgb[:, 3, None, None]

    def _matrices(self, frame: FramePlanes, device: Any) -> tuple[torch.Tensor, torch.Tensor]:
        """From code values to R'G'B', and from there to what the network takes: affine, (3, 4) each."""
        import torch

        key = (frame.matrix, frame.value_range, frame.pixel_format, str(device))
        if key not in self._affine:
            to_rgb = torch.eye(3, 4) / 255.0
            if frame.is_subsampled:
                weights, bias = ycbcr_to_rgb_matrix(frame.matrix, frame.value_range)
                to_rgb = torch.cat([torch.as_tensor(weights), torch.as_tensor(bias)[:, None]], dim=1)
            from_rgb = from_rgb_matrix(self._spec)
            self._affine[key] = (
                to_rgb.float().to(device),
                (torch.eye(3, 4) if from_rgb is None else torch.from_numpy(from_rgb)).to(device),
            )
        return self._affine[key]


def _as_nchw(plane: torch.Tensor) -> torch.Tensor:
    """A plane (H, W) or (H, W, C) of code values as (1, C, H, W) float32."""
    return (plane[None, None] if plane.ndim == 2 else plane.permute(2, 0, 1)[None]).float()


def _resized(plane_nchw: torch.Tensor, width: int, height: int) -> torch.Tensor:
    """Bilinear, after halving while the plane is more than twice too large in both directions, as on the CPU."""
    from torch.nn import functional

    while plane_nchw.shape[2] >= 2 * height and plane_nchw.shape[3] >= 2 * width:
        plane_nchw = functional.avg_pool2d(plane_nchw, 2)
    return functional.interpolate(plane_nchw, (height, width), mode="bilinear", align_corners=False)
