"""Servers that streams are sent to, each by a process of its own.

FFmpeg connects while it holds Python's lock, and nothing ends that early: a server that does not answer would stop
every thread of this process. What a process of its own does can be ended at any time.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
from typing import Any, BinaryIO

import av
import av.error

from bmf_trt_seg.errors import StreamError
from bmf_trt_seg.live_outputs.options import PushOutput
from bmf_trt_seg.live_outputs.target import Target
from bmf_trt_seg.sources.urls import masked
from bmf_trt_seg.stream_packets import CLOCK, StreamPacket

__all__ = ["PushTarget"]

_NOTE = b"note: "
_PROGRAM = "import sys; del sys.path[0]; from bmf_trt_seg.live_outputs.pusher import main; main()"
_END_SECONDS = 2.0
_LONGEST_SECONDS = 20 * 24 * 3600  # FLV's times, 31 bits of milliseconds, go back to 0 after 24.8 days


class PushTarget(Target):
    """Sends packets to a server through `bmf_trt_seg.live_outputs.pusher`."""

    kind = "push"
    queue_seconds = 3.0
    takes_while_opening = False

    def __init__(self, options: PushOutput) -> None:
        self._options = options
        self.name = masked(options.url)
        self._process: subprocess.Popen[bytes] | None = None
        self._is_interrupted = False
        self._begin: int | None = None

    def check(self) -> None:
        scheme = self._options.url.partition("://")[0].lower()
        if scheme != "srt":
            return  # every FFmpeg has the others
        try:
            av.open(f"{scheme}://").close()
        except av.error.ProtocolNotFoundError as error:
            reason = f"the FFmpeg that comes with PyAV {av.__version__} has no {scheme}"
            raise StreamError(f"'{self.name}' cannot be sent to: {reason}") from error
        except (OSError, av.error.FFmpegError, ValueError):
            return  # it is there, and wants an address

    def open(self, description: bytes) -> None:
        options, self._begin = self._options, None
        order = {
            "url": options.url,
            "connect_timeout": options.connect_timeout,
            "write_timeout": options.write_timeout,
            "description_bytes": len(description),
        }
        self._process = process = subprocess.Popen(
            [sys.executable, "-c", _PROGRAM],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            env={**os.environ, "PYTHONPATH": os.pathsep.join(map(os.path.abspath, sys.path))},
            start_new_session=True,  # Ctrl-C is for this process, which ends the other in good order
        )
        if self._is_interrupted:
            process.kill()  # while it was being started
        stdin, stdout = _pipes(process)
        # the address goes through the pipe: a command line can be read by everybody
        with self._failing():
            stdin.write(json.dumps(order).encode() + b"\n" + description)
            stdin.flush()
            answer = stdout.readline()
            if answer.startswith(_NOTE):
                self.tell(answer.removeprefix(_NOTE).decode().strip())
                answer = stdout.readline()
            if answer != b"connected\n":
                raise OSError(self._reason(process, answer))

    def write(self, packet: StreamPacket) -> None:
        assert self._process is not None
        if self._begin is None:
            self._begin = packet.pts
        if (packet.pts - self._begin) * CLOCK > _LONGEST_SECONDS:
            raise OSError(f"it was connected for {_LONGEST_SECONDS // 86400} days, and is connected anew")
        with self._failing():
            stdin = _pipes(self._process)[0]
            packet.write(stdin)
            stdin.flush()

    def close(self) -> None:
        process = self._process
        if process is None:
            return
        stdin, stdout = _pipes(process)
        with contextlib.suppress(OSError):
            stdin.close()
        try:
            process.wait(_END_SECONDS)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        stdout.close()
        self._process = None

    def abort(self) -> None:
        self._kill()
        self.close()

    def interrupt(self) -> None:
        self._is_interrupted = True
        self._kill()

    def _kill(self) -> None:
        process = self._process
        if process is not None:
            process.kill()

    @contextlib.contextmanager
    def _failing(self) -> Any:
        """A pipe that breaks as an OSError that says what broke it."""
        assert self._process is not None
        process = self._process
        try:
            yield
        except BrokenPipeError:
            raise OSError(self._reason(process, _pipes(process)[1].readline())) from None

    def _reason(self, process: subprocess.Popen[bytes], line: bytes) -> str:
        """Why the process ended, or is about to: what it said last, or how it was ended."""
        try:
            process.wait(_END_SECONDS)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        said = line.decode(errors="replace").strip()
        if process.returncode == -signal.SIGALRM:
            options = self._options
            return f"no answer within {options.connect_timeout:g} s, or nothing taken for {options.write_timeout:g} s"
        return masked(said) if said else f"its process ended with code {process.returncode}"


def _pipes(process: subprocess.Popen[bytes]) -> tuple[BinaryIO, BinaryIO]:
    assert process.stdin is not None
    assert process.stdout is not None
    return process.stdin, process.stdout  # type: ignore[return-value]
