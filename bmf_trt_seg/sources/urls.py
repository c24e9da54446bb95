"""Addresses of feeds, fit to be shown: without user and password."""

from __future__ import annotations

import re

__all__ = ["is_network", "masked"]

_CREDENTIALS = re.compile(r"(?<=://)\S*@")  # to the last @: people write passwords with a slash
_SECRET_PARAMETER = re.compile(r"(?i)([?&](?:token|key|password|passwd|pwd|auth|secret|sig(?:nature)?)=)[^&\s]+")


def masked(text: str) -> str:
    """Every address in a text without its user, password and secret parameters."""
    return _SECRET_PARAMETER.sub(r"\1***", _CREDENTIALS.sub("***@", text))


def is_network(url: str) -> bool:
    """Whether it is an address, and not the path of a file."""
    return "://" in url and not url.startswith("file://")
