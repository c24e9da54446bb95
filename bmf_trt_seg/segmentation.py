"""What a source of masks gives, whether a network makes them or a file holds them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import TYPE_CHECKING, Protocol

import numpy as np
import numpy.typing as npt

from bmf_trt_seg.frames import FramePlanes
from bmf_trt_seg.records import Outputs

if TYPE_CHECKING:
    import torch

    from bmf_trt_seg.options import SegmentOptions

__all__ = [
    "Batch",
    "Drawn",
    "Finished",
    "MaskSource",
    "PicturePipeline",
    "Segmentation",
    "Timestamp",
]

Timestamp = tuple[int, Fraction]
"""A pts, and how many seconds one unit of it lasts."""


@dataclass(frozen=True)
class Segmentation:
    """The class map of one picture, (H, W) uint8, and whether a network saw this very picture."""

    map_hw: npt.NDArray[np.uint8]
    inferred: bool


@dataclass(frozen=True)
class Drawn:
    """What is known of a picture once it is drawn: its class map, if that was wanted, and whether a network saw it."""

    map_hw: npt.NDArray[np.uint8] | None
    inferred: bool
    outputs: Outputs | None = None
    """Of a network of task 'raw'."""


class Batch(Protocol):
    """Consecutive pictures on their way through a pipeline."""

    def is_done(self) -> bool:
        """Whether `finish` would return at once."""

    def finish(self) -> list[Drawn]:
        """Wait until all are drawn. Raises EngineError."""


class Finished:
    """A batch that was done at once."""

    def __init__(self, drawn: list[Drawn]) -> None:
        self._drawn = drawn

    def is_done(self) -> bool:
        return True

    def finish(self) -> list[Drawn]:
        return self._drawn


class PicturePipeline(Protocol):
    """Makes pictures of pictures, on the CPU or on a GPU."""

    labels: dict[int, str]
    """Names of the classes that are shown, by index."""
    colors: dict[int, str]
    """Their colours '#rrggbb', by index."""
    background: int
    """What a class map holds where no shown class is."""
    batch_size: int
    """How many pictures that are due it takes at once."""

    @property
    def network(self) -> object:
        """What `close` frees; one that `changed` has made has the same."""

    @property
    def device(self) -> torch.device | None:
        """Where pictures best lie; None for host memory."""

    def is_due(self, number: int) -> bool:
        """Whether the picture of this number, from 0, costs an inference."""

    def size(self, width: int, height: int) -> tuple[int, int]:
        """Width and height of what is made of a picture of this size."""

    def submit(
        self,
        frames: Sequence[FramePlanes],
        numbers: Sequence[int],
        timestamps: Sequence[Timestamp],
        targets: Sequence[FramePlanes],
        *,
        wants_maps: bool,
    ) -> Batch:
        """Have consecutive pictures of one size made into `targets`; numbers count from the stream's first, 0."""

    def changed(self, options: SegmentOptions) -> PicturePipeline:
        """One with other options and the same open network, to take the place of this one.

        Any thread may call it while this one works: nothing is run, and this one stays as it is. Batches that were
        submitted here may be finished after the other one has got its first. Raises ConfigError.
        """

    def begin(self, number: int) -> None:
        """The next picture is `number`, and is one for the network, from which the interval counts."""

    def describe(self) -> str:
        """What runs where, in a few words."""

    def close(self) -> None:
        """Free what it holds."""


class MaskSource(Protocol):
    """Gives a class map for every picture of a stream."""

    labels: dict[int, str]
    """Names of the classes that are shown, by index."""
    colors: dict[int, str]
    """Their colours '#rrggbb', by index."""
    background: int
    """What a class map holds where no shown class is."""
    batch_size: int
    """How many pictures that are due it takes at once."""

    @property
    def network(self) -> object:
        """What `close` frees; one that `changed` has made has the same."""

    def is_due(self, number: int) -> bool:
        """Whether the picture of this number, from 0, costs an inference."""

    def segment(
        self, frames: Sequence[FramePlanes], numbers: Sequence[int], timestamps: Sequence[Timestamp]
    ) -> list[Segmentation]:
        """A class map for each of consecutive pictures, all of one size."""

    def changed(self, options: SegmentOptions) -> MaskSource:
        """As `PicturePipeline.changed`."""

    def begin(self, number: int) -> None:
        """As `PicturePipeline.begin`."""

    def describe(self) -> str:
        """Where masks come from, in a few words."""

    def close(self) -> None:
        """Free what it holds."""
