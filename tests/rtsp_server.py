#!/usr/bin/python3
"""A camera: GStreamer's RTSP server on 127.0.0.1, path /clip. For the system's Python, which has GStreamer's bindings.

Prints its port when it is ready. Without --file the picture is made here, in real time, with the frame's number in it
as `rtsp.striped` has it, and with --sound there are the beeps of `beeps.py`. All clients share one picture; frames that
a stopped server (SIGSTOP) missed are missing. With --record clients send their video instead, which goes to a file.
"""

from __future__ import annotations

import argparse
import array
import math
import random
import sys
import time
from typing import Any

try:
    import gi

    gi.require_version("Gst", "1.0")
    gi.require_version("GstRtspServer", "1.0")
    from gi.repository import GLib, Gst, GstRtspServer
except (ImportError, ValueError) as error:
    sys.exit(f"missing: {error}")

ELEMENTS = ("appsrc", "qtdemux", "h264parse", "x264enc", "rtph264pay", "udpsink", "rtpbin")
BITS, DARK, LIGHT = 10, 60, 180  # as in rtsp.py
SOUND_RATE, BEEP_EVERY, BEEP_SECONDS, BEEP_HERTZ = 48000, 20, 0.1, 1000  # as in beeps.py
SOUNDS = {
    "aac": "voaacenc ! aacparse ! rtpmp4gpay name=pay1 pt=97",
    "alaw": "audioresample ! audio/x-raw,rate=8000 ! alawenc ! rtppcmapay name=pay1 pt=8",
    "opus": "opusenc ! rtpopuspay name=pay1 pt=97",
}


