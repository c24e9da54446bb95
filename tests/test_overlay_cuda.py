"""Deciding and drawing on the GPU against the CPU's: the kernels' own source, run on the CPU."""

from __future__ import annotations

import ctypes
import re
from dataclasses import replace

import numpy as np
import pytest
import torch
from emulated_kernels import EmulatedKernels
from factories import FORMATS, ODD_SIZES, make_picture, make_spec

from bmf_trt_seg import overlay_cuda
from bmf_trt_seg.cuda_kernels import kernel_source
from bmf_trt_seg.overlay import Look, Overlay
from bmf_trt_seg.overlay_cuda import CudaOverlay, Drawing, _Overlay
from bmf_trt_seg.postprocess import Postprocess, chosen_classes

STYLES = ["blend", "cutout", "contour", "blur", "sidebyside", "mask"]
LABELS = ["background", "person", "dog", "cat", "tree"]
COLORS = {1: "#ff0000", 2: "#0000ff", 3: "#00ff80"}  # class 4 is decided, but not drawn
SIZES = [*ODD_SIZES, (64, 40), (270, 37), (41, 90)]


def look_of(style, colors=COLORS, **others):
    drawn = {"output": "mask"} if style == "mask" else {"style": style}
    return Look(colors=colors, labels={index: LABELS[index] for index in colors}, **drawn, **others)


def on_device(picture):
    return replace(picture, planes=tuple(torch.from_numpy(plane) for plane in picture.planes))


def make_target(frame, size_wh, padding, seed=50):
    """A picture to draw into, with other rows' padding than the frame; and all of its memory."""
    memories, planes = [], []
    rng = np.random.default_rng(seed)
    for plane in make_picture(frame.pixel_format, *size_wh).planes:
        shape = plane.shape[0], plane.shape[1] + (-plane.shape[1] % 4 + 4 if padding else 3), *plane.shape[2:]
        memories.append(rng.integers(0, 256, shape, np.uint8))
        planes.append(memories[-1][:, : plane.shape[1]])
    return replace(frame, width=size_wh[0], height=size_wh[1], planes=tuple(planes)), memories


def word_aligned(picture, samples=8):
    planes = []
    for plane in picture.planes:
        memory = np.zeros((plane.shape[0], plane.shape[1] + -plane.shape[1] % samples, *plane.shape[2:]), np.uint8)
        memory[:, : plane.shape[1]] = plane
        planes.append(memory[:, : plane.shape[1]])
    return replace(picture, planes=tuple(planes))


