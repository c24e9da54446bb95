"""What is the same for all videos of a batch, and by what it is told whether a result is still the wanted one."""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, dataclass
from pathlib import Path

from bmf_trt_seg.batch.inputs import Film
from bmf_trt_seg.models.catalog import find
from bmf_trt_seg.options import SegmentOptions
from bmf_trt_seg.spec import spec_path
from bmf_trt_seg.transcode import Encoding

__all__ = ["Settings", "model_digest"]

_NOT_IN_PICTURES = {"name", "threads", "max_in_flight"}  # options that change nothing of what is drawn


@dataclass(frozen=True)
class Settings:
    """How every video is segmented, and where to."""

    options: SegmentOptions
    encoding: Encoding
    decoder: str
    records: bool
    """Whether JSON lines are written beside each video."""
    target: str
    """Folder of the outputs, absolute or an address."""
    model_sha256: str
    """Of the network and its description."""
    cpu_threads: int
    """Of decoder and encoder each, see `transcode.VideoJob`."""
    cut_seconds: float
    """Longer films are cut into parts of about this length; 0: none is."""
    verbose: bool = False
    """Whether BMF, FFmpeg and x264 may print what they do."""

    def key(self, film: Film) -> str:
        """Names a film's content, as far as the storage tells, and everything that its output depends on."""
        facts = {
            "source": film.source.path,
            "size": film.source.size_bytes,
            "version": film.source.version,
            "options": self.options.model_dump(mode="json", exclude=_NOT_IN_PICTURES),
            "encoding": asdict(self.encoding),
            "decoder": self.decoder,
            "records": self.records,
            "model": self.model_sha256,
        }
        return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()


def model_digest(model: str) -> str:
    """SHA-256 of a network's file and of the description beside it. Raises what `models.catalog.find` does."""
    path = find(model)
    digest = hashlib.sha256()
    for file in (path, spec_path(path)):
        digest.update(_file_digest(file) if file.exists() else b"")
    return digest.hexdigest()


def _file_digest(path: Path) -> bytes:
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while chunk := file.read(1 << 20):
            digest.update(chunk)
    return digest.digest()