class Drawn:
    """Feeds an appsrc with numbered frames, or with nonsense in the place of H.264, at the rate they are due."""

    def __init__(self, source: Any, sound: Any, size_wh: tuple[int, int], fps: int, garbage: bool) -> None:
        self._sound, self._size_wh, self._fps, self._garbage = sound, size_wh, fps, garbage
        self._number = 0
        self._begin = 0.0
        source.connect("need-data", self._push)

    def _push(self, source: Any, _size: int) -> None:
        now = time.monotonic()
        if not self._number:
            self._begin = now
        due = self._begin + self._number / self._fps
        if now - due > 0.5:  # the server was stopped: a camera keeps nothing for later
            self._number = int((now - self._begin) * self._fps) + 1
            due = self._begin + self._number / self._fps
        time.sleep(max(0.0, due - now))
        buffer = Gst.Buffer.new_wrapped(self._nonsense() if self._garbage else self._frame())
        buffer.pts = buffer.dts = self._number * Gst.SECOND // self._fps
        buffer.duration = Gst.SECOND // self._fps
        if self._sound is not None:
            beeps = Gst.Buffer.new_wrapped(self._beeps())
            beeps.pts = beeps.dts = buffer.pts
            beeps.duration = buffer.duration
            self._sound.emit("push-buffer", beeps)
        self._number += 1
        source.emit("push-buffer", buffer)

    def _frame(self) -> bytes:
        width, height = self._size_wh
        bits = [self._number >> (column * BITS // width) & 1 for column in range(width)]
        row = bytes(LIGHT if bit else DARK for bit in bits)
        return row * height + b"\x80" * (2 * ((width + 1) // 2) * ((height + 1) // 2))

    def _beeps(self) -> bytes:
        size = SOUND_RATE // self._fps
        times = [(self._number * size + index) / SOUND_RATE for index in range(size)]
        is_on = [time_of_sample % (BEEP_EVERY / self._fps) < BEEP_SECONDS for time_of_sample in times]
        waves = [math.sin(2 * math.pi * BEEP_HERTZ * time_of_sample) for time_of_sample in times]
        return array.array(
            "h", [round(16000 * wave) if on else 0 for wave, on in zip(waves, is_on, strict=True)]
        ).tobytes()

    @staticmethod
    def _nonsense() -> bytes:
        return b"\0\0\0\1\x65" + random.randbytes(300).replace(b"\0", b"\1")


class Factory(GstRtspServer.RTSPMediaFactory):  # type: ignore[misc]
    """Pipelines as the arguments say."""

    def __init__(self, arguments: argparse.Namespace) -> None:
        super().__init__()
        self._arguments = arguments
        self._drawn: list[Drawn] = []
        self.set_shared(not arguments.file)
        self.set_latency(0)
        payload = "rtph264pay name=pay0 pt=96 config-interval=-1"
        source = "( appsrc name=drawn is-live=true format=time max-buffers=1"
        width, height = arguments.size
        if arguments.file:
            launch = f'( filesrc location="{arguments.file}" ! qtdemux ! h264parse ! {payload} )'
        elif arguments.garbage:
            launch = f"{source} caps=video/x-h264,stream-format=byte-stream,alignment=au ! {payload} )"
        else:
            # one slice a picture: rtph264pay puts a parameter set before each slice of a key frame, as before a picture
            caps = f"video/x-raw,format=I420,width={width},height={height},framerate={arguments.fps}/1"
            launch = (
                f"{source} caps={caps} ! x264enc tune=zerolatency speed-preset=ultrafast bitrate=4000 "
                f"key-int-max={arguments.key_int} sliced-threads=false threads=1 ! {payload} "
            )
            if arguments.sound:
                caps = f"audio/x-raw,format=S16LE,rate={SOUND_RATE},channels=1,layout=interleaved"
                source = f"appsrc name=sounded is-live=true format=time caps={caps}"
                launch += f"{source} ! audioconvert ! {SOUNDS[arguments.sound]} "
            launch += ")"
        if arguments.record:
            self.set_transport_mode(GstRtspServer.RTSPTransportMode.RECORD)
            launch = (
                "( rtph264depay name=depay0 ! h264parse config-interval=-1 ! video/x-h264,stream-format=byte-stream "
                f'! filesink buffer-mode=unbuffered location="{arguments.record}" )'
            )
        self.set_launch(launch)

    def do_configure(self, media: Any) -> None:
        GstRtspServer.RTSPMediaFactory.do_configure(self, media)
        source = media.get_element().get_by_name("drawn")
        if source is not None:
            sound = media.get_element().get_by_name("sounded")
            self._drawn = [Drawn(source, sound, self._arguments.size, self._arguments.fps, self._arguments.garbage)]


def size_wh(text: str) -> tuple[int, int]:
    width, height = (int(part) for part in text.split("x"))
    if width % 8 or height % 2:
        raise argparse.ArgumentTypeError("the width should be a multiple of 8, the height even: rows have no padding")
    return width, height


def guard(server: Any, factory: Any, user: str, password: str) -> None:
    """Let in only who knows the password."""
    auth = GstRtspServer.RTSPAuth()
    token = GstRtspServer.RTSPToken()
    token.set_string("media.factory.role", "viewer")
    auth.add_basic(GstRtspServer.RTSPAuth.make_basic(user, password), token)
    server.set_auth(auth)
    factory.add_role_from_structure(role_of_viewer())


def role_of_viewer() -> Any:
    role = Gst.Structure.new_empty("viewer")
    for key in ("media.factory.access", "media.factory.construct"):
        role.set_value(key, True)
    return role


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--port", type=int, default=0, help="0: any free one")
    parser.add_argument("--file", default="", help="an H.264 MP4 file, for each client from its beginning")
    parser.add_argument("--size", type=size_wh, default=(160, 96))
    parser.add_argument("--fps", type=int, default=25)
    parser.add_argument("--key-int", type=int, default=10)
    parser.add_argument("--user", default="")
    parser.add_argument("--password", default="")
    parser.add_argument("--garbage", action="store_true", help="send random bytes as H.264")
    parser.add_argument("--sound", choices=list(SOUNDS), default="")
    parser.add_argument("--record", default="", help="file for the H.264 that a client sends")
    parser.add_argument("--check", action="store_true", help="only say whether everything needed is installed")
    arguments = parser.parse_args()
    Gst.init(None)
    missing = [name for name in ELEMENTS if Gst.ElementFactory.find(name) is None]
    if missing:
        sys.exit(f"missing: GStreamer elements {', '.join(missing)}")
    if arguments.check:
        return
    server, factory = GstRtspServer.RTSPServer(), Factory(arguments)
    server.set_address("127.0.0.1")
    server.set_service(str(arguments.port))
    if arguments.user:
        guard(server, factory, arguments.user, arguments.password)
    server.get_mount_points().add_factory("/clip", factory)
    if not server.attach(None):
        sys.exit(f"port {arguments.port} cannot be had")
    print(server.get_bound_port(), flush=True)
    GLib.MainLoop().run()


if __name__ == "__main__":
    main()
