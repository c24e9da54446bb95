"""The program that sends a stream to a server; `push.PushTarget` starts it and writes to it.

On standard input: a line of JSON (url, connect_timeout, write_timeout, description_bytes), the description of the
streams, then packets until the end. On standard output: perhaps "note: " and what is left out, then "connected", or one
line that says why not, or why no longer.
A server that takes nothing for too long ends it through SIGALRM, which also ends a call that hangs.
"""

from __future__ import annotations

import json
import signal
import sys
from typing import Any, BinaryIO

import av
import av.error
import av.logging

from bmf_trt_seg.live_outputs.target import LONGEST_INTERLEAVING, MuxedStreams
from bmf_trt_seg.stream_packets import StreamPacket

__all__ = ["main"]


def main() -> None:
    """Read, connect, send; exit code 1 after a line with the reason if that fails."""
    av.logging.set_level(None)
    for number in (signal.SIGINT, signal.SIGTERM):  # a supervisor may send them to every process: the input ends this
        signal.signal(number, signal.SIG_IGN)
    try:
        _push(sys.stdin.buffer)
    except (OSError, av.error.FFmpegError, ValueError) as error:
        print(" ".join(str(error).split()), flush=True)
        raise SystemExit(1) from None


def _push(source: BinaryIO) -> None:
    order = json.loads(source.readline())
    description = source.read(order["description_bytes"])
    container_format, options = _muxer(order["url"])
    with _Limit(order["connect_timeout"]):
        container: Any = av.open(
            order["url"], "w", format=container_format, container_options={**options, **LONGEST_INTERLEAVING}
        )
        streams = MuxedStreams(container, description)
        if streams.left_out:
            print(f"note: {streams.left_out}", flush=True)
        container.start_encoding()
    print("connected", flush=True)
    begin: int | None = None
    while (packet := StreamPacket.read(source)) is not None:
        if begin is None:
            if packet.is_sound or not packet.is_key:
                continue
            begin = packet.pts
        with _Limit(order["write_timeout"]):
            streams.mux(packet, begin)
    with _Limit(order["write_timeout"]):
        container.close()


class _Limit:
    """Ends the process if what is inside takes more than so many seconds."""

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds

    def __enter__(self) -> None:
        signal.setitimer(signal.ITIMER_REAL, self._seconds)

    def __exit__(self, *_: object) -> None:
        signal.setitimer(signal.ITIMER_REAL, 0)


def _muxer(url: str) -> tuple[str, dict[str, str]]:
    """FFmpeg's container for an address, and its options."""
    scheme = url.partition("://")[0].lower()
    if scheme in ("rtmp", "rtmps"):
        return "flv", {"flvflags": "no_duration_filesize", "flush_packets": "1"}
    if scheme in ("rtsp", "rtsps"):
        return "rtsp", {"rtsp_transport": "tcp"}
    return "mpegts", {"flush_packets": "1"}
