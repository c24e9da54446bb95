"""SegmentModule: the BMF module. It turns packets into pictures and pictures into packets, and keeps their order."""

from __future__ import annotations

import logging
from fractions import Fraction
from typing import Any

import cv2
from bmf import Packet, Task, Timestamp, VideoFrame

from bmf_trt_seg.bmf_frames import Picture, new_picture, picture_of
from bmf_trt_seg.bmf_module import OurModule, packets
from bmf_trt_seg.frames import FramePlanes
from bmf_trt_seg.metrics import open_stream
from bmf_trt_seg.options import read_options
from bmf_trt_seg.pipeline import Pipeline
from bmf_trt_seg.records import frame_record
from bmf_trt_seg.segmentation import Segmentation

__all__ = ["SegmentModule"]

_log = logging.getLogger(__name__)
_PICTURES, _RECORDS = 0, 1  # output streams; the second one is optional


class _Waiting:
    """A picture between its arrival and its departure."""

    def __init__(self, number: int, packet: Packet, source: Picture, planes: FramePlanes) -> None:
        self.number = number
        self.packet_timestamp = packet.timestamp
        self.source = source
        self.planes = planes  # of the source, or of a rescaled copy
        self.pts = source.frame.pts
        self.time_base = Fraction(source.frame.time_base.num, source.frame.time_base.den)


class SegmentModule(OurModule):
    """Segments the frames of its input stream.

    Output stream 0 carries a frame for each frame that came, in order, with the same timestamps and properties.
    Output stream 1, if the graph connects it, carries a record for each (a dict, see `bmf_trt_seg.records`).
    Options: see `bmf_trt_seg.options.SegmentOptions`. The network is loaded here, so a graph with a wrong option ends
    before its first frame.
    """

    def __init__(self, node: int | None = None, option: dict[str, Any] | None = None) -> None:
        super().__init__(node, option)
        options = read_options(option or {})
        cv2.setNumThreads(1)  # a picture is too small to be shared out, and the other cores decode and encode
        self._metrics = open_stream(options.name)
        self._pipeline = Pipeline(options, self._metrics)
        self._waiting: list[_Waiting] = []
        self._size_wh: tuple[int, int] | None = None

    def work(self, task: Task) -> None:
        for packet in packets(task.get_inputs()[0]):
            if packet.timestamp == Timestamp.EOF or self._metrics.stop_requested:
                self._emit(task)
                for stream in task.get_outputs().values():
                    stream.put(Packet.generate_eof_packet())
                task.timestamp = Timestamp.DONE
                break
            if packet.is_(VideoFrame):
                self._take(packet)
                if self._is_ready():
                    self._emit(task)

    def _take(self, packet: Packet) -> None:
        source = picture_of(packet.get(VideoFrame))
        planes = source.planes
        if self._size_wh is None:
            self._size_wh = planes.width, planes.height
        if (planes.width, planes.height) != self._size_wh:
            if not self._metrics.rescaled:
                _log.warning(
                    "stream '%s': frame %d is %dx%d, the first was %dx%d; frames of another size are scaled to that",
                    self._metrics.name, self._metrics.frames_in, planes.width, planes.height, *self._size_wh,
                )  # fmt: skip
            planes = planes.resized(*self._size_wh)
            self._metrics.rescaled += 1
        self._waiting.append(_Waiting(self._metrics.frames_in, packet, source, planes))
        self._metrics.frames_in += 1

    def _is_ready(self) -> bool:
        """Whether what waits is a full batch, or waits for no inference at all."""
        due = sum(self._pipeline.masks.is_due(item.number) for item in self._waiting)
        return due == 0 or due == self._pipeline.masks.batch_size

    def _emit(self, task: Task) -> None:
        """Segment, draw and send everything that waits."""
        waiting, self._waiting = self._waiting, []
        if not waiting:
            return
        segmentations = self._pipeline.segment(
            [item.planes for item in waiting],
            [item.number for item in waiting],
            [(item.pts, item.time_base) for item in waiting],
        )
        outputs = task.get_outputs()
        for item, segmentation in zip(waiting, segmentations, strict=True):
            _send(outputs[_PICTURES], self._drawn(item, segmentation), item.packet_timestamp)
            if _RECORDS in outputs:
                _send(outputs[_RECORDS], self._record(item, segmentation), item.packet_timestamp)
            self._metrics.frames_out += 1

    def _drawn(self, item: _Waiting, segmentation: Segmentation) -> VideoFrame:
        width, height = self._pipeline.size(item.planes.width, item.planes.height)
        # encoders of 4:2:0 video want even sizes
        target = new_picture(item.source, width + width % 2, height + height % 2)
        self._pipeline.draw(item.planes, segmentation, target.planes)
        return target.frame

    def _record(self, item: _Waiting, segmentation: Segmentation) -> dict[str, Any]:
        return frame_record(
            segmentation.map_hw,
            self._pipeline.labels,
            self._pipeline.colors,
            frame=item.number,
            pts=item.pts,
            time_base=item.time_base,
            inferred=segmentation.inferred,
            background=self._pipeline.masks.background,
        )

    def close(self) -> None:
        self._pipeline.close()


def _send(stream: Any, content: Any, timestamp: int) -> None:
    packet = Packet(content)
    packet.timestamp = timestamp
    stream.put(packet)
