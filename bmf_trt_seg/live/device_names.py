"""Devices that feeds are spread over: their names, which of them there are, and how a process gets one of its own."""

from __future__ import annotations

import ctypes
import os
import re
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from bmf_trt_seg.errors import ConfigError
from bmf_trt_seg.live.feeds import Feed
from bmf_trt_seg.live.graphs import described_graph

__all__ = ["chosen_devices", "environment", "for_one_device", "gpu_count", "pinned_to", "without_numbers"]

_NAME = re.compile(r"cpu|(?:cpu|cuda):\d{1,3}", re.ASCII)
_NUMBERED = re.compile(r"cuda:\d+", re.ASCII)
_COUNT_SECONDS = 60.0


def gpu_count() -> int:
    """How many GPUs CUDA sees; 0 without a driver. It starts CUDA in this process."""
    try:
        cuda = ctypes.CDLL("libcuda.so.1")
    except OSError:
        return 0
    count = ctypes.c_int(0)
    is_well = cuda.cuInit(0) == 0 and cuda.cuDeviceGetCount(ctypes.byref(count)) == 0
    return count.value if is_well else 0


def chosen_devices(text: str) -> tuple[str, ...]:
    """The devices that a flag names: 'auto' for all GPUs, or names with commas between. Empty if auto finds none.

    Raises ConfigError for what is no device, comes twice or is not there.
    """
    if text == "auto":
        return tuple(f"cuda:{number}" for number in range(_count_elsewhere()))
    names = tuple(name.strip() for name in text.split(","))
    for name in names:
        if _NAME.fullmatch(name) is None:
            raise ConfigError(f"--devices: got '{name}'; expected auto, or names as in cuda:0,cuda:1 or cpu:0,cpu:1")
        if names.count(name) > 1:
            raise ConfigError(f"--devices: '{name}' comes twice; several processes without a GPU are cpu:0,cpu:1")
    numbers = [int(name[5:]) for name in names if name.startswith("cuda:")]
    if numbers and max(numbers) >= (count := _count_elsewhere()):
        raise ConfigError(f"--devices: there is no 'cuda:{max(numbers)}' here, but {count} GPU{'s' * (count != 1)}")
    return names


def _count_elsewhere() -> int:
    """`gpu_count` in another process: one that has started CUDA is in the way when a GPU has to be reset."""
    program = [sys.executable, "-c", f"from {__name__} import gpu_count; print(gpu_count())"]
    done = subprocess.run(program, capture_output=True, text=True, timeout=_COUNT_SECONDS, check=False)
    return int(done.stdout) if done.returncode == 0 else 0


def environment(device: str, of: Mapping[str, str] = os.environ) -> dict[str, str]:
    """The environment of a process that is to see this device alone: a GPU as cuda:0, or none."""
    if not device.startswith("cuda:"):
        return {**of, "CUDA_VISIBLE_DEVICES": ""}
    number = int(device[5:])
    visible = [one.strip() for one in of.get("CUDA_VISIBLE_DEVICES", "").split(",") if one.strip()]
    return {**of, "CUDA_VISIBLE_DEVICES": visible[number] if number < len(visible) else str(number)}


def pinned_to(feed: Feed, devices: Sequence[str]) -> str | None:
    """The device that a feed has to run on, since a node of its graph names a GPU; None if it may run on any.

    Raises ConfigError for one that is not among these, or for several.
    """
    nodes = [node.get("option", {}) for node in feed.graph.content["nodes"]]
    named = sorted({str(option["device"]) for option in nodes if _NUMBERED.fullmatch(str(option.get("device")))})
    if len(named) > 1:
        raise ConfigError(f"feed '{feed.name}': a feed runs on one device, and its options name {', '.join(named)}")
    if named and named[0] not in devices:
        raise ConfigError(f"feed '{feed.name}': option 'device': got '{named[0]}'; --devices has {', '.join(devices)}")
    return named[0] if named else None


def for_one_device(feed: Feed) -> Feed:
    """A feed for a process that sees the one device only that it may be pinned to."""
    graph = described_graph(without_numbers(feed.graph.content), feed.graph.writes_files)
    return replace(feed, graph=graph)


def without_numbers(graph: dict[str, Any]) -> dict[str, Any]:
    """A graph for a process that sees one GPU only, whatever number that has elsewhere."""

    def option(given: dict[str, Any]) -> dict[str, Any]:
        return {**given, "device": "cuda:0"} if _NUMBERED.fullmatch(str(given.get("device"))) else given

    nodes = [{**node, "option": option(node["option"])} if "option" in node else node for node in graph["nodes"]]
    return {**graph, "nodes": nodes}
