"""Segmentation on video, as a node of a BMF graph."""

__version__ = "0.1.0"
