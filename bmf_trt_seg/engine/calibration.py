"""INT8 calibration by entropy, for the editions of TensorRT that quantize by themselves."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from bmf_trt_seg.engine.library import Library
from bmf_trt_seg.outputs import write_whole

__all__ = ["CalibrationData", "entropy_calibrator"]


@dataclass(frozen=True)
class CalibrationData:
    """Pictures to calibrate on, ready for the network."""

    identity: str
    """A digest of the pictures and of how they are prepared: the same text means the same batches."""
    batches: Callable[[int], Iterator[npt.NDArray[np.generic]]]
    """Given a batch size, batches of exactly that size, as the picture's input wants them."""
    source: str = ""
    """The file or folder they come from."""
    count: int = 0
    """How many were asked for."""


def entropy_calibrator(
    library: Library,
    batches: Iterator[dict[str, npt.NDArray[np.generic]]],
    batch_size: int,
    cache: Path,
    failures: list[BaseException],
) -> Any:
    """A calibrator for a builder config. What it finds is kept in `cache`, and taken from there if it is there.

    An exception in reading pictures cannot pass through TensorRT: it is put into `failures`.
    """
    import torch

    trt: Any = library.trt

    class Calibrator(trt.IInt8EntropyCalibrator2):  # type: ignore[misc]
        def __init__(self) -> None:
            trt.IInt8EntropyCalibrator2.__init__(self)
            self._on_device: dict[str, Any] = {}

        def get_batch_size(self) -> int:
            return batch_size

        def get_batch(self, names: list[str]) -> list[int] | None:
            try:
                values = next(batches, None)
                if values is None:
                    return None
                self._on_device = {  # held until the next batch
                    name: torch.from_numpy(np.ascontiguousarray(values[name])).cuda() for name in names
                }
                torch.cuda.current_stream().synchronize()
            except BaseException as error:
                failures.append(error)
                return None
            return [self._on_device[name].data_ptr() for name in names]

        def read_calibration_cache(self) -> bytes | None:
            try:
                return cache.read_bytes()
            except OSError:
                return None

        def write_calibration_cache(self, content: Any) -> None:
            if not failures:
                with contextlib.suppress(OSError):  # the engine does not need it any more
                    write_whole(cache, lambda path: path.write_bytes(bytes(content)))

    return Calibrator()
