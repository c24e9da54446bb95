"""Engines that a run wants built, built before it starts, where the build can be watched and stopped."""

from __future__ import annotations

from collections.abc import Callable

from bmf_trt_seg.cli.progress import BuildProgress
from bmf_trt_seg.networks import engine_for
from bmf_trt_seg.options import SegmentOptions

__all__ = ["build_engine"]


def build_engine(options: SegmentOptions, quiet: bool, cancelled: Callable[[], bool] = lambda: False) -> None:
    """Build the engine that these options want, unless it is there or they want none.

    cancelled is asked again and again meanwhile; what it raises ends the build, too.
    """
    engine = engine_for(options)
    if engine is None or engine.is_built:
        return
    with BuildProgress(f"{engine.network.path.name} {options.build.precision}", quiet) as progress:
        progress.say(f"building an engine for {engine.gpu} with {engine.library}, once; this may take minutes")
        if engine.build(progress.update, cancelled):
            progress.say(f"'{engine.path}' was built in {engine.manifest.build_seconds:.0f} s")
