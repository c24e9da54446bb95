"""A worker process as its parent sees it."""

from __future__ import annotations

import itertools
import logging
import queue
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from concurrent.futures import Future
from contextlib import suppress
from typing import Any

from bmf_trt_seg.errors import StreamError
from bmf_trt_seg.http_server import Request
from bmf_trt_seg.live.device_names import environment
from bmf_trt_seg.live.messages import Channel, Message, content_of_request, log_of

__all__ = ["WorkerProcess"]

_LOGGER = "bmf_trt_seg"
_SEND_SECONDS = 5.0


class WorkerProcess:
    """Started by this; `kill` it in the end. Any thread may ask it something."""

    def __init__(self, device: str, settings: Message) -> None:
        """settings: what the worker is told first."""
        self.device = device
        self.messages: queue.SimpleQueue[Message] = queue.SimpleQueue()
        """What it has said of its feeds, for one thread to take."""
        self.heard_at = time.monotonic()
        """When it said something last."""
        self.is_silent = False
        """Whether everything that it said before its end is in `messages`."""
        self._numbers = itertools.count(1)
        self._asked: dict[int, Future[Message]] = {}
        self._lock = threading.Lock()  # for what was asked
        ours, theirs = socket.socketpair()
        with theirs:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "bmf_trt_seg.live.worker", str(theirs.fileno())],
                pass_fds=[theirs.fileno()], env=environment(device), stdin=subprocess.DEVNULL,
                start_new_session=True,  # Ctrl-C is for the parent, which tells its workers
            )  # fmt: skip
        self._channel = Channel(ours, _SEND_SECONDS)
        self._thread = threading.Thread(target=self._receive, name=f"worker {device}", daemon=True)
        self._thread.start()
        self._send("settings", {"device": device, "level": logging.getLogger(_LOGGER).level, **settings})

    @property
    def is_over(self) -> bool:
        """Whether the process has ended, and all that it had to say was read."""
        return self.process.poll() is not None and self.is_silent

    def set_feeds(self, kind: str, feeds: Sequence[Message], in_use: Sequence[str], is_new: bool) -> Future[Message]:
        """Have it 'check' feeds, or run these and no others ('feeds'); the answer has those that it refuses.

        in_use: outputs that others write to. is_new: a file was read, and what was changed since the last time goes.
        """
        return self._ask(kind, {"feeds": list(feeds), "in_use": list(in_use), "is_new": is_new})

    def ask(self, request: Request) -> Future[Message]:
        """Have it answer a request in the place of a web server."""
        return self._ask("request", {"request": content_of_request(request)})

    def stop(self) -> None:
        """Have it end in good order."""
        self._send("stop", {})

    def terminate(self) -> None:
        """`stop` for one that may not be listening."""
        self.process.send_signal(signal.SIGTERM)

    def kill(self) -> None:
        """End it at once, if it has not ended."""
        self.process.kill()
        self._channel.close()

    def reap(self, seconds: float) -> None:
        """Wait for its end, so long at most."""
        with suppress(subprocess.TimeoutExpired):
            self.process.wait(seconds)
        self._thread.join(seconds)

    def _ask(self, kind: str, content: dict[str, Any]) -> Future[Message]:
        number, answer = next(self._numbers), Future[Message]()
        with self._lock:
            if self.is_silent:
                answer.set_exception(self._gone())
                return answer
            self._asked[number] = answer
        self._send(kind, {"id": number, **content})
        return answer

    def _send(self, kind: str, content: dict[str, Any]) -> None:
        try:
            self._channel.send(kind, **content)
        except OSError:
            self.kill()  # it takes nothing, and half a message would be worse than none

    def _receive(self) -> None:
        for message in self._channel.received():
            self.heard_at = time.monotonic()
            if message["kind"] == "answer":
                with self._lock:
                    answer = self._asked.pop(message["id"], None)
                if answer is not None:
                    answer.set_result(message)
            elif message["kind"] == "log":
                log = logging.getLogger(_LOGGER)
                if log.isEnabledFor(message["level"]):
                    log.handle(log_of(message, self.device))
            else:
                self.messages.put(message)
        with self._lock:
            left, self._asked, self.is_silent = self._asked, {}, True
        for answer in left.values():
            with suppress(Exception):
                answer.set_exception(self._gone())

    def _gone(self) -> StreamError:
        return StreamError(f"the process of device '{self.device}' has ended")

    def how_it_ended(self) -> str:
        """In words."""
        code = self.process.poll()
        if code is None:
            return "its process does not end"
        return (
            f"its process was ended by {signal.Signals(-code).name}" if code < 0 else f"its process ended with {code}"
        )
