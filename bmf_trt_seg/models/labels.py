"""What the channels of a network mean, as somebody says it: a data set, a file, or a list."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path

from bmf_trt_seg.errors import ConfigError, StreamError
from bmf_trt_seg.models.datasets import DATA_SETS, DataSet

__all__ = ["Labels"]

_BACKGROUNDS = ("background", "unlabeled", "unlabelled", "void")


@dataclasses.dataclass(frozen=True)
class Labels:
    """Names of the channels, in their order."""

    names: tuple[str, ...]
    palette: tuple[str, ...] = ()
    """A colour '#rrggbb' for each; empty for colours of ours."""
    background: int | None = 0
    """Index of the background; None if there is none."""

    @classmethod
    def of(cls, data_set: DataSet) -> Labels:
        return cls(data_set.labels, data_set.palette, data_set.background)

    @classmethod
    def listed(cls, names: Sequence[str]) -> Labels:
        """These; the first is the background if it is called 'background', 'unlabeled' or 'void'."""
        has_background = len(names) > 1 and names[0].strip("_").lower() in _BACKGROUNDS
        return cls(tuple(names), (), 0 if has_background else None)

    @classmethod
    def parsed(cls, text: str) -> Labels:
        """The name of a data set, a file with a label a line, or labels separated by commas.

        Raises StreamError if the file cannot be read, ConfigError if there are no labels in it.
        """
        if text in DATA_SETS:
            return cls.of(DATA_SETS[text])
        path = Path(text)
        if path.is_file():
            try:
                found = path.read_text(encoding="utf-8").splitlines()
            except (OSError, UnicodeDecodeError) as error:
                raise StreamError(f"labels '{path}' cannot be read: {getattr(error, 'strerror', error)}") from error
        elif path.suffix in (".txt", ".names") or "/" in text:
            raise StreamError(f"labels '{path}' do not exist; expected a file with a label a line")
        else:
            found = text.split(",")
        names = [name.strip() for name in found if name.strip()]
        if not names:
            raise ConfigError(f"--labels '{text}' names nothing; there are {', '.join(DATA_SETS)}, or give names")
        return cls.listed(names)
