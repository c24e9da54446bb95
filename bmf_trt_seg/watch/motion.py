"""Pictures one after the other, as answers without an end."""

from __future__ import annotations

import time
import urllib.parse
from collections.abc import Callable, Iterator

from bmf_trt_seg.http_server import Endless
from bmf_trt_seg.watch.preview import PICTURE_SECONDS
from bmf_trt_seg.watch.streams import Pictures, pictures_of

__all__ = ["FindPictures", "all_streams", "one_stream"]

FindPictures = Callable[[str], "Pictures | None"]
"""The pictures of the stream of this name, if there is one."""

_BOUNDARY = "picture"
_TURN_SECONDS = 0.05
_NAMES_SECONDS = 1.0
_MOST_A_SECOND = 40  # pictures of all streams together for one client: many streams share them


def one_stream(name: str, find: FindPictures = pictures_of) -> Endless:
    """Motion JPEG of a stream, for an <img> or a player. A browser opens few such connections to one server."""

    def pictures() -> Iterator[bytes]:
        sent = _Sent()
        while True:
            preview = find(name)
            picture = sent.next_of(preview) if preview is not None else None
            if picture is not None:
                yield _part(picture)
            else:
                time.sleep(_TURN_SECONDS)
                yield b""

    return Endless(pictures(), f"multipart/x-mixed-replace; boundary={_BOUNDARY}")


def all_streams(names: Callable[[], dict[str, str]], find: FindPictures = pictures_of) -> Endless:
    """JPEG pictures of all streams, one after the other; each has its stream's label, quoted, in the field X-Stream.

    names: asked now and then for the name of each stream by its label.
    """

    def pictures() -> Iterator[bytes]:
        sent: dict[str, _Sent] = {}
        found, asked_at = names(), time.monotonic()
        while True:
            if time.monotonic() - asked_at > _NAMES_SECONDS:
                found, asked_at = names(), time.monotonic()
            pause = max(PICTURE_SECONDS, len(found) / _MOST_A_SECOND)
            for label, name in found.items():
                preview = find(name)
                picture = sent.setdefault(label, _Sent()).next_of(preview, pause) if preview is not None else None
                if picture is not None:
                    yield _part(picture, label)
            time.sleep(_TURN_SECONDS)
            yield b""

    return Endless(pictures(), f"multipart/mixed; boundary={_BOUNDARY}")


class _Sent:
    """What a client has of a stream."""

    def __init__(self) -> None:
        self._preview: Pictures | None = None
        self._number = 0
        self._at = float("-inf")

    def next_of(self, preview: Pictures, pause: float = PICTURE_SECONDS) -> bytes | None:
        """A picture that it does not have, if there is one and the last was sent `pause` seconds ago."""
        preview.want()
        if preview is not self._preview:  # the stream was opened anew
            self._preview, self._number = preview, 0
        now = time.monotonic()
        if preview.number == self._number or now - self._at < pause:
            return None
        found = preview.jpeg()
        if found is None:
            return None
        self._number, picture = found
        self._at = now
        return picture


def _part(picture: bytes, label: str | None = None) -> bytes:
    of_stream = "" if label is None else f"X-Stream: {urllib.parse.quote(label, safe='')}\r\n"
    head = f"--{_BOUNDARY}\r\nContent-Type: image/jpeg\r\nContent-Length: {len(picture)}\r\n{of_stream}\r\n"
    return head.encode() + picture + b"\r\n"
