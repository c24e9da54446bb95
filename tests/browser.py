"""A headless Chromium, told what to do through its DevTools protocol."""

from __future__ import annotations

import base64
import io
import itertools
import json
import os
import select
import shutil
import subprocess
import tempfile
import time
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image

__all__ = ["Browser", "missing"]

_NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
_FLAGS = [
    "--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--hide-scrollbars",
    "--disable-background-networking", "--no-first-run", "--mute-audio", "--force-color-profile=srgb",
    "--remote-debugging-pipe", "about:blank",
]  # fmt: skip


def missing() -> str:
    """Why there can be no browser here; '' if there can."""
    return "" if _program() else "no Chromium: apt-get install --no-install-recommends chromium"


def _program() -> str | None:
    return next(filter(None, map(shutil.which, _NAMES)), None)


class Browser:
    """One page. What it is asked waits at most `seconds`."""

    def __init__(self, width: int = 1280, height: int = 800, seconds: float = 30.0) -> None:
        self._seconds = seconds
        self._folder = tempfile.TemporaryDirectory(ignore_cleanup_errors=True)
        read_by_it, self._to = os.pipe()
        self._from, written_by_it = os.pipe()
        program = _program()
        assert program is not None, missing()
        # it reads descriptor 3 and writes 4, whatever ours are
        line = f'exec "$@" 3<&{read_by_it} 4>&{written_by_it} 2>/dev/null'
        self._process = subprocess.Popen(
            ["bash", "-c", line, "browser", program, f"--user-data-dir={self._folder.name}", *_FLAGS],
            pass_fds=(read_by_it, written_by_it),
            stdout=subprocess.DEVNULL,
        )
        os.close(read_by_it)
        os.close(written_by_it)
        self._numbers = itertools.count(1)
        self._received = b""
        self.errors: list[str] = []
        """What the page complained of on its console, and exceptions."""
        target = self._call("Target.createTarget", url="about:blank")["targetId"]
        self._session: str | None = self._call("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        for domain in ("Page", "Runtime", "Log"):
            self._call(f"{domain}.enable")
        self.resize(width, height)

    def resize(self, width: int, height: int, *, scale: float = 1.0, mobile: bool = False) -> None:
        self._call(
            "Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=scale, mobile=mobile
        )

    def scheme(self, name: str) -> None:
        """'light' or 'dark'."""
        self._call("Emulation.setEmulatedMedia", features=[{"name": "prefers-color-scheme", "value": name}])

    def open(self, url: str) -> None:
        self._call("Page.navigate", url=url)

    def ask(self, expression: str) -> Any:
        """The value of a JavaScript expression in the page; of a promise, what it comes to."""
        answer = self._call("Runtime.evaluate", expression=expression, returnByValue=True, awaitPromise=True)
        assert "exceptionDetails" not in answer, answer["exceptionDetails"]
        return answer["result"].get("value")

    def until(self, expression: str, seconds: float = 20.0) -> Any:
        """Its value as soon as that is true."""
        end = time.monotonic() + seconds
        while not (value := self.ask(expression)):
            assert time.monotonic() < end, f"never true: {expression}"
            time.sleep(0.05)
        return value

    def screenshot(self, path: Path | None = None, *, whole: bool = False) -> npt.NDArray[np.uint8]:
        """What is to be seen, (H, W, 3) RGB; `whole`: the page to its end."""
        content = self._call("Page.captureScreenshot", format="png", captureBeyondViewport=whole)["data"]
        encoded = base64.b64decode(content)
        if path is not None:
            path.write_bytes(encoded)
        return np.array(Image.open(io.BytesIO(encoded)).convert("RGB"))

    def close(self) -> None:
        os.close(self._to)
        os.close(self._from)
        self._process.terminate()
        try:
            self._process.wait(10)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._folder.cleanup()

    def __enter__(self) -> Browser:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _call(self, method: str, **parameters: Any) -> dict[str, Any]:
        number = next(self._numbers)
        message: dict[str, Any] = {"id": number, "method": method, "params": parameters}
        if getattr(self, "_session", None):
            message["sessionId"] = self._session
        os.write(self._to, json.dumps(message).encode() + b"\0")
        end = time.monotonic() + self._seconds
        while True:
            answer = self._next_message(end)
            if answer.get("id") == number:
                assert "error" not in answer, (method, answer["error"])
                result: dict[str, Any] = answer["result"]
                return result
            self._listen(answer)

    def _listen(self, event: dict[str, Any]) -> None:
        found = event.get("params", {})
        if event.get("method") == "Runtime.exceptionThrown":
            self.errors.append(str(found["exceptionDetails"].get("exception", {}).get("description")))
        elif event.get("method") == "Log.entryAdded" and found["entry"]["level"] == "error":
            self.errors.append(f"{found['entry']['text']} {found['entry'].get('url', '')}")

    def _next_message(self, end: float) -> dict[str, Any]:
        while b"\0" not in self._received:
            ready, _, _ = select.select([self._from], [], [], max(0.0, end - time.monotonic()))
            assert ready, "the browser does not answer"
            part = os.read(self._from, 1 << 20)
            assert part, "the browser has gone"
            self._received += part
        message, _, self._received = self._received.partition(b"\0")
        content: dict[str, Any] = json.loads(message)
        return content
