"""What the web server answers to those who watch: the page, its numbers, its pictures."""

from __future__ import annotations

import urllib.parse
from typing import Any, Protocol

from bmf_trt_seg.http_server import Endless, Page, Request, Response
from bmf_trt_seg.watch import motion, page
from bmf_trt_seg.watch.motion import FindPictures
from bmf_trt_seg.watch.streams import pictures_of

__all__ = ["Server", "StreamStatus", "add_watch_pages"]

_PREVIEW = "/preview/"


class Server(Protocol):
    """Whatever takes pages: an `HttpServer`, or what stands for one."""

    def page(self, path: str, page: Page, *, takes_changes: bool = False) -> None:
        """Answer requests for this path."""


class StreamStatus(Protocol):
    """How streams are, as `Status` tells."""

    def names(self) -> dict[str, str]:
        """The name of each by its label."""

    def content(self) -> dict[str, Any]:
        """For /streams.json."""


def add_watch_pages(server: Server, status: StreamStatus, find: FindPictures = pictures_of) -> None:
    """/, /streams.json, /previews, /preview/NAME.jpg and /preview/NAME.mjpeg.

    A picture has its number as ETag, so that nobody has to be sent one twice.
    """

    def preview(request: Request) -> Response | Endless:
        name, _, kind = request.path.removeprefix(_PREVIEW).rpartition(".")
        names, label = status.names(), urllib.parse.unquote(name)
        if label not in names:
            return Response.line(404, f"no such stream; there are {', '.join(names) or 'none'}")
        if kind == "mjpeg":
            return motion.one_stream(names[label], find)
        if kind != "jpg":
            return Response.line(404, "not found; pictures end with .jpg or .mjpeg")
        pictures = find(names[label])
        if pictures is not None:
            pictures.want()
        number = f'"{pictures.number}"' if pictures is not None else ""
        if number and number == request.headers.get("if-none-match"):
            return Response(b"", status=304, headers=(("ETag", number),))
        found = pictures.jpeg() if pictures is not None else None
        if found is None:
            return Response.line(404, "there is no picture of this stream yet")
        return Response(found[1], "image/jpeg", headers=(("ETag", f'"{found[0]}"'),))

    server.page("/", _page)
    server.page("/streams.json", lambda _: Response.json(status.content()))
    server.page("/previews", lambda _: motion.all_streams(status.names, find))
    server.page(_PREVIEW, preview)


def _page(_: Request) -> Response:
    policy = ("Content-Security-Policy", page.content_security_policy())
    return Response(page.html().encode(), "text/html; charset=utf-8", headers=(policy,))
