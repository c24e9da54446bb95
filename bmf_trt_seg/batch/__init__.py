"""Many videos, segmented by workers on one machine or a Ray cluster."""