def smooth_scores(channels, height, width, seed=0):
    """Scores with regions of classes, as networks give: noise of a few pixels' width."""
    coarse = torch.from_numpy(np.random.default_rng(seed).normal(size=(1, channels, height // 4 + 2, width // 4 + 2)))
    enlarged = torch.nn.functional.interpolate(coarse, (height, width), mode="bicubic", align_corners=False)
    return enlarged[0].float() * 3


class Both:
    """A network's scores drawn by the GPU's kernels and by the CPU's path."""

    def __init__(self, spec, look, threshold=None, classes=None, threads=1):
        self.kernels = EmulatedKernels(threads)
        chosen = chosen_classes(spec.labels, spec.background, classes)
        self.postprocess = Postprocess(spec, chosen, threshold)
        self.overlay = Overlay(look)
        self.look = look
        self.cuda = CudaOverlay(spec, chosen, self.postprocess.background, threshold, look, self.kernels)

    def drawings(self, frames, scores, *, one_more=False, padding=True):
        items = []
        for index, (frame, one) in enumerate(zip(frames, scores, strict=True)):
            width, height = self.cuda.size(frame.width, frame.height)
            assert (width, height) == self.overlay.size(frame.width, frame.height)
            size = (width + width % 2, height + height % 2) if one_more else (width, height)
            target, memories = make_target(frame, size, padding, index)
            map_hw = np.full((frame.height, frame.width), 99, np.uint8)
            items.append((frame, target, memories, one, map_hw, np.zeros(8, np.int32)))
        return items

    def check(self, frames, scores, *, exact_maps=False, **arrangement):
        items = self.drawings(frames, scores, **arrangement)
        before = [[plane.copy() for plane in frame.planes] for frame in frames]
        outside = [[memory.copy() for memory in item[2]] for item in items]
        self.cuda.draw(
            [
                Drawing(on_device(frame), on_device(target), one, torch.from_numpy(map_hw), torch.from_numpy(present))
                for frame, target, _, one, map_hw, present in items
            ],
            0,
        )
        for (frame, target, memories, one, map_hw, present), kept, around in zip(items, before, outside, strict=True):
            for plane, old in zip(frame.planes, kept, strict=True):
                np.testing.assert_array_equal(plane, old)
            array = one.float().numpy() if one.dtype == torch.bfloat16 else one.numpy()
            expected_map = self.postprocess(array, (frame.width, frame.height))
            assert (map_hw != expected_map).mean() <= (0 if exact_maps else 0.01)
            self.check_drawn(frame, target, map_hw)
            self.check_present(map_hw, present)
            for memory, old, plane in zip(memories, around, target.planes, strict=True):
                np.testing.assert_array_equal(memory[:, plane.shape[1] :], old[:, plane.shape[1] :])
        return items

    def check_drawn(self, frame, target, map_hw):
        """The target holds what the CPU draws for this map."""
        expected, _ = make_target(frame, (target.width, target.height), True, seed=1000)
        self.overlay.draw(frame, map_hw, expected)
        for plane, want in zip(target.planes, expected.planes, strict=True):
            difference = np.abs(plane.astype(int) - want)
            assert difference.max() <= 1
            if self.look.style != "blur":
                assert (difference != 0).mean() <= 0.01  # colours that lie in the middle between two codes

    def check_present(self, map_hw, present):
        bits = np.unpackbits(present.view(np.uint8), bitorder="little")
        assert np.flatnonzero(bits).tolist() == [index for index in self.look.colors if (map_hw == index).any()]


def softmax_spec(**input):
    return make_spec(LABELS, "softmax", input=input)


def test_structure_is_as_the_compiler_has_it():
    assert ctypes.sizeof(_Overlay) == EmulatedKernels().size_of("Overlay") <= 4096


# ------------------------------------------------------------------------------------------------------------ drawing


@pytest.mark.parametrize("pixel_format", FORMATS)
@pytest.mark.parametrize("style", STYLES)
@pytest.mark.parametrize("size_wh", SIZES)
def test_every_style(pixel_format, style, size_wh):
    both = Both(softmax_spec(), look_of(style, alpha=0.4))
    for seed, (arrange, one_more, padding) in enumerate(
        [(word_aligned, False, True), (word_aligned, True, True), (lambda picture: picture, True, False)]
    ):
        frames = [arrange(make_picture(pixel_format, *size_wh, seed=seed))]
        both.check(frames, [smooth_scores(5, 8, 12, seed)], one_more=one_more, padding=padding)


@pytest.mark.parametrize(
    ("style", "launches"), [("blend", 1), ("mask", 1), ("sidebyside", 1), ("contour", 3), ("blur", 5)]
)
def test_launches(style, launches):
    both = Both(softmax_spec(), look_of(style))
    frames = [make_picture("nv12", 64, 40, seed=seed) for seed in range(32)]
    both.check(frames, [smooth_scores(5, 8, 8, seed) for seed in range(32)])
    assert len(both.kernels.launched) == launches


@pytest.mark.parametrize("style", STYLES)
def test_more_pictures_than_a_launch_takes_and_of_several_kinds(style):
    both = Both(softmax_spec(), look_of(style))
    frames = [make_picture("nv12", 16, 12, seed=seed) for seed in range(35)]
    frames += [
        make_picture("yuv420p", 16, 12),
        make_picture("nv12", 17, 12),
        make_picture("nv12", 16, 12, matrix="bt601", value_range="full"),
    ]
    both.check(frames, [smooth_scores(5, 8, 8, seed) for seed in range(len(frames))])


@pytest.mark.parametrize("matrix", ["bt601", "bt709", "bt2020"])
@pytest.mark.parametrize("value_range", ["limited", "full"])
@pytest.mark.parametrize("style", ["blend", "cutout", "mask"])
def test_colours_go_by_matrix_and_range(matrix, value_range, style):
    both = Both(softmax_spec(), look_of(style, alpha=1.0, background_color="#3366ff"))
    for pixel_format in FORMATS:
        frame = make_picture(pixel_format, 33, 17, matrix=matrix, value_range=value_range)
        both.check([frame], [smooth_scores(5, 8, 8)])


@pytest.mark.parametrize("alpha", [0.0, 0.25, 0.5, 1.0])
def test_blend_rounds_as_on_the_cpu(alpha):
    both = Both(softmax_spec(), look_of("blend", alpha=alpha))
    frame = make_picture("nv12", 64, 40)
    _, target, _, _, map_hw, _ = both.check([frame], [smooth_scores(5, 8, 8)])[0]
    expected, _ = make_target(frame, (64, 40), True)
    both.overlay.draw(frame, map_hw, expected)
    for plane, want in zip(target.planes, expected.planes, strict=True):
        np.testing.assert_array_equal(plane, want)


@pytest.mark.parametrize("style", STYLES)
@pytest.mark.parametrize("pixel_format", FORMATS)
def test_what_is_not_drawn_on_keeps_all_its_values(style, pixel_format):
    both = Both(softmax_spec(), look_of(style))
    nothing = torch.zeros(5, 8, 8)
    nothing[2 if style in ("cutout", "blur") else 4] = 1.0  # shown everywhere; never
    frame = make_picture(pixel_format, 33, 17)
    _, target, _, _, _, present = both.check([frame], [nothing])[0]
    assert present.any() == (style in ("cutout", "blur"))
    if style != "mask":
        for plane, before in zip(target.planes, frame.planes, strict=True):
            np.testing.assert_array_equal(plane[: before.shape[0], : before.shape[1]], before)


@pytest.mark.parametrize("style", STYLES)
def test_a_single_class(style):
    both = Both(make_spec(), look_of(style, {1: "#12ff34"}))
    both.check([make_picture("nv12", 64, 40)], [smooth_scores(1, 8, 8)])


@pytest.mark.parametrize("style", ["blend", "contour"])
def test_classes_of_one_colour_do_not_share_a_chroma_sample(style):
    both = Both(softmax_spec(), look_of(style, {1: "#ff0000", 2: "#ff0000"}, alpha=1.0))
    both.check([make_picture("nv12", 65, 41)], [smooth_scores(5, 16, 16)])


@pytest.mark.parametrize(("size_wh", "reach"), [((800, 720), 3), ((640, 500), 2)])
def test_contours_grow_with_the_picture(size_wh, reach):
    both = Both(softmax_spec(), look_of("contour"))
    both.check([make_picture("nv12", *size_wh)], [smooth_scores(5, 12, 12)])


@pytest.mark.parametrize("pixel_format", FORMATS)
@pytest.mark.parametrize("size_wh", [(640, 360), (961, 543), (7, 300)])
def test_blur_of_larger_pictures(pixel_format, size_wh):
    both = Both(softmax_spec(), look_of("blur"))
    frame = make_picture(pixel_format, *size_wh)
    both.check([frame], [smooth_scores(5, 12, 12)])
    for plane in frame.planes:
        plane[:, plane.shape[1] // 2 :] = 255  # an edge
    both.check([frame], [smooth_scores(5, 12, 12)])


@pytest.mark.parametrize("style", STYLES)
def test_blocks_of_several_threads_do_the_same(style):
    both = Both(softmax_spec(), look_of(style), threshold=0.5, threads=7)
    frames = [word_aligned(make_picture("nv12", 150, 50, seed=seed)) for seed in range(2)]
    both.check(frames, [smooth_scores(5, 16, 16, seed) for seed in range(2)])


@pytest.mark.parametrize("pixel_format", FORMATS)
@pytest.mark.parametrize("style", ["blend", "cutout", "sidebyside", "mask"])
@pytest.mark.parametrize("size_wh", [(64, 40), (70, 38), (272, 37), (33, 17)])
@pytest.mark.parametrize("threads", [1, 7])
def test_sixteen_pixels_at_once_are_drawn_as_four_are(pixel_format, style, size_wh, threads):
    both = Both(softmax_spec(), look_of(style, alpha=0.4), threads=threads)
    frame, scores = make_picture(pixel_format, *size_wh), smooth_scores(5, 8, 12)
    _, wanted, _, _, wanted_map, wanted_present = both.check([frame], [scores])[0]
    assert not both.kernels.parameters.is_wide
    for has_map in (False, True):
        target = word_aligned(make_target(frame, (wanted.width, wanted.height), False)[0], 32)
        map_hw, present = np.zeros(size_wh[::-1], np.uint8), np.zeros(8, np.int32)
        map_wanted = torch.from_numpy(map_hw) if has_map else None
        drawn = on_device(word_aligned(frame, 32)), on_device(target)
        both.cuda.draw([Drawing(*drawn, scores, map_wanted, torch.from_numpy(present))], 0)
        is_beside_aligned = style != "sidebyside" or (size_wh[0] + size_wh[0] % 2) % 16 == 0
        can_be = pixel_format != "rgb24" and is_beside_aligned and (not has_map or size_wh[0] % 16 == 0)
        assert bool(both.kernels.parameters.is_wide) == can_be
        for plane, want in zip(target.planes, wanted.planes, strict=True):
            np.testing.assert_array_equal(plane, want)
        np.testing.assert_array_equal(present, wanted_present)
        if has_map:
            np.testing.assert_array_equal(map_hw, wanted_map)


def test_blocks_are_as_the_kernels_have_them():
    known = {name: int(value) for name, value in re.findall(r"(\w+) = (\d+)[,;]", kernel_source())}
    assert known["BLOCK_THREADS"] == overlay_cuda._THREADS[0]
    assert known["MAX_CELLS"] == overlay_cuda._MAX_CELLS
    for width, height in (*overlay_cuda._TILES, overlay_cuda._FIXED_TILE):
        assert width * height <= known["TILE_PIXELS"]
        assert width <= known["TILE_WIDE"]
        assert height <= known["TILE_HIGH"]


# ---------------------------------------------------------------------------------------------------------- held maps


@pytest.mark.parametrize("pixel_format", FORMATS)
@pytest.mark.parametrize("style", STYLES)
@pytest.mark.parametrize("size_wh", [(33, 17), (64, 40)])
def test_held_maps_are_drawn_as_they_are(pixel_format, style, size_wh):
    both = Both(softmax_spec(), look_of(style))
    frame = make_picture(pixel_format, *size_wh)
    map_hw = np.random.default_rng(0).choice([0, 1, 2, 3, 4, 255], size_wh[::-1]).astype(np.uint8)
    map_hw[: size_wh[1] // 2, : size_wh[0] // 2] = 3
    before = map_hw.copy()
    for has_present in (True, False):
        target, _ = make_target(frame, both.cuda.size(*size_wh), True)
        present = np.zeros(8, np.int32)
        noted = torch.from_numpy(present) if has_present else None
        both.cuda.draw([Drawing(on_device(frame), on_device(target), None, torch.from_numpy(map_hw), noted)], 0)
        np.testing.assert_array_equal(map_hw, before)
        both.check_drawn(frame, target, map_hw)
        if has_present:
            both.check_present(map_hw, present)


@pytest.mark.parametrize("style", STYLES)
def test_a_map_may_be_held_from_a_picture_of_the_same_call(style):
    both = Both(softmax_spec(), look_of(style))
    frames = [make_picture("nv12", 32, 20, seed=seed) for seed in range(4)]
    targets = [make_target(frame, both.cuda.size(32, 20), True)[0] for frame in frames]
    maps = [np.full((20, 32), 2, np.uint8), np.zeros((20, 32), np.uint8)]
    first, second = (torch.from_numpy(one) for one in maps)
    scores = smooth_scores(5, 8, 8)
    items = [(None, first), (scores, second), (None, second), (None, second)]
    both.cuda.draw(
        [
            Drawing(on_device(frame), on_device(target), one, map_hw)
            for frame, target, (one, map_hw) in zip(frames, targets, items, strict=True)
        ],
        0,
    )
    assert len(np.unique(maps[1])) > 2
    for frame, target, index in zip(frames, targets, (0, 1, 1, 1), strict=True):
        both.check_drawn(frame, target, maps[index])


@pytest.mark.parametrize("style", STYLES)
def test_maps_and_present_classes_need_not_be_wanted(style):
    both = Both(softmax_spec(), look_of(style))
    frame, scores = make_picture("nv12", 64, 40), smooth_scores(5, 8, 8)
    _, wanted, *_ = both.check([frame], [scores])[0]
    target, _ = make_target(frame, both.cuda.size(64, 40), True)
    both.cuda.draw([Drawing(on_device(frame), on_device(target), scores)], 0)
    for plane, want in zip(target.planes, wanted.planes, strict=True):
        np.testing.assert_array_equal(plane, want)


# ----------------------------------------------------------------------------------------------------------- deciding


def agrees(spec, scores, size_wh, *, threshold=None, classes=None, exact=False):
    look = look_of("blend", dict.fromkeys(range(len(spec.labels))[:5], "#ff0000"))
    both = Both(spec, look, threshold, classes)
    both.check([make_picture("rgb24", *size_wh)], [scores], exact_maps=exact)
    return both.kernels.launched[0]


@pytest.mark.parametrize("size_wh", [*SIZES, (500, 70), (8, 8), (16, 16)])
@pytest.mark.parametrize("cells_hw", [(8, 8), (1, 1), (1, 9), (9, 2), (24, 40), (100, 300)])
@pytest.mark.parametrize("kind", ["smooth", "noise"])
def test_argmax_of_any_sizes(size_wh, cells_hw, kind):
    scores = smooth_scores(5, *cells_hw) if kind == "smooth" else torch.randn(5, *cells_hw)
    assert agrees(softmax_spec(), scores, size_wh) == "draw_float32"


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.int32])
@pytest.mark.parametrize("size_wh", [(16, 16), (32, 32)])
def test_of_equal_scores_the_first_wins(dtype, size_wh):
    scores = torch.randint(0, 2, (5, 16, 16)).to(dtype)  # enlarged by two, mixes are exact
    agrees(softmax_spec(), scores, size_wh, exact=True)
    agrees(softmax_spec(), torch.zeros_like(scores), size_wh, exact=True)


def test_a_third_class_can_win_between_two():
    scores = torch.tensor([[[9.0, -9.0]], [[-9.0, 9.0]], [[5.0, 5.0]], [[-9.0, -9.0]], [[-9.0, -9.0]]])
    agrees(softmax_spec(), scores, (8, 1), exact=True)


@pytest.mark.parametrize("order", [[0, 1, 2], [2, 0, 1], [1, 2, 0], [2, 1, 0]])
@pytest.mark.parametrize("height", [3.0, 4.0, 5.0])
def test_a_class_that_is_second_at_all_corners_loses_ties_or_wins(order, height):
    lines = torch.tensor([[[8.0, 0.0]], [[0.0, 8.0]], [[height, height]]]) - 6.0
    agrees(
        make_spec(LABELS[:3], "softmax"), lines[order], (3, 1), exact=True
    )  # in the middle, two are 4 and one height


@pytest.mark.parametrize("place", range(5))
@pytest.mark.parametrize("height", [3.0, 4.0, 5.0])
def test_of_five_classes_at_four_corners(place, height):
    corners = 16.0 * torch.eye(4).reshape(4, 2, 2)
    scores = torch.cat([corners[:place], torch.full((1, 2, 2), height), corners[place:]])
    agrees(softmax_spec(), scores, (3, 3), exact=True)


@pytest.mark.parametrize("channels", [2, 3, 21, 255])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
@pytest.mark.parametrize("scale", [2, 4])
@pytest.mark.parametrize("layout", ["nchw", "nhwc"])
def test_many_equal_mixes(channels, dtype, scale, layout):
    generator = torch.Generator().manual_seed(channels)
    scores = torch.randint(-9, 0, (channels, 12, 16), generator=generator).to(dtype)  # mixes are exact
    scores = scores if layout == "nchw" else scores.permute(1, 2, 0).contiguous()
    spec = make_spec([str(index) for index in range(channels)], "softmax", output={"layout": layout})
    agrees(spec, scores, (16 * scale, 12 * scale), exact=True)


@pytest.mark.parametrize("channels", [2, 3, 21])
@pytest.mark.parametrize("share", [0.1, 0.5, 0.9])
def test_classes_that_are_ruled_out(channels, share):
    generator = torch.Generator().manual_seed(channels)
    scores = torch.randint(-9, 9, (channels, 12, 16), generator=generator).float()
    scores[torch.rand(scores.shape, generator=generator) < share] = -torch.inf
    scores[1] = torch.randint(-9, 9, (12, 16), generator=generator)  # the only one that is possible everywhere
    agrees(make_spec([str(index) for index in range(channels)], "softmax"), scores, (64, 48), exact=True)


@pytest.mark.parametrize("activation", ["softmax", "sigmoid", "none"])
@pytest.mark.parametrize("threshold", [None, 0.0, 0.3, 0.55, 0.9, 1.0])
@pytest.mark.parametrize("cells_hw", [(8, 8), (100, 300)])
@pytest.mark.parametrize("size_wh", [(64, 40), (33, 17), (3, 2)])
def test_threshold_of_several_channels(activation, threshold, cells_hw, size_wh):
    scores = smooth_scores(5, *cells_hw)
    scores = scores.sigmoid() if activation == "none" else scores
    agrees(make_spec(LABELS, activation), scores, size_wh, threshold=threshold)


@pytest.mark.parametrize("size_wh", ODD_SIZES)
@pytest.mark.parametrize("style", ["blend", "cutout"])
def test_threshold_reaches_the_chroma_of_odd_edges(size_wh, style):
    both = Both(softmax_spec(), look_of(style), threshold=0.8)
    frames = [make_picture("nv12", *size_wh, seed=seed) for seed in range(8)]
    both.check(frames, [smooth_scores(5, 8, 12, seed) for seed in range(8)])


@pytest.mark.parametrize("activation", ["sigmoid", "none"])
@pytest.mark.parametrize("threshold", [None, 0.0, 0.3, 0.625, 1.0])
@pytest.mark.parametrize("size_wh", SIZES)
def test_one_channel(activation, threshold, size_wh):
    scores = smooth_scores(1, 8, 12)
    agrees(make_spec(activation=activation), scores, size_wh, threshold=threshold)


def test_limit_of_one_channel_is_met_exactly():
    ramp = torch.tensor([[[0.0, 1.0]]])  # enlarged to 8 columns: 0 0 1/8 3/8 5/8 7/8 1 1
    spec = make_spec(activation="none", input={"width": 2, "height": 1})
    for threshold in (0.625, 0.63, 0.0, 1.0):
        agrees(spec, ramp, (8, 1), threshold=threshold, exact=True)


@pytest.mark.parametrize("labels", [["person"], ["sky", "ground"]])
@pytest.mark.parametrize("classes", [None, [0]])
def test_values_of_one_channel(labels, classes):
    agrees(make_spec(labels, "none", background=None), smooth_scores(1, 8, 8), (16, 16), classes=classes)


@pytest.mark.parametrize("dtype", [torch.int64, torch.int32, torch.uint8, torch.float32, torch.float16, torch.bfloat16])
@pytest.mark.parametrize("size_wh", [*SIZES, (24, 16), (500, 300)])
def test_class_indices(dtype, size_wh):
    indices = torch.randint(0, 7, (8, 12), dtype=torch.int32)  # two of them are out of range
    for scores in (indices, indices[None]):
        assert agrees(make_spec(LABELS, "index"), scores.to(dtype), size_wh, exact=True) == "draw_index"


def test_indices_out_of_range_are_no_class():
    indices = torch.tensor([[-1, -255, 5, 255, 256, 257, 1 << 40, 1]])
    agrees(make_spec(LABELS, "index", background=None), indices, (8, 1), exact=True)
    agrees(make_spec(LABELS, "index"), torch.tensor([[-0.5, 1.7, 4.9, 5.0]]), (4, 1), exact=True)


@pytest.mark.parametrize("size_wh", [(1920, 7), (7, 1080), (641, 3)])
@pytest.mark.parametrize("cells_hw", [(21, 21), (9, 65), (512, 384)])
def test_nearest_index_is_opencvs(size_wh, cells_hw):
    agrees(make_spec(LABELS, "index"), torch.randint(0, 5, cells_hw), size_wh, exact=True)


@pytest.mark.parametrize(
    ("classes", "background"),
    [(None, 0), (["dog"], 0), (["background"], 0), (None, None), (["person"], None), (None, 2)],
)
@pytest.mark.parametrize("activation", ["softmax", "index"])
def test_classes_that_are_not_chosen_count_as_background(classes, background, activation):
    spec = make_spec(LABELS, activation, background=background)
    scores = smooth_scores(5, 8, 8)
    scores = scores.argmax(dim=0) if activation == "index" else scores
    agrees(spec, scores, (64, 40), classes=classes, threshold=0.5)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16, torch.int32, torch.uint8])
@pytest.mark.parametrize("layout", ["nchw", "nhwc"])
@pytest.mark.parametrize("padding", [0, 3, 4])
@pytest.mark.parametrize("channels", [1, 5])
def test_types_and_strides_of_scores(dtype, layout, padding, channels):
    scores = smooth_scores(channels, 8, 12)
    scores = (scores * 10 + 60).to(dtype) if dtype in (torch.int32, torch.uint8) else scores.to(dtype)
    if layout == "nhwc":
        scores = scores.permute(1, 2, 0).contiguous()
    memory = torch.zeros((scores.shape[0], scores.shape[1], scores.shape[2] + padding), dtype=dtype)
    memory[..., padding:] = scores
    spec = make_spec(LABELS if channels == 5 else LABELS[:2], "none", output={"layout": layout})
    for size_wh in ((64, 40), (33, 17)):
        agrees(spec, memory[..., padding:], size_wh)


def test_scores_read_one_by_one_and_in_fours_decide_the_same():
    memory = torch.randn(5, 16, 17)
    shifted = memory[..., 1:]  # starts between words
    spec, frame = softmax_spec(), make_picture("nv12", 70, 50)
    maps = []
    for scores in (shifted, shifted.contiguous(), shifted.half(), shifted.half().permute(1, 2, 0).contiguous()):
        nhwc = make_spec(LABELS, "softmax", output={"layout": "nhwc"})
        both = Both(spec if scores.shape[0] == 5 else nhwc, look_of("blend"))
        maps.append(both.check([frame], [scores])[0][4])
    np.testing.assert_array_equal(maps[0], maps[1])
    np.testing.assert_array_equal(maps[2], maps[3])


@pytest.mark.parametrize("size_wh", [(40, 20), (20, 40), (41, 23), (400, 2), (2, 400), (8, 8)])
@pytest.mark.parametrize("scale", [1, 2, 0.5, 3])
@pytest.mark.parametrize("activation", ["none", "index", "softmax"])
def test_borders_of_a_letterbox_are_cut_off(size_wh, scale, activation):
    cells = int(8 * scale)
    scores = smooth_scores(1 if activation == "none" else 5, cells, cells)
    scores = scores.argmax(dim=0) if activation == "index" else scores
    spec = make_spec(LABELS[:2] if activation == "none" else LABELS, activation, input={"resize": "letterbox"})
    agrees(spec, scores, size_wh)


def test_many_classes():
    labels = [str(index) for index in range(255)]
    agrees(make_spec(labels, "softmax", background=None), torch.randn(255, 6, 8), (40, 30))
    last = torch.zeros(255, 6, 8)
    last[254] = 1
    agrees(make_spec(labels, "softmax", background=None), last, (40, 30), exact=True)
