"""Addresses of feeds, fit to be shown: without user and password."""

from __future__ import annotations

import re

__all__ = ["is_network", "masked"]

_CREDENTIALS = re.compile(r"(?<=:/)(?P<slash>/?)(?!/)\S*@")  # to the last @: people write passwords with a slash
_SECRET_NAMES = "pass|pw|token|key|secret|auth|sig|credential|loginpas"
_SECRET_PARAMETER = re.compile(rf"(?i)([?&;][^=&;\s]*(?:{_SECRET_NAMES})[^=&;\s]*=)[^&;\s'\"]+")
_SECRET_IN_PATH = re.compile(r"(?i)((?:^|[_/&;])(?:password|passwd|pass|pw)=)[^_/&;?\s'\"]+")  # cameras of XMEye
_STREAM_KEY = re.compile(r"(?i)(\brtmps?://[^/\s'\"]+/(?:[^/\s'\"?]+/)+)[^/\s'\"?]+")


def masked(text: str) -> str:
    """Every address in a text without user, password, secret parameters, and the stream key of an RTMP server."""
    text = _CREDENTIALS.sub(r"\g<slash>***@", text)
    text = _SECRET_IN_PATH.sub(r"\1***", _SECRET_PARAMETER.sub(r"\1***", text))
    return _STREAM_KEY.sub(r"\1***", text)


def is_network(url: str) -> bool:
    """Whether it is an address, and not the path of a file."""
    return "://" in url and not url.startswith("file://")
