"""Clips and tiny networks for the tests, generated.

Every frame carries its number as ten blocks along its top, readable after lossy encoding, and a bright box. The network
of `bright_model` finds the box by its brightness, so that the mask of every generated frame is known to the pixel.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import av.error
import numpy as np
import numpy.typing as npt
import onnx
from onnx import TensorProto, helper, numpy_helper

Plane = npt.NDArray[np.uint8]

SIZE_WH = (160, 90)
_BITS = 10
_BOX_LUMA, _BRIGHTEST_ELSEWHERE = 220, 110
_THRESHOLD = 0.65  # between the two, in limited and in full range
_RANGES = {"limited": 1, "full": 2}  # FFmpeg's numbers; matrices below have those of ITU-T H.273
MATRICES = {"bt709": 1, "bt470bg": 5, "smpte170m": 6, "bt2020nc": 9}


def luma(number: int, width: int, height: int) -> Plane:
    """The luma plane of a frame: number, moving pattern, bright box."""
    x, y = np.arange(width)[None, :], np.arange(height)[:, None]
    plane = (25 + (3 * x + 5 * y + 7 * number) % 80).astype(np.uint8)
    block = width // _BITS
    for bit in range(_BITS):
        plane[: height // 4, bit * block : (bit + 1) * block] = _BRIGHTEST_ELSEWHERE if number >> bit & 1 else 30
    plane[box(number, width, height)] = _BOX_LUMA
    return plane


def box(number: int, width: int, height: int) -> tuple[slice, slice]:
    """Rows and columns of the bright box: odd and even corners take turns."""
    left, top = width // 8 + 3 * number % (width // 2), height // 3 + number % (height // 4)
    return slice(top, top + height // 3 + 1), slice(left, left + width // 4 + 1)


def box_mask(number: int, width: int, height: int) -> npt.NDArray[np.bool_]:
    mask = np.zeros((height, width), bool)
    mask[box(number, width, height)] = True
    return mask


def number_of(plane: Plane) -> int:
    """The number that a luma plane carries, whatever its size is."""
    height, width = plane.shape
    block = width / _BITS
    rows = plane[height // 16 : height // 5].astype(int)
    bits = [rows[:, int(bit * block + block / 4) : int((bit + 1) * block - block / 4)].mean() for bit in range(_BITS)]
    return sum(1 << bit for bit, mean in enumerate(bits) if mean > (30 + _BRIGHTEST_ELSEWHERE) / 2)


def picture(number: int, width: int, height: int, pixel_format: str = "yuv420p") -> av.VideoFrame:
    """A frame; its chroma is a pattern too, near grey."""
    is_full = pixel_format.startswith("yuvj")
    frame = av.VideoFrame(width, height, "yuvj420p" if is_full else "yuv420p")
    chroma = (width + 1) // 2, (height + 1) // 2
    x, y = np.arange(chroma[0])[None, :], np.arange(chroma[1])[:, None]
    cb = np.broadcast_to(110 + (x + number) % 36, chroma[::-1])
    cr = np.broadcast_to(146 - (2 * y + number) % 36, chroma[::-1])
    for plane, values in zip(frame.planes, (luma(number, width, height), cb, cr), strict=True):
        rows = np.zeros((plane.height, plane.line_size), np.uint8)
        rows[: values.shape[0], : values.shape[1]] = values
        plane.update(rows.tobytes())
    return frame if frame.format.name == pixel_format else frame.reformat(format=pixel_format)


@dataclass(frozen=True)
class Recipe:
    """How a clip is made. `pts` in units of `time_base`; default: one a frame at `rate`."""

    frames: int = 30
    size_wh: tuple[int, int] = SIZE_WH
    rate: Fraction = Fraction(25)
    time_base: Fraction | None = None
    pts: Sequence[int] | None = None
    numbers: Sequence[int] | None = None
    codec: str = "libx264"
    pixel_format: str = "yuv420p"
    b_frames: int = 0
    crf: int = 12
    options: tuple[tuple[str, str], ...] = ()
    mux_options: tuple[tuple[str, str], ...] = ()
    audio: tuple[str, ...] = ()
    """A codec for each audio track."""
    subtitles: str = ""
    """Codec of a subtitle track."""
    rotation: int | None = None
    sample_aspect: Fraction | None = None
    matrix: str = ""
    value_range: str = ""
    primaries: int = 0
    transfer: int = 0


def write_clip(
    path: Path, recipe: Recipe | None = None, draw: Callable[..., av.VideoFrame] = picture, **fields: Any
) -> Path:
    """Write a clip as a recipe says, some fields replaced; the ending of `path` is the container."""
    recipe = replace(recipe or Recipe(), **fields)
    width, height = recipe.size_wh
    time_base = recipe.time_base or 1 / recipe.rate
    pts = list(recipe.pts if recipe.pts is not None else range(recipe.frames))
    with av.open(str(path), "w", options=dict(recipe.mux_options)) as out:
        options = {"crf": str(recipe.crf), "preset": "veryfast"} if recipe.codec.startswith("libx26") else {}
        if recipe.codec == "libx264":
            options.update({"bf": str(recipe.b_frames), "x264-params": "b-adapt=0:log=-1"})
        if recipe.codec == "libx265":
            options["x265-params"] = f"bframes={recipe.b_frames}:b-adapt=0:log-level=none"
        stream = out.add_stream(recipe.codec, rate=recipe.rate, options={**options, **dict(recipe.options)})
        stream.width, stream.height, stream.pix_fmt = width, height, recipe.pixel_format
        stream.codec_context.time_base = stream.time_base = time_base
        if recipe.sample_aspect:
            stream.codec_context.sample_aspect_ratio = recipe.sample_aspect
        for name, value in _tags(recipe).items():
            setattr(stream.codec_context, name, value)
        if recipe.rotation is not None:
            stream.set_display_rotation(recipe.rotation)
        tracks = [_audio_track(out, codec) for codec in recipe.audio]
        seconds = float((pts[-1] - pts[0]) * time_base) + 0.04 if pts else 0.0
        start = float(pts[0] * time_base) if pts else 0.0
        packets = []
        numbers = recipe.numbers or range(len(pts))
        for number, when in zip(numbers, pts, strict=True):
            frame = draw(number, width, height, recipe.pixel_format)
            for name, value in _tags(recipe).items():
                setattr(frame, name, value)
            frame.pts, frame.time_base = when, time_base
            packets += stream.encode(frame)
        packets += stream.encode(None)
        for index, track in enumerate(tracks):
            packets += _sound(track, start, seconds, 300 + 200 * index)
        if recipe.subtitles:
            packets += _subtitles(out, recipe.subtitles, start, path)
        if not packets:
            out.start_encoding()
        for packet in sorted(packets, key=lambda packet: packet.dts * packet.time_base):
            out.mux(packet)
    return path


def write_flat(path: Path, ycbcr: tuple[int, int, int], recipe: Recipe) -> Path:
    """A clip of one colour."""

    def flat(number: int, width: int, height: int, pixel_format: str) -> av.VideoFrame:
        frame = av.VideoFrame(width, height, pixel_format)
        for plane, value in zip(frame.planes, ycbcr, strict=True):
            plane.update(bytes([value]) * plane.buffer_size)
        return frame

    return write_clip(path, recipe, draw=flat)


def _tags(recipe: Recipe) -> dict[str, int]:
    tags = {
        "colorspace": MATRICES.get(recipe.matrix, 0),
        "color_range": _RANGES.get(recipe.value_range, 0),
        "color_primaries": recipe.primaries,
        "color_trc": recipe.transfer,
    }
    return {name: value for name, value in tags.items() if value}


def _audio_track(out: Any, codec: str) -> Any:
    track = out.add_stream(codec, rate=48000)
    track.layout = "mono"
    return track


def _sound(track: Any, start: float, seconds: float, hertz: int) -> list[Any]:
    size = track.codec_context.frame_size or 1024
    packets = []
    sample_format = track.codec_context.format.name
    for index in range(int(seconds * 48000) // size + 1):
        time = np.arange(index * size, (index + 1) * size) / 48000
        tone = 0.3 * np.sin(2 * np.pi * hertz * time)[None]
        peak, kind = {"s16": (2**15 - 1, np.int16), "s32": (2**31 - 1, np.int32)}.get(
            sample_format[:3], (1, np.float32)
        )
        samples = (tone * peak).astype(kind)
        frame = av.AudioFrame.from_ndarray(samples, format=sample_format, layout="mono")
        frame.sample_rate, frame.time_base = 48000, Fraction(1, 48000)
        frame.pts = int(start * 48000) + index * size
        packets += track.encode(frame)
    return packets + track.encode(None)


_ASS_HEADER = b"""[Script Info]
ScriptType: v4.00+

