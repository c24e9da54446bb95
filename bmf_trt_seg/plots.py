"""Diagrams of comparisons and evaluations, as PNG. Wants matplotlib, which is imported when one is drawn."""

from __future__ import annotations

import importlib.util
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from bmf_trt_seg.confusion import Scores
from bmf_trt_seg.errors import BackendUnavailable

if TYPE_CHECKING:
    from bmf_trt_seg.timing import Timing

__all__ = ["check_plots", "plot_comparison", "plot_confusion"]

# Okabe and Ito's colours, which most people who see few colours can tell apart
_COLORS = ("#0072b2", "#e69f00", "#009e73", "#cc79a7", "#56b4e9", "#d55e00")
_MOST_NUMBERED = 12
"""Classes up to which every field of a confusion matrix has its number in it."""
_MOST_NAMED = 60
"""Classes up to which all are named."""


def check_plots() -> None:
    """Raise BackendUnavailable if no diagram could be drawn."""
    if importlib.util.find_spec("matplotlib") is None:
        raise BackendUnavailable(
            "diagrams are drawn by matplotlib, which is not installed: pip install 'bmf-trt-seg[plots]', or give "
            "--no-plot"
        )


def plot_comparison(
    path: Path, title: str, timings: Mapping[tuple[str, int], Timing], notes: Mapping[str, str]
) -> None:
    """Latency and throughput of each precision and size of batch. notes: what to say of each precision, by name."""
    precisions = list(dict.fromkeys(precision for precision, _ in timings))
    batches = sorted({batch for _, batch in timings})
    figure = _figure(max(9.0, 2 * (3.0 + 0.35 * len(batches) * len(precisions))), 4.4)
    latency, throughput = figure.subplots(1, 2)
    width = 0.8 / max(2, len(precisions))
    for number, precision in enumerate(precisions):
        here = [batch for batch in batches if (precision, batch) in timings]
        of = [timings[precision, batch] for batch in here]
        places = [batches.index(batch) + (number - (len(precisions) - 1) / 2) * width for batch in here]
        color = _COLORS[number % len(_COLORS)]
        latency.bar(places, [one.p50_ms for one in of], 0.9 * width, color=color)
        upper = [max(0.0, one.p99_ms - one.p50_ms) for one in of]
        latency.errorbar(
            places, [one.p50_ms for one in of], yerr=[[0.0] * len(of), upper], fmt="none", color="#333333", capsize=3
        )
        for place, one in zip(places, of, strict=True):
            latency.annotate(
                _short(one.p50_ms), (place, max(one.p50_ms, one.p99_ms)), xytext=(0, 3), textcoords="offset points",
                ha="center", fontsize=8,
            )  # fmt: skip
        label = f"{precision}: {notes[precision]}" if notes.get(precision) else precision
        rates = [one.pictures_per_second for one in of]
        bars = throughput.bar(places, rates, 0.9 * width, color=color, label=label)
        throughput.bar_label(bars, [_short(rate) for rate in rates], fontsize=8, padding=2)
    latency.set_title("latency of a batch, ms: median, and up to p99", fontsize=9)
    throughput.set_title("pictures a second", fontsize=9)
    for axes in (latency, throughput):
        axes.set_xticks(range(len(batches)), [str(batch) for batch in batches])
        axes.set_xlabel("pictures in a batch")
        axes.set_xlim(-0.6, len(batches) - 0.4)
        axes.margins(y=0.12)
        axes.set_ylim(bottom=0)
        _plain(axes)
    figure.legend(loc="outside lower center", ncols=1, frameon=False, fontsize=9)
    figure.suptitle(title, fontsize=11)
    _save(figure, path)


def plot_confusion(
    path: Path, title: str, counts: npt.NDArray[np.int64], scores: Scores, *, no_class: str = "no class"
) -> None:
    """What the pixels of each class were found to be, in shares of the class, and the IoU of each class.

    counts: of the classes of `scores`, in their order, and one row and column more for no class, which is left out
    where it is empty.
    """
    labels = [row.label for row in scores.classes]
    rows = [*labels, no_class] if counts[-1].any() else labels
    columns = [*labels, no_class] if counts[:, -1].any() else labels
    shown = counts[: len(rows), : len(columns)]
    totals = shown.sum(axis=1, keepdims=True)
    shares = np.divide(shown, totals, out=np.full(shown.shape, np.nan), where=totals > 0)
    side = min(14.0, 2.6 + 0.42 * max(len(rows), 4))
    figure = _figure(side + 4.5, max(3.6, side))
    matrix, bars = figure.subplots(1, 2, width_ratios=(side, 4.0))

    image = matrix.imshow(shares, vmin=0, vmax=1, cmap="Blues")
    matrix.set_title("what the pixels of a class were found to be", fontsize=9)
    matrix.set_xlabel("found")
    matrix.set_ylabel("truth (a row is 1)")
    size = 9 if len(labels) <= _MOST_NUMBERED else 7 if len(labels) <= 30 else 4.5
    named = len(labels) <= _MOST_NAMED
    if named:  # else by index
        matrix.set_xticks(range(len(columns)), columns, rotation=90, fontsize=size)
        matrix.set_yticks(range(len(rows)), rows, fontsize=size)
        bars.set_yticks(range(len(labels)), labels, fontsize=size)
    if len(labels) <= _MOST_NUMBERED:
        for (row, column), share in np.ndenumerate(shares):
            if not np.isnan(share):
                color = "white" if share > 0.5 else "black"
                matrix.text(column, row, _share(float(share)), ha="center", va="center", color=color, fontsize=8)
    figure.colorbar(image, ax=matrix, fraction=0.03)

    values = [row.iou or 0.0 for row in scores.classes]
    bars.barh(range(len(labels)), values, color=_COLORS[0])
    if named:
        for place, row in enumerate(scores.classes):
            text = "not there" if row.iou is None else f"{100 * row.iou:.1f} %"
            inside = values[place] > 0.25  # at the left end, where the line of the mean rarely is
            bars.text(
                0.015 if inside else values[place] + 0.015, place, text, va="center", fontsize=size,
                color="white" if inside else "black",
            )  # fmt: skip
    bars.set_ylim(len(labels) - 0.5, -0.5)
    bars.set_xlim(0, 1)
    bars.set_title("intersection over union", fontsize=9)
    if scores.mean_iou is not None:
        bars.axvline(scores.mean_iou, color=_COLORS[5], linewidth=1.2)
        bars.set_xlabel(f"the line is the mean, {100 * scores.mean_iou:.1f} %")
    _plain(bars, grid="x")
    figure.suptitle(title, fontsize=11)
    _save(figure, path)


def _figure(width: float, height: float) -> Any:
    from matplotlib.figure import Figure  # without pyplot there is no state between figures, and no window

    return Figure(figsize=(width, height), layout="constrained")


def _save(figure: Any, path: Path) -> None:
    figure.savefig(path, dpi=150, format="png")


def _plain(axes: Any, grid: str = "y") -> None:
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(axis=grid, color="#dddddd", linewidth=0.6)
    axes.set_axisbelow(True)


def _short(value: float) -> str:
    """Three digits, or the whole number."""
    return f"{value:.0f}" if value >= 100 else f"{value:.3g}"


def _share(share: float) -> str:
    return "0" if share == 0 else f"{share:.2f}" if share >= 0.005 else "<.01"
