"""The kernels as the GPU runs them, at the sizes of films: what the CPU's steps give, on every style."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from factories import make_picture, make_spec

from bmf_trt_seg.frames import allocate_planes
from bmf_trt_seg.overlay import Look, Overlay
from bmf_trt_seg.postprocess import Postprocess
from bmf_trt_seg.preprocess import Preprocess

torch = pytest.importorskip("torch")

LABELS = [f"class{index}" for index in range(21)]
COLORS = {index: f"#{index * 12:02x}80{255 - index * 12:02x}" for index in range(1, 21)}
SIZES = [(1920, 1080), (1279, 719)]


@pytest.fixture(scope="module")
def kernels():
    from bmf_trt_seg.cuda_kernels import kernels_for

    return kernels_for(torch.device("cuda", 0))


def on_gpu(picture):
    """The same planes, in rows of another length, in device memory."""
    planes = []
    for plane in picture.planes:
        height, width, *rest = plane.shape
        memory = torch.zeros((height, (width + 71) // 64 * 64, *rest), dtype=torch.uint8, device="cuda")
        memory[:, :width] = torch.from_numpy(np.array(plane)).cuda()
        planes.append(memory[:, :width])
    return replace(picture, planes=tuple(planes))


def stream():
    return torch.cuda.current_stream().cuda_stream


@pytest.mark.parametrize("size_wh", [*SIZES, (640, 360), (333, 77)])
@pytest.mark.parametrize("dtype", ["float16", "float32"])
@pytest.mark.parametrize("pixel_format", ["nv12", "yuv420p", "rgb24"])
def test_preprocess(kernels, pixel_format, dtype, size_wh):
    from bmf_trt_seg.preprocess_cuda import CudaPreprocess

    spec = make_spec(input={"height": 512, "width": 512, "dtype": dtype, "mean": (0.485, 0.456, 0.406),
                            "std": (0.229, 0.224, 0.225)}).input  # fmt: skip
    frames = [make_picture(pixel_format, *size_wh, seed=seed) for seed in range(3)]
    batch = torch.full((3, 3, 512, 512), float("nan"), dtype=getattr(torch, dtype), device="cuda")
    CudaPreprocess(spec, kernels)([on_gpu(frame) for frame in frames], batch, stream())
    wanted = Preprocess(spec)(frames).astype(np.float32)
    off = np.abs(batch.float().cpu().numpy() - wanted)
    assert off.max() <= 3.5 / 255 / 0.224 * 2  # the CPU rounds to a code value at each halving, and so for each channel
    assert off.mean() <= 1 / 255 / 0.224


def soft_scores(count, channels=21, side=64, seed=0):
    generator = torch.Generator().manual_seed(seed)
    coarse = torch.randn((count, channels, 7, 7), generator=generator) * 4
    return torch.nn.functional.interpolate(coarse, (side, side), mode="bicubic").contiguous()


@pytest.mark.parametrize("size_wh", SIZES)
@pytest.mark.parametrize("style", ["blend", "cutout", "contour", "blur", "sidebyside", "mask"])
@pytest.mark.parametrize("pixel_format", ["nv12", "yuv420p", "rgb24"])
def test_overlay(kernels, pixel_format, style, size_wh):
    from bmf_trt_seg.overlay_cuda import CudaOverlay, Drawing

    spec = make_spec(LABELS, "softmax", input={"height": 64, "width": 64})
    look = Look(colors=COLORS, labels=dict(enumerate(LABELS)), output="mask" if style == "mask" else "overlay",
                style="blend" if style == "mask" else style)  # fmt: skip
    postprocess, overlay = Postprocess(spec, list(COLORS)), Overlay(look)
    frames, scores = [make_picture(pixel_format, *size_wh, seed=seed) for seed in range(2)], soft_scores(2)
    size = overlay.size(*size_wh)
    even = size[0] + size[0] % 2, size[1] + size[1] % 2
    targets = [on_gpu(allocate_planes(frame, *even)) for frame in frames]
    maps = [torch.empty(size_wh[::-1], dtype=torch.uint8, device="cuda") for _ in frames]
    ours = CudaOverlay(spec, list(COLORS), postprocess.background, None, look, kernels)
    drawings = [
        Drawing(on_gpu(frame), target, one, kept, None)
        for frame, target, one, kept in zip(frames, targets, scores.cuda(), maps, strict=True)
    ]
    ours.draw(drawings, stream())
    for frame, target, one, kept in zip(frames, targets, scores, maps, strict=True):
        map_hw = kept.cpu().numpy()
        wanted_map = postprocess(one.numpy(), size_wh)
        assert (map_hw == wanted_map).mean() >= 0.9999  # two scores may be equal but for rounding
        wanted = allocate_planes(frame, *even)
        overlay.draw(frame, map_hw, wanted)
        for our, their in zip(target.planes, wanted.planes, strict=True):
            assert np.abs(our.cpu().numpy().astype(int) - their).max() <= 1


def test_a_film_of_ten_bits_is_narrowed(kernels):
    from bmf_trt_seg.preprocess_cuda import narrowed

    picture = make_picture("nv12", 1920, 1080)
    wide = replace(
        picture,
        pixel_format="p010",
        planes=tuple(torch.from_numpy(np.array(plane).astype(np.uint16) << 8).cuda() for plane in picture.planes),
    )
    target = on_gpu(allocate_planes(picture, 1920, 1080))
    narrowed(wide, target, kernels, stream())
    for our, their in zip(target.planes, picture.planes, strict=True):
        np.testing.assert_array_equal(our.cpu().numpy(), their)