[V4+ Styles]
Format: Name, Fontname, Fontsize
Style: Default,Arial,16

[Events]
Format: Layer, Start, End, Style, Name, MarginL, MarginR, MarginV, Effect, Text
"""


def _subtitles(out: Any, codec: str, start: float, path: Path) -> list[Any]:
    source = path.with_suffix(".tmp.srt")
    source.write_text("1\n00:00:00,100 --> 00:00:00,500\nfirst line\n\n2\n00:00:00,600 --> 00:00:00,900\nsecond\n")
    packets = []
    with av.open(str(source)) as lines:
        if codec == "subrip":
            stream = out.add_stream_from_template(lines.streams.subtitles[0])
        else:
            stream = out.add_stream(codec)
            stream.codec_context.subtitle_header = _ASS_HEADER
        for packet in lines.demux():
            if not packet.size:
                continue
            data = bytes(packet)
            copy = av.Packet(len(data).to_bytes(2, "big") + data if codec == "mov_text" else data)
            copy.pts = copy.dts = packet.pts + round(start * 1000)
            copy.duration, copy.time_base, copy.stream = packet.duration, Fraction(1, 1000), stream
            packets.append(copy)
    source.unlink()
    return packets


@dataclass(frozen=True)
class Shown:
    """A decoded frame."""

    seconds: Fraction
    duration_seconds: Fraction
    number: int
    planes: tuple[Plane, ...]
    pixel_format: str
    rotation: int


def read_clip(path: Path) -> list[Shown]:
    """Every frame of a video in the order of display; 8-bit planar formats only."""
    with av.open(str(path)) as container:
        stream = container.streams.video[0]
        return [_shown(frame, stream) for frame in container.decode(stream)]


def _shown(frame: av.VideoFrame, stream: Any) -> Shown:
    planes = tuple(plane_of(plane) for plane in frame.planes)
    return Shown(
        seconds=frame.pts * frame.time_base,
        duration_seconds=(frame.duration or 0) * frame.time_base,
        number=number_of(planes[0]),
        planes=planes,
        pixel_format=frame.format.name,
        rotation=frame.rotation,
    )


def plane_of(plane: Any) -> Plane:
    return np.frombuffer(plane, np.uint8).reshape(-1, plane.line_size)[: plane.height, : plane.width].copy()


def times(path: Path) -> list[tuple[Fraction, int]]:
    """When each frame is shown, and its number."""
    return [(shown.seconds, shown.number) for shown in read_clip(path)]


def packets_of(path: Path, kind: str) -> list[list[tuple[Fraction, bytes]]]:
    """For each stream of a kind ('audio', 'subtitle'): the time and content of its packets."""
    with av.open(str(path)) as container:
        streams = [stream for stream in container.streams if stream.type == kind]
        found: dict[int, list[tuple[Fraction, bytes]]] = {stream.index: [] for stream in streams}
        for packet in container.demux():
            if packet.size and packet.stream.index in found:
                found[packet.stream.index].append((packet.pts * packet.time_base, bytes(packet)))
        return list(found.values())


def concatenated(path: Path, parts: Iterable[Path]) -> Path:
    """Parts of MPEG-TS or raw streams, one after the other."""
    path.write_bytes(b"".join(part.read_bytes() for part in parts))
    return path


def write_network(
    path: Path,
    nodes: Callable[[], list[onnx.NodeProto]],
    *,
    size_wh: tuple[int, int],
    output: list[int | str],
    constants: dict[str, npt.NDArray[Any]] | None = None,
    output_type: int = TensorProto.FLOAT,
    batch: int | str = "N",
    spec: dict[str, Any] | None = None,
) -> Path:
    """An ONNX network from 'input' (N, 3, H, W) to 'output', with its description beside it unless spec is None."""
    width, height = size_wh
    graph = helper.make_graph(
        nodes(),
        path.stem,
        [helper.make_tensor_value_info("input", TensorProto.FLOAT, [batch, 3, height, width])],
        [helper.make_tensor_value_info("output", output_type, output)],
        [numpy_helper.from_array(value, name) for name, value in (constants or {}).items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    onnx.checker.check_model(model)
    path.write_bytes(model.SerializeToString())
    if spec is not None:
        full = {"input": {"width": width, "height": height}, **spec}
        path.with_suffix(".json").write_text(json.dumps(full), encoding="utf-8")
    return path


_BRIGHTNESS = {"weights": np.array([0.299, 0.587, 0.114], np.float32).reshape(1, 3, 1, 1)}


def _brightness_node() -> onnx.NodeProto:
    return helper.make_node("Conv", ["input", "weights"], ["brightness"])


def bright_model(path: Path, size_wh: tuple[int, int] = SIZE_WH, batch: int | str = "N", **spec: Any) -> Path:
    """One channel, probability = brightness: its class 1, 'box', is exactly the box of a frame of this size."""
    description = {
        "labels": ["background", "box"],
        "palette": ["#000000", "#ff0000"],
        "output": {"activation": "none", "threshold": _THRESHOLD},
        **spec,
    }
    return write_network(
        path,
        lambda: [_brightness_node(), helper.make_node("Identity", ["brightness"], ["output"])],
        size_wh=size_wh,
        output=[batch, 1, size_wh[1], size_wh[0]],
        batch=batch,
        constants=_BRIGHTNESS,
        spec=description,
    )


def red_model(path: Path) -> Path:
    """Class 1 is pure red within 3 %: probability = red - green - blue."""
    return write_network(
        path,
        lambda: [helper.make_node("Conv", ["input", "weights"], ["output"])],
        size_wh=(32, 18),
        output=["N", 1, 18, 32],
        constants={"weights": np.array([1, -1, -1], np.float32).reshape(1, 3, 1, 1)},
        spec={"labels": ["background", "red"], "output": {"activation": "none", "threshold": 0.97}},
    )


def three_class_model(path: Path, size_wh: tuple[int, int] = SIZE_WH) -> Path:
    """Logits of 'dark', 'middle' and 'light': the box is light, pixels of luma above 70 or so are middle."""
    gains = np.array([[-20.0], [0.0], [40.0]], np.float32).reshape(3, 1, 1, 1)
    offsets = np.array([5.0, 0.0, -26.0], np.float32)
    return write_network(
        path,
        lambda: [_brightness_node(), helper.make_node("Conv", ["brightness", "gains", "offsets"], ["output"])],
        size_wh=size_wh,
        output=["N", 3, size_wh[1], size_wh[0]],
        constants={**_BRIGHTNESS, "gains": gains, "offsets": offsets},
        spec={
            "labels": ["dark", "middle", "light"],
            "palette": ["#000000", "#0000ff", "#00ff00"],
            "output": {"activation": "softmax"},
        },
    )


def index_model(path: Path, size_wh: tuple[int, int] = SIZE_WH) -> Path:
    """Class indices (N, H, W) int64: 0 around the box, 1 in it."""
    return write_network(
        path,
        lambda: [
            _brightness_node(),
            helper.make_node("Squeeze", ["brightness", "axis"], ["flat"]),
            helper.make_node("Greater", ["flat", "limit"], ["is_bright"]),
            helper.make_node("Cast", ["is_bright"], ["output"], to=TensorProto.INT64),
        ],
        size_wh=size_wh,
        output=["N", size_wh[1], size_wh[0]],
        output_type=TensorProto.INT64,
        constants={**_BRIGHTNESS, "axis": np.array([1], np.int64), "limit": np.array(_THRESHOLD, np.float32)},
        spec={"labels": ["around", "box"], "output": {"activation": "index"}},
    )


def classifier_model(path: Path, size_wh: tuple[int, int] = SIZE_WH) -> Path:
    """No segmentation network: three scores for the whole picture. Its description says otherwise."""
    return write_network(
        path,
        lambda: [
            helper.make_node("GlobalAveragePool", ["input"], ["mean"]),
            helper.make_node("Flatten", ["mean"], ["output"]),
        ],
        size_wh=size_wh,
        output=["N", 3],
        spec={"labels": ["a", "b", "c"], "output": {"activation": "softmax"}},
    )


def failing_model(path: Path) -> Path:
    """Runs on a black picture, fails on any other: takes an entry that a list of one does not have."""
    return write_network(
        path,
        lambda: [
            helper.make_node("ReduceMax", ["input"], ["top"], keepdims=0),
            helper.make_node("Ceil", ["top"], ["step"]),
            helper.make_node("Cast", ["step"], ["place"], to=TensorProto.INT64),
            helper.make_node("Gather", ["list", "place"], ["entry"]),
            helper.make_node("Slice", ["input", "zero", "one", "one"], ["first"]),
            helper.make_node("Mul", ["first", "entry"], ["output"]),
        ],
        size_wh=SIZE_WH,
        output=["N", 1, SIZE_WH[1], SIZE_WH[0]],
        constants={
            "zero": np.array([0], np.int64), "one": np.array([1], np.int64), "list": np.array([0.0], np.float32),
        },
        spec={"labels": ["background", "box"], "output": {"activation": "none"}},
    )  # fmt: skip


def text_file(path: Path) -> Path:
    path.write_text("This is no video.\n" * 200, encoding="utf-8")
    return path


def audio_only(path: Path) -> Path:
    with av.open(str(path), "w") as out:
        track = _audio_track(out, "aac")
        for packet in _sound(track, 0.0, 1.0, 440):
            out.mux(packet)
    return path


def cut(path: Path, source: Path, part: float) -> Path:
    """The first `part` (0 to 1) of a file."""
    content = source.read_bytes()
    path.write_bytes(content[: int(len(content) * part)])
    return path
