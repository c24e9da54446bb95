"""NvDecSource: a BMF source module that decodes a video on the GPU, into frames that stay there."""

from __future__ import annotations

import contextlib
import logging
import time
from collections.abc import Iterator
from fractions import Fraction
from typing import TYPE_CHECKING, Any

import av
import bmf.hmp as hmp
import numpy as np
import numpy.typing as npt
from bmf import Packet, ProcessResult, Task, Timestamp, VideoFrame
from bmf.lib._bmf.sdk import Rational

from bmf_trt_seg import metrics, trace
from bmf_trt_seg.bmf_module import OurModule
from bmf_trt_seg.errors import BackendUnavailable, StreamError
from bmf_trt_seg.hardware import device_index, nvdec_missing
from bmf_trt_seg.options import NvDecOptions
from bmf_trt_seg.sources.packets import Track, TrackInfo, nvdec_refusal
from bmf_trt_seg.sources.urls import is_network, masked
from bmf_trt_seg.validation import validated

if TYPE_CHECKING:
    from bmf_trt_seg.sources.nvdecoder import NvDecoder

__all__ = ["NvDecSource"]

_log = logging.getLogger(__name__)
_TURN_SECONDS = 0.005  # in which frames of a file go on together: each turn of a module waits for Python's lock
_LARGEST_MATRIX = 14  # the colour matrices that BMF has a name for


class NvDecSource(OurModule):
    """Frames of a file or address: NV12 or P010 in GPU memory from NVDEC, else YUV420P from FFmpeg, with one warning.

    They are upright, and carry the track's own times (or those of the option 'clock'), matrix and range. BMF lets no
    Python module set the rest: the encoder wants `in_time_base`, `r` and `vsync` for that.
    """

    def __init__(self, node: int | None = None, option: dict[str, Any] | None = None) -> None:
        super().__init__(node, option)
        self._options = options = validated(NvDecOptions, option or {}, "options of NvDecSource")
        self._stream = metrics.open_stream(options.name, "source")
        self._name = f"'{masked(options.path)}'"
        self._track = self._opened()
        self._last_pts: int | None = None
        # of an address, the next frame may be long in coming
        self._turn_seconds = 0.0 if is_network(options.path) else _TURN_SECONDS
        self._late_failure: Exception | None = None
        self._decoder: NvDecoder | None = None
        own = self._track.info.time_base
        self._unit = Fraction(1, options.clock) if options.clock else own
        self._ticks = own / self._unit
        self._frames = self._chosen()

    def work(self, task: Task) -> None:
        if self._late_failure is not None:
            raise self._late_failure
        output = task.get_outputs()[0]
        began = time.monotonic()
        is_first = True
        while is_first or time.monotonic() - began < self._turn_seconds:
            try:
                with trace.timed(self._options.name, "decode", frame=self._stream.frames_in):
                    frame = None if self._stream.stop_requested else next(self._frames, None)
            except Exception as error:
                if is_first:
                    raise
                self._late_failure = error  # BMF gives nobody the frames of a turn that fails
                return
            if frame is None:
                output.put(Packet.generate_eof_packet())
                task.timestamp = Timestamp.DONE
                self.close()
                return
            packet = Packet(frame)
            packet.timestamp = frame.pts * self._unit.numerator * 1_000_000 // self._unit.denominator
            self._stream.frames_in += 1
            self._stream.frames_out += 1
            output.put(packet)
            is_first = False

    def close(self) -> ProcessResult:
        """End reading; frames that were given out stay what they are."""
        self._frames = iter(())
        self._track.close()
        return ProcessResult.OK

    def __del__(self) -> None:
        # not in `close`: BMF calls that while the last frames are on their way, and giving up holds up all Python
        super().__del__()
        with contextlib.suppress(Exception):
            self._give_up_decoder()

    def _give_up_decoder(self) -> None:
        if self._decoder is not None:
            self._decoder.close()
            self._decoder = None

    def _opened(self) -> Track:
        return Track(self._options.path, self._options.start_seconds, self._options.end_seconds)

    def _chosen(self) -> Iterator[VideoFrame]:
        """The frames, from where they are to be decoded; what can be known before the first is found out here."""
        if self._options.decoder == "ffmpeg":
            return self._on_cpu()
        missing = nvdec_missing(self._options.device)
        reason = missing or nvdec_refusal(self._track.info)
        if not reason:
            _log.info("stream '%s': decoder NVDEC of %s", self._options.name, self._options.device)
            return self._on_gpu()
        if self._options.decoder == "nvdec":
            self._track.close()
            kind = BackendUnavailable if missing else StreamError
            raise kind(f"{self._name} cannot be decoded by NVDEC: {reason}; 'decoder' 'auto' takes FFmpeg then")
        self._warn(reason)
        return self._on_cpu()

    def _on_gpu(self) -> Iterator[VideoFrame]:
        from bmf_trt_seg.sources.nvdecoder import NvDecoder

        info, device = self._track.info, device_index(self._options.device)
        pixels = _pixel_info(hmp.kPF_P010LE if info.bit_depth > 8 else hmp.kPF_NV12, info.matrix, info.is_full_range)

        def new_planes(width: int, height: int) -> tuple[hmp.Frame, tuple[Any, ...]]:
            return _device_frame(width, height, pixels, device)

        try:
            self._decoder = NvDecoder(info, device, new_planes)
            for picture in self._decoder.pictures(self._track):
                yield self._timed(VideoFrame(picture.owner), picture.pts)
            if self._last_pts is not None:
                return
            reason = "it gave not one frame"
        except StreamError as error:
            reason = str(error)
        if self._options.decoder == "nvdec":
            raise StreamError(f"{self._name} cannot be decoded by NVDEC: {reason}; 'decoder' 'auto' takes FFmpeg then")
        self._warn(reason)
        self._give_up_decoder()
        self._track.close()
        self._track = self._opened()
        if self._last_pts is not None:
            self._track.skip_to(self._last_pts + 1)
        yield from self._on_cpu()

    def _on_cpu(self) -> Iterator[VideoFrame]:
        info = self._track.info
        for picture in self._track.pictures():
            yield self._timed(_host_frame(picture, info), int(picture.pts or 0))
        if self._track.unreadable:
            _log.warning("%s is damaged: %d packets could not be decoded", self._name, self._track.unreadable)
        if self._last_pts is None:
            end = self._options.end_seconds
            window = f" from {self._options.start_seconds:g} s" if self._options.start_seconds else ""
            window += "" if end is None else f" up to {end:g} s"
            raise StreamError(f"{self._name}: not one frame could be decoded{window}")

    def _warn(self, reason: str) -> None:
        _log.warning("%s: FFmpeg decodes it on the CPU, NVDEC cannot: %s", self._name, reason)

    def _timed(self, frame: VideoFrame, pts: int) -> VideoFrame:
        """The frame with its time, in the track's unit or in that of the option 'clock'."""
        self._last_pts = pts
        frame.pts = pts if self._ticks == 1 else round(pts * self._ticks)
        frame.time_base = Rational(self._unit.numerator, self._unit.denominator)
        return frame


