"""The exceptions a user of bmf_trt_seg can meet.

    SegError
    ├── ConfigError(ValueError)             an option, a graph file or a model description says something impossible
    ├── ModelError(ValueError)              a network is broken, or is not the segmentation network it is said to be
    ├── EngineError(RuntimeError)           a backend failed while it was running a network
    ├── FrameError(ValueError)              a picture has a format or a size that cannot be handled
    ├── BackendUnavailable(ImportError)     an optional library is missing; the message says how to install it
    ├── GraphError(RuntimeError)            a graph ended before its time
    └── StreamError(OSError)                a video or picture cannot be read or written

A message names the object, what was received, what is allowed and what to do, in one line.
"""

__all__ = [
    "BackendUnavailable",
    "ConfigError",
    "EngineError",
    "FrameError",
    "GraphError",
    "ModelError",
    "SegError",
    "StreamError",
]


class SegError(Exception):
    """Root of everything that bmf_trt_seg raises on purpose."""


class ConfigError(SegError, ValueError):
    """An option, a graph file or a model description says something impossible."""


class ModelError(SegError, ValueError):
    """A network is broken, or is not the segmentation network it is said to be."""


class EngineError(SegError, RuntimeError):
    """A backend failed while it was running a network."""


class FrameError(SegError, ValueError):
    """A picture has a format or a size that cannot be handled."""


class BackendUnavailable(SegError, ImportError):
    """An optional library is missing; the message says how to install it."""


class GraphError(SegError, RuntimeError):
    """A graph ended before its time."""


class StreamError(SegError, OSError):
    """A video or picture cannot be read or written."""
