"""What the web server of `live` answers when its feeds run in other processes."""

from __future__ import annotations

import json
import threading
import time
import urllib.parse
from collections.abc import Iterator, Mapping
from concurrent.futures import wait
from typing import TYPE_CHECKING, Any

from bmf_trt_seg.errors import StreamError
from bmf_trt_seg.health import Health
from bmf_trt_seg.http_server import Request, Response
from bmf_trt_seg.live.devices import Fleet
from bmf_trt_seg.live.messages import response_of
from bmf_trt_seg.prometheus import families, families_of_devices
from bmf_trt_seg.sources.urls import masked
from bmf_trt_seg.watch.preview import PICTURE_SECONDS
from bmf_trt_seg.watch.status import Status

if TYPE_CHECKING:
    from prometheus_client import Metric

__all__ = ["DevicePages"]

_OPTIONS = "/options/"
_ANSWER_SECONDS = 2.0
_CHANGE_SECONDS = 13.0  # a network may be loaded before there is an answer


class DevicePages:
    """Has the processes of a fleet answer, and puts their answers together."""

    def __init__(self, fleet: Fleet, health: Health) -> None:
        self._fleet, self._health = fleet, health
        self._status = Status(lambda: health.streams, health.ready_seconds)
        self._pictures: dict[str, _Pictures] = {}

    def names(self) -> dict[str, str]:
        """The name of each stream by its label."""
        return self._status.names()

    def metrics(self) -> Iterator[Metric]:
        """Of all processes, with a label for their device."""
        texts = {device: answer.body.decode() for device, answer in self._answers("/metrics").items()}
        away = [name for name in self._health.streams if self._fleet.device_of(name) not in texts]
        fleet = self._fleet
        return families_of_devices(families(away), texts, fleet.loads(), fleet.is_up, fleet.moves())

    def ready(self) -> tuple[bool, dict[str, Any]]:
        """As of `Health`, with the device of each stream."""
        _, content = self._health.ready()
        told = self._told("/readyz")
        streams = [self._stream(one, told) for one in content["streams"]]
        is_ready = all(one["ready"] for one in streams)
        return is_ready, {**content, "ready": is_ready, "streams": streams}

    def content(self) -> dict[str, Any]:
        """As of `Status`, with the device of each stream."""
        content, told = self._status.content(), self._told("/streams.json")
        return {**content, "streams": [self._stream(one, told) for one in content["streams"]]}

    def pictures_of(self, name: str) -> _Pictures:
        """The pictures of a stream, which come from wherever it runs."""
        return self._pictures.setdefault(name, _Pictures(self, name))

    def options(self, request: Request) -> Response:
        """/options/NAME of the process that runs the stream."""
        known, label = self.names(), urllib.parse.unquote(request.path.removeprefix(_OPTIONS))
        if label not in known:
            return _refused(404, f"no such stream has options; there are {', '.join(known) or 'none'}")
        try:
            return self.asked(known[label], request, _CHANGE_SECONDS)
        except StreamError as error:
            return _refused(409, str(error))

    def asked(self, name: str, request: Request, seconds: float = _ANSWER_SECONDS) -> Response:
        """The answer of the process that runs a stream. Raises StreamError if there is none."""
        device = self._fleet.device_of(name)
        answer = self._fleet.ask(device, request) if device is not None else None
        if answer is None:
            raise StreamError(f"stream '{masked(name)}' does not run at the moment; ask again when it does")
        wait([answer], seconds)
        if not answer.done():
            raise StreamError(f"device '{device}', where stream '{masked(name)}' runs, does not answer")
        return response_of(answer.result()["response"])

    def _answers(self, path: str) -> dict[str, Response]:
        """What each process answers, by device; without those that do not."""
        asked = {device: self._fleet.ask(device, Request(path)) for device in self._fleet.names}
        there = {device: answer for device, answer in asked.items() if answer is not None}
        wait(there.values(), _ANSWER_SECONDS)
        return {
            device: response_of(answer.result()["response"])
            for device, answer in there.items()
            if answer.done() and answer.exception() is None
        }

    def _told(self, path: str) -> dict[tuple[str, str], Any]:
        """What processes say of their streams, by device and label."""
        return {
            (device, one["stream"]): one
            for device, answer in self._answers(path).items()
            for one in json.loads(answer.body)["streams"]
        }

    def _stream(self, own: dict[str, Any], told: Mapping[tuple[str, str], Any]) -> dict[str, Any]:
        """A stream as its process tells of it; as we do, if it runs nowhere or its process says nothing."""
        name = self.names().get(own["stream"], own["stream"])
        device, state = self._fleet.device_of(name), self._fleet.state_of(name)
        if device is None or state is None:
            return {**own, "device": None}
        found = told.get((device, own["stream"]))
        if found is not None:
            return {**found, "restarts": state.restarts, "device": device}
        silent = {} if state.state != "running" else {"state": "away", "last_error": f"device '{device}' is silent"}
        return {**own, **silent, "device": device}


class _Pictures:
    """The latest picture of a stream, asked for when somebody wants it; any thread may."""

    def __init__(self, pages: DevicePages, name: str) -> None:
        self._pages, self._name = pages, name
        self._lock = threading.Lock()
        self._asked_at = float("-inf")
        self._latest: tuple[int, bytes] | None = None

    def want(self) -> None:
        """Each time that it is asked for, its process knows."""

    @property
    def number(self) -> int:
        latest = self.jpeg()
        return 0 if latest is None else latest[0]

    def jpeg(self) -> tuple[int, bytes] | None:
        with self._lock:
            now = time.monotonic()
            if now - self._asked_at >= PICTURE_SECONDS:
                self._asked_at = now
                self._latest = self._asked()
            return self._latest

    def _asked(self) -> tuple[int, bytes] | None:
        """The picture there is now; the one there was, if it is still that or nobody answers."""
        path = f"/preview/{urllib.parse.quote(masked(self._name), safe='')}.jpg"
        number = "" if self._latest is None else f'"{self._latest[0]}"'
        try:
            answer = self._pages.asked(self._name, Request(path, headers={"if-none-match": number}))
        except StreamError:
            return self._latest
        if answer.status != 200:
            return self._latest
        return int(dict(answer.headers)["ETag"].strip('"')), answer.body


def _refused(status: int, reason: str) -> Response:
    return Response.json({"error": reason}, status)