def _pixel_info(pixel_format: Any, matrix: int, is_full_range: bool) -> Any:
    space = hmp.ColorSpace(matrix) if 0 < matrix <= _LARGEST_MATRIX else hmp.kCS_UNSPECIFIED
    return hmp.PixelInfo(pixel_format, space, hmp.kCR_JPEG if is_full_range else hmp.kCR_MPEG)


def _device_frame(width: int, height: int, pixels: Any, device: int) -> tuple[hmp.Frame, tuple[Any, ...]]:
    """A frame from BMF's pool of GPU memory, and its planes as PyTorch's tensors."""
    from bmf_trt_seg.bmf_tensors import device_planes

    frame = hmp.Frame(width, height, pixels, device=f"cuda:{device}")
    return frame, device_planes(frame)


def _host_frame(picture: av.VideoFrame, info: TrackInfo) -> VideoFrame:
    """A copy in BMF's memory: upright, 8-bit 4:2:0, an odd last row or column twice."""
    matrix, is_full = info.matrix, info.is_full_range
    if picture.format.name not in ("yuv420p", "yuvj420p"):
        if picture.format.is_rgb:
            matrix, is_full = int(hmp.kCS_SMPTE170M), False
        picture = _as_yuv420p(picture, is_full)
    planes = [np.rot90(_plane(picture, index), info.quarter_turns) for index in range(3)]
    height, width = planes[0].shape
    pixels = _pixel_info(hmp.kPF_YUV420P, matrix, is_full)
    made = VideoFrame(hmp.Frame(width + width % 2, height + height % 2, pixels))
    for index, plane in enumerate(planes):
        target = made.frame().plane(index).numpy()[..., 0]
        rows, columns = min(target.shape[0], plane.shape[0]), min(target.shape[1], plane.shape[1])
        target[:rows, :columns] = plane[:rows, :columns]
        target[rows:] = target[rows - 1]
        target[:, columns:] = target[:, columns - 1 : columns]
    return made


def _as_yuv420p(picture: av.VideoFrame, is_full: bool) -> av.VideoFrame:
    """swscale is told both ranges and the same matrix twice: of tags it makes conversions that nobody asked for."""
    name = "pc" if is_full else "tv"
    is_grey = picture.format.name.startswith("gray")
    scale = f"in_range={'pc' if is_grey else name}:out_range={name}:in_color_matrix=bt709:out_color_matrix=bt709"
    if picture.format.is_rgb:
        scale = "out_range=tv:out_color_matrix=bt601"
    scale += ":flags=bilinear"  # as FFmpeg 4, BMF's, does it by itself
    graph = av.filter.Graph()
    source = graph.add_buffer(
        width=picture.width, height=picture.height, format=picture.format, time_base=Fraction(1, 1000)
    )
    graph.link_nodes(
        source, graph.add("scale", scale), graph.add("format", "yuv420p"), graph.add("buffersink")
    ).configure()
    graph.push(picture)
    converted = graph.pull()
    assert isinstance(converted, av.VideoFrame)
    return converted


def _plane(picture: av.VideoFrame, index: int) -> npt.NDArray[np.uint8]:
    plane = picture.planes[index]
    return np.frombuffer(memoryview(plane), np.uint8).reshape(-1, plane.line_size)[: plane.height, : plane.width]
