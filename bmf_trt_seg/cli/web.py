"""The flags of the web server that runs beside a graph, and its pages."""

from __future__ import annotations

import functools
import logging
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, TypeVar

import click

from bmf_trt_seg.health import READY_SECONDS, Health
from bmf_trt_seg.http_server import HttpServer, Request, Response
from bmf_trt_seg.live.device_pages import DevicePages
from bmf_trt_seg.live.devices import Fleet
from bmf_trt_seg.prometheus import Exposition
from bmf_trt_seg.watch.options_page import add_options_page
from bmf_trt_seg.watch.pages import add_watch_pages
from bmf_trt_seg.watch.status import Status
from bmf_trt_seg.watch.streams import watching

__all__ = ["Web", "add_pages", "serving", "serving_devices", "web_flags"]

_log = logging.getLogger(__name__)
Function = TypeVar("Function", bound=Callable[..., Any])


@dataclass(frozen=True)
class Web:
    """What the flags say."""

    address: str | None
    token: str
    ready_seconds: float


def web_flags(function: Function) -> Function:
    """--web, --web-token, --web-ready, as one argument `web`."""

    @functools.wraps(function)
    def gathered(*arguments: Any, web_address: str | None, web_token: str, web_ready: float, **more: Any) -> Any:
        return function(*arguments, web=Web(web_address, web_token, web_ready), **more)

    for flag in (
        click.option(
            "--web-ready", type=click.FloatRange(0, min_open=True), default=READY_SECONDS, show_default=True,
            metavar="SECONDS", help="How old each stream's last frame may be for /readyz.",
        ),
        click.option(
            "--web-token", envvar="BMF_TRT_SEG_WEB_TOKEN", show_envvar=True, default="", metavar="TOKEN",
            help="Token that clients have to give; a must where other machines can connect, and for changes.",
        ),
        click.option(
            "--web", "web_address", metavar="[HOST]:PORT",
            help="Serve a page to watch the streams on there meanwhile, and /metrics, /healthz, /readyz; without HOST "
            "for this machine only, and on a free port if PORT is 0.",
        ),
    ):  # fmt: skip
        flag(gathered)
    return gathered  # type: ignore[return-value]


@contextmanager
def serving(web: Web, streams: Iterable[str]) -> Iterator[Health]:
    """Serve what the flags ask for while inside; the streams are those that should run.

    Raises ConfigError, StreamError or BackendUnavailable for what cannot be served.
    """
    health = Health(streams, web.ready_seconds)
    if web.address is None:
        yield health
        return
    exposition = Exposition(lambda: health.streams)
    with watching(), HttpServer(web.address, web.token) as server:
        add_pages(server, health, exposition)
        status = Status(lambda: health.streams, web.ready_seconds)
        add_watch_pages(server, status)
        add_options_page(server, status.names)
        _log.info("web: %s/, /metrics, /healthz, /readyz", server.url, extra={"port": server.port})
        yield health


@contextmanager
def serving_devices(web: Web, health: Health, fleet: Fleet) -> Iterator[None]:
    """`serving` for feeds that run in other processes."""
    if web.address is None:
        yield
        return
    pages = DevicePages(fleet, health)
    exposition = Exposition(collect=pages.metrics)
    with HttpServer(web.address, web.token) as server:
        add_pages(server, health, exposition, pages.ready)
        add_watch_pages(server, pages, pages.pictures_of)
        server.page("/options/", pages.options, takes_changes=True)
        _log.info("web: %s/, /metrics, /healthz, /readyz", server.url, extra={"port": server.port})
        yield


def add_pages(
    server: HttpServer,
    health: Health,
    exposition: Exposition,
    ready: Callable[[], tuple[bool, dict[str, Any]]] | None = None,
) -> None:
    """/metrics, /healthz and /readyz; `ready` answers the last in the place of `health`."""

    def scrape(request: Request) -> Response:
        body, content_type = exposition.scrape(request.headers.get("accept", ""))
        return Response(body, content_type)

    def answered(question: Callable[[], tuple[bool, dict[str, Any]]]) -> Callable[[Request], Response]:
        def answer(_: Request) -> Response:
            is_well, content = question()
            return Response.json(content, 200 if is_well else 503)

        return answer

    server.page("/metrics", scrape)
    server.page("/healthz", answered(health.working))
    server.page("/readyz", answered(ready or health.ready))
