"""The page as one HTML document, which loads nothing from anywhere but this server."""

from __future__ import annotations

import base64
import functools
import hashlib
from importlib import resources

__all__ = ["content_security_policy", "html"]


@functools.cache
def _parts() -> tuple[str, str, str]:
    folder = resources.files("bmf_trt_seg.watch")
    html, css, script = (
        folder.joinpath(name).read_text(encoding="utf-8") for name in ("page.html", "page.css", "page.js")
    )
    return html, css, script


@functools.cache
def html() -> str:
    """The document with its style sheet and its script inside."""
    document, css, script = _parts()
    return document.replace("/* page.css */", css).replace("/* page.js */", script)


@functools.cache
def content_security_policy() -> str:
    """Allows that style sheet, that script, and requests to this server."""
    _, css, script = _parts()
    return "; ".join(
        [
            "default-src 'none'",
            f"style-src '{_digest(css)}'",
            f"script-src '{_digest(script)}'",
            "connect-src 'self'",
            "img-src data:",  # the icon
            "base-uri 'none'",
            "form-action 'none'",
            "frame-ancestors 'none'",
        ]
    )


def _digest(text: str) -> str:
    return "sha256-" + base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()
