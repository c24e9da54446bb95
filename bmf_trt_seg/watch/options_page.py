"""The page by which programs ask for the options of a running stream, and change them."""

from __future__ import annotations

import json
import logging
import os
import urllib.parse
from collections.abc import Callable
from concurrent.futures import Future
from concurrent.futures import TimeoutError as NotYet
from pathlib import Path
from typing import Any

from bmf_trt_seg import changes
from bmf_trt_seg.changes import Changes
from bmf_trt_seg.errors import ConfigError, SegError
from bmf_trt_seg.http_server import Request, Response
from bmf_trt_seg.json_text import parsed
from bmf_trt_seg.models.catalog import CATALOG, find
from bmf_trt_seg.sources.urls import masked
from bmf_trt_seg.watch.pages import Server

__all__ = ["add_options_page"]

_PATH = "/options/"
_LOAD_SECONDS = 10.0  # for a network; after that the answer is that it is being loaded
_log = logging.getLogger(__name__)


def add_options_page(server: Server, names: Callable[[], dict[str, str]], load_seconds: float = _LOAD_SECONDS) -> None:
    """/options/NAME: GET tells what may change and how it is, PATCH with an object of options changes it.

    names: the name of each stream by its label. A PATCH is answered by 200 when it is accepted, by 202 if a network is
    still being loaded after `load_seconds`, and by 4xx with the reason as "error" if nothing was changed.
    """

    def answer(request: Request) -> Response:
        known, label = names(), urllib.parse.unquote(request.path.removeprefix(_PATH))
        found = changes.stream(known[label]) if label in known else None
        if found is None:
            with_options = [name for name, stream in known.items() if changes.stream(stream) is not None]
            return _refused(404, f"no such stream has options; there are {', '.join(with_options) or 'none'}")
        if request.method == "GET":
            return Response.json({"stream": label, **found.state()})
        try:
            wanted = _wanted(request)
        except ConfigError as error:
            return _refused(415 if not _is_json(request) else 400, str(error))
        return _changed(found, label, wanted, load_seconds)

    server.page(_PATH, answer, takes_changes=True)


def _changed(found: Changes, label: str, wanted: Any, load_seconds: float) -> Response:
    if not found.is_open:
        return _refused(409, f"stream '{label}' does not run at the moment; ask again when it does")
    try:
        _check_model(found, wanted)
        accepted: Future[None] = found.change(wanted)
        accepted.result(load_seconds)
    except NotYet:
        return Response.json({"stream": label, **found.state()}, 202)
    except SegError as error:
        _log.warning("stream '%s': options not changed over HTTP: %s", label, masked(str(error)))
        return _refused(422, str(error))
    return Response.json({"stream": label, **found.state()})


def _wanted(request: Request) -> Any:
    if not _is_json(request):
        raise ConfigError("the body should be JSON, and be said to be: Content-Type: application/json")
    try:
        return parsed(request.body.decode())
    except json.JSONDecodeError as error:
        raise ConfigError(f"the body is no JSON: line {error.lineno}, column {error.colno}: {error.msg}") from error
    except UnicodeDecodeError as error:
        raise ConfigError("the body is no text in UTF-8") from error
    except ValueError as error:
        raise ConfigError(f"the body: {error}") from error


def _is_json(request: Request) -> bool:
    return request.headers.get("content-type", "").partition(";")[0].strip().lower() == "application/json"


def _check_model(found: Changes, wanted: Any) -> None:
    """ConfigError for a model from where the operator of this machine has put none: model files can be programs."""
    model = wanted.get("model") if isinstance(wanted, dict) else None
    if not isinstance(model, str) or model in CATALOG or not found.options.model:
        return
    folder = find(found.options.model).resolve().parent
    try:
        is_beside = Path(os.path.expanduser(model)).resolve().parent == folder  # noqa: PTH111 (as `find` does it)
    except (OSError, RuntimeError, ValueError):  # no name of a file
        is_beside = False
    if not is_beside:
        raise ConfigError(
            f"option 'model': over HTTP it is a name that 'models list' shows or a file in '{folder}', beside the one "
            "in use; a changed feeds file and SIGHUP can have any other"
        )


def _refused(status: int, reason: str) -> Response:
    return Response.json({"error": reason}, status)
