"""Ray: connecting to it, what its machines have, and what a worker needs of that."""

from __future__ import annotations

import logging
import os
import signal
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from bmf_trt_seg.errors import BackendUnavailable, ConfigError, StreamError

__all__ = ["Need", "connected", "imported_ray", "machines", "room"]

_CPUS_OF_A_WORKER = 2  # decoder, network and encoder each have a thread
_CONNECT_SECONDS = 10.0
_OBJECT_STORE_BYTES = 100 << 20  # films do not go through it; Ray's default is a third of the memory


@dataclass(frozen=True)
class Need:
    """What Ray sets aside for a worker."""

    gpus: int
    cpus: int

    def __str__(self) -> str:
        cpus = f"{self.cpus} CPU{'s' * (self.cpus > 1)}"
        return f"{self.gpus} GPU and {cpus}" if self.gpus else cpus


@contextmanager
def connected(address: str | None, verbose: bool) -> Iterator[None]:
    """Ray, started here without an address. Raises BackendUnavailable, ConfigError or StreamError."""
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    os.environ.setdefault("RAY_DISABLE_IMPORT_WARNING", "1")
    ray = imported_ray()
    if address:
        _check_address(address)
    handlers = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)}
    settings: dict[str, Any] = {}
    if not address:
        settings = {"include_dashboard": False, "object_store_memory": _OBJECT_STORE_BYTES}
    try:
        ray.init(
            address=address or "local",
            namespace="bmf-trt-seg",
            log_to_driver=verbose,
            logging_level=logging.INFO if verbose else logging.CRITICAL,
            configure_logging=True,
            **settings,
        )
    except (ray.exceptions.RayError, RuntimeError, ValueError, OSError) as error:
        ray.shutdown()
        what = f"the Ray cluster '{address}' cannot be used" if address else "Ray cannot be started here"
        raise StreamError(f"{what}: {' '.join(str(error).split())}") from error
    try:
        for number, handler in handlers.items():  # Ray puts its own in their place
            signal.signal(number, handler)
        yield
    finally:
        ray.shutdown()


def _check_address(address: str) -> None:
    """Raise at once what Ray would find out after two minutes."""
    if address == "auto":
        return
    host, _, port = address.rpartition(":")
    if "://" in address or not host or not port.isdecimal():
        raise ConfigError(
            f"--address {address}: give 'auto' or HOST:PORT of the cluster's head, and run this on one of its machines"
        )
    try:
        socket.create_connection((host, int(port)), timeout=_CONNECT_SECONDS).close()
    except (OSError, OverflowError) as error:
        raise StreamError(
            f"there is no Ray cluster at '{address}': {getattr(error, 'strerror', None) or error}"
        ) from error


def imported_ray() -> Any:
    """Ray's module. Raises BackendUnavailable."""
    try:
        import ray
    except ImportError as error:
        raise BackendUnavailable("'batch' needs Ray: pip install 'bmf-trt-seg[ray]'") from error
    return ray


@dataclass(frozen=True)
class Machine:
    """What Ray may give away of one."""

    gpus: int
    cpus: int

    def holds(self, need: Need) -> int:
        """How many workers."""
        by_cpu = self.cpus // need.cpus
        return min(self.gpus // need.gpus, by_cpu) if need.gpus else by_cpu


def machines() -> list[Machine]:
    """Those of the cluster that are up."""
    alive = (node["Resources"] for node in imported_ray().nodes() if node["Alive"])
    return [Machine(int(found.get("GPU", 0)), int(found.get("CPU", 0))) for found in alive]


def room(device: str, workers: int | None, cpus_per_worker: int | None) -> Need:
    """What a worker needs, given what the cluster has. Raises ConfigError if no machine has it."""
    if device.startswith("cuda:"):
        raise ConfigError(f"--device {device}: each worker sees one GPU, which Ray gives it; say 'cuda'")
    found = machines()
    is_gpu = device != "cpu" and any(machine.gpus for machine in found)
    need = Need(int(is_gpu), cpus_per_worker or _fair_cpus(found, is_gpu, workers))
    if not any(machine.holds(need) for machine in found):
        largest = max(found, key=lambda machine: (machine.gpus, machine.cpus), default=Machine(0, 0))
        raise ConfigError(
            f"a worker needs {need}, and no machine has that; the largest has {largest.gpus} GPUs and {largest.cpus} "
            "CPUs: give --cpus-per-worker"
        )
    return need


def _fair_cpus(found: list[Machine], is_gpu: bool, workers: int | None) -> int:
    """CPUs of a worker: a GPU's share of its machine's; without GPUs what is there for each of `workers`, or two."""
    if is_gpu:
        return max(1, min(machine.cpus // machine.gpus for machine in found if machine.gpus))
    largest = max((machine.cpus for machine in found), default=1)
    wanted = sum(machine.cpus for machine in found) // workers if workers else _CPUS_OF_A_WORKER
    return max(1, min(wanted, largest))
