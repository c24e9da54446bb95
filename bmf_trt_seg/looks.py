"""From options and a network's classes to what is shown of them, and how."""

from __future__ import annotations

from bmf_trt_seg.errors import ConfigError
from bmf_trt_seg.options import SegmentOptions
from bmf_trt_seg.overlay import Look
from bmf_trt_seg.postprocess import chosen_classes
from bmf_trt_seg.spec import ModelSpec

__all__ = ["look_of", "shown_classes"]


def shown_classes(spec: ModelSpec, options: SegmentOptions) -> tuple[dict[int, str], dict[int, str]]:
    """Labels and colours of the classes to show, by index. ConfigError for a class that the network does not have."""
    chosen = chosen_classes(spec.labels, spec.background, options.classes)
    return {index: spec.labels[index] for index in chosen}, {index: spec.colors[index] for index in chosen}


def look_of(options: SegmentOptions, labels: dict[int, str], colors: dict[int, str]) -> Look:
    """How these classes are drawn. ConfigError for a palette of other ones."""
    return Look(
        colors={**colors, **_own_palette(options, labels)},
        labels=labels,
        style=options.style,
        output=options.output,
        alpha=options.alpha,
        background_color=options.background_color,
        legend=options.legend,
    )


def _own_palette(options: SegmentOptions, labels: dict[int, str]) -> dict[int, str]:
    """Colours by class index from the option 'palette'."""
    palette = options.palette
    if palette is None:
        return {}
    if isinstance(palette, list):
        last = max(labels, default=-1)
        if len(palette) <= last:
            raise ConfigError(
                f"option 'palette' has {len(palette)} colours; one is needed for each class up to {last}: "
                'give a list that long, or name classes: {"person": "#00ff00"}'
            )
        return {index: palette[index] for index in labels}
    by_label = {label: index for index, label in labels.items()}
    unknown = [label for label in palette if label not in by_label]
    if unknown:
        raise ConfigError(f"option 'palette': no class '{unknown[0]}' is shown; there are {', '.join(by_label)}")
    return {by_label[label]: color for label, color in palette.items()}
