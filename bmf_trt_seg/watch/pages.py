"""What the web server answers to those who watch: the page, its numbers, its pictures."""

from __future__ import annotations

import urllib.parse

from bmf_trt_seg.http_server import Endless, HttpServer, Request, Response
from bmf_trt_seg.watch import motion, page, streams
from bmf_trt_seg.watch.status import Status

__all__ = ["add_watch_pages"]

_PREVIEW = "/preview/"


def add_watch_pages(server: HttpServer, status: Status) -> None:
    """/, /streams.json, /previews, /preview/NAME.jpg and /preview/NAME.mjpeg."""

    def preview(request: Request) -> Response | Endless:
        name, _, kind = request.path.removeprefix(_PREVIEW).rpartition(".")
        names, label = status.names(), urllib.parse.unquote(name)
        if label not in names:
            return Response.line(404, f"no such stream; there are {', '.join(names) or 'none'}")
        if kind == "mjpeg":
            return motion.one_stream(names[label])
        if kind != "jpg":
            return Response.line(404, "not found; pictures end with .jpg or .mjpeg")
        watched = streams.stream(names[label])
        if watched is not None:
            watched.preview.want()
        found = watched.preview.jpeg() if watched is not None else None
        if found is None:
            return Response.line(404, "there is no picture of this stream yet")
        return Response(found[1], "image/jpeg")

    server.page("/", _page)
    server.page("/streams.json", lambda _: Response.json(status.content()))
    server.page("/previews", lambda _: motion.all_streams(status.names))
    server.page(_PREVIEW, preview)


def _page(_: Request) -> Response:
    policy = ("Content-Security-Policy", page.content_security_policy())
    return Response(page.html().encode(), "text/html; charset=utf-8", headers=(policy,))
