"""Cameras for the tests: a real RTSP server in a process of its own, and peers that are none."""

from __future__ import annotations

import functools
import os
import random
import signal
import socket
import subprocess
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import Any, Literal

import av
import numpy as np
import numpy.typing as npt

SIZE_WH = (160, 96)
PACKAGES = "gir1.2-gst-rtsp-server-1.0 python3-gi gstreamer1.0-plugins-base gstreamer1.0-plugins-good \
gstreamer1.0-plugins-bad gstreamer1.0-plugins-ugly"
_PYTHON = "/usr/bin/python3"
_SCRIPT = Path(__file__).with_name("rtsp_server.py")
_BITS, _DARK, _LIGHT = 10, 60, 180
NUMBERS = 1 << _BITS


@functools.cache
def missing() -> str:
    """Why there can be no RTSP server here; '' if there can."""
    try:
        check = subprocess.run(
            [_PYTHON, str(_SCRIPT), "--check"], capture_output=True, text=True, timeout=60, check=False
        )
        reason = check.stderr.strip().splitlines()[-1] if check.returncode else ""
    except OSError as error:
        reason = str(error)
    return reason and f"no RTSP server ({reason}): apt-get install --no-install-recommends {PACKAGES}"


def free_port() -> int:
    """A port of 127.0.0.1 on which nobody listens."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        return int(taken.getsockname()[1])


class RtspServer:
    """A server with a camera at `url`. It stays on its port when it is started again."""

    def __init__(
        self,
        *,
        file: Path | None = None,
        size_wh: tuple[int, int] = SIZE_WH,
        fps: int = 25,
        key_int: int = 10,
        user: str = "",
        password: str = "",
        garbage: bool = False,
        sound: str = "",
        record: Path | None = None,
        started: bool = True,
    ) -> None:
        self.size_wh = size_wh
        self.port = 0 if started else free_port()
        self._login = f"{user}:{password}@" if user else ""
        self._arguments = ["--fps", str(fps), "--key-int", str(key_int)]
        self._arguments += ["--user", user, "--password", password] if user else []
        self._arguments += ["--file", str(file)] if file else []
        self._arguments += ["--garbage"] if garbage else []
        self._arguments += ["--sound", sound] if sound else []
        self._arguments += ["--record", str(record)] if record else []
        self._process: subprocess.Popen[str] | None = None
        if started:
            self.start()

    @property
    def url(self) -> str:
        return f"rtsp://{self._login}127.0.0.1:{self.port}/clip"

    def start(self, size_wh: tuple[int, int] | None = None) -> None:
        """Start, and come back when it answers."""
        assert self._process is None
        self.size_wh = size_wh or self.size_wh
        width, height = self.size_wh
        self._process = subprocess.Popen(
            [_PYTHON, str(_SCRIPT), "--port", str(self.port), "--size", f"{width}x{height}", *self._arguments],
            stdout=subprocess.PIPE,
            text=True,
        )
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        assert line, f"the RTSP server did not start: exit code {self._process.wait()}"
        self.port = int(line)
        with socket.create_connection(("127.0.0.1", self.port), 5) as connection:
            connection.sendall(b"OPTIONS * RTSP/1.0\r\nCSeq: 1\r\n\r\n")
            assert connection.recv(100).startswith(b"RTSP/1.0 ")

    def kill(self) -> None:
        """SIGKILL, as a camera that loses its power; but its system closes the connections."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            assert self._process.stdout is not None
            self._process.stdout.close()
            self._process = None

    def freeze(self) -> None:
        assert self._process is not None
        os.kill(self._process.pid, signal.SIGSTOP)

    def thaw(self) -> None:
        assert self._process is not None
        os.kill(self._process.pid, signal.SIGCONT)

    def restart(self, size_wh: tuple[int, int] | None = None) -> None:
        self.kill()
        self.start(size_wh)

    def __enter__(self) -> RtspServer:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.kill()


@contextmanager
def odd_peer(manner: Literal["garbage", "silent"]) -> Iterator[int]:
    """The port of a TCP server that speaks nonsense to whoever connects, or takes connections and says nothing."""
    stop = threading.Event()
    connections: list[socket.socket] = []

    def talk(connection: socket.socket) -> None:
        chance = random.Random(7)
        try:
            while not stop.is_set():
                connection.sendall(chance.randbytes(2000))
                stop.wait(0.01)
        except OSError:
            pass

    def serve() -> None:
        while True:
            try:
                connection = listener.accept()[0]
            except OSError:
                return
            connections.append(connection)
            if manner == "garbage":
                threading.Thread(target=talk, args=(connection,), daemon=True).start()

    with socket.create_server(("127.0.0.1", 0)) as listener:
        thread = threading.Thread(target=serve, daemon=True)
        thread.start()
        try:
            yield int(listener.getsockname()[1])
        finally:
            stop.set()
            listener.shutdown(socket.SHUT_RDWR)
            thread.join(5)
            for connection in connections:
                connection.close()


def striped(number: int, width: int, height: int, pixel_format: str = "yuv420p") -> av.VideoFrame:
    """A frame of ten upright stripes, the bits of its number; the server's pictures are the same."""
    bits = number >> (np.arange(width) * _BITS // width) & 1
    row = np.where(bits == 1, _LIGHT, _DARK).astype(np.uint8)
    frame = av.VideoFrame(width, height, "yuv420p")
    for plane, value in zip(frame.planes, (row, 128, 128), strict=True):
        rows = np.zeros((plane.height, plane.line_size), np.uint8)
        rows[:, : plane.width] = value
        plane.update(rows.tobytes())
    return frame if pixel_format == "yuv420p" else frame.reformat(format=pixel_format)


def number_of(luma: npt.NDArray[Any]) -> int:
    """The number in a frame, read from its lower part, where no mark is written."""
    height, width = luma.shape
    if width < 4 * _BITS or height < 8:
        return -1
    block = width / _BITS
    rows = luma[height // 2 : height - height // 8].astype(int)
    means = [rows[:, int((bit + 0.25) * block) : int((bit + 0.75) * block)].mean() for bit in range(_BITS)]
    return sum(1 << bit for bit, mean in enumerate(means) if mean > (_DARK + _LIGHT) / 2)


def is_marked(luma: npt.NDArray[Any]) -> bool:
    """Whether something was drawn over the top of a frame: there it is no longer what it is below."""
    height = len(luma)
    below = luma[height // 2 : height - height // 8].astype(int).mean(0)
    return bool(np.abs(luma[: max(2, height // 16)].astype(int) - below).mean() > 10)
