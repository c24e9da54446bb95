"""The picture of a graph, as SVG: its nodes from left to right, its streams as lines between them.

Nodes stand in layers, each right of those whose streams it takes. Within a layer they are ordered by where their
neighbours stand (the barycentre heuristic of Sugiyama, Tagawa and Toda, 1981), and stand as near to their heights as
their order allows (isotonic regression). A line that passes a layer has a lane of its own there, so that it runs beside
nodes and not behind them.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass, field
from xml.sax.saxutils import escape

from bmf_trt_seg.graph_boxes import Box, Port, in_one_line

__all__ = ["drawing"]

_CELL = 7.3  # width of a character, in pixels: the fonts below are 0.602 of their 12 pixels wide
_FONT = "'DejaVu Sans Mono', Menlo, Consolas, 'Liberation Mono', monospace"
_LINE = 18.0
_HEAD = 26.0
_PADDING = 12.0
_LANE = 6.0
_BETWEEN_LAYERS = 70.0
_BETWEEN_ITEMS = 26.0
_MARGIN = 20.0
_TITLE = 30.0
_ROUNDS = 12
_COLORS = {
    "decoder": "#1a5fb4", "camera": "#1a5fb4", "network": "#26733b", "encoder": "#a84300", "records": "#6d4aa8",
    "sound gate": "#4f5b66", "filter": "#4f5b66", "module": "#4f5b66",
}  # fmt: skip
_OUTSIDE = "#8a8f98"
_WRONG = "#c01c28"


@dataclass(eq=False)
class _Item:
    """A node, or the lane of a line that passes a layer."""

    width: float
    height: float
    box: Box | None = None
    layer: int = 0
    left: float = 0.0
    top: float = 0.0
    column: tuple[float, float] = (0.0, 0.0)
    into: list[_Link] = field(default_factory=list)
    out_of: list[_Link] = field(default_factory=list)


@dataclass(eq=False)
class _Link:
    """A line between items of neighbouring layers; offsets are its ends' distances from their tops."""

    source: _Item
    source_offset: float
    target: _Item
    target_offset: float
    label: str
    color: str


@dataclass(frozen=True)
class _Wire:
    """A stream from the node that gives it to one that takes it."""

    source: _Item
    source_offset: float
    target: _Item
    target_offset: float
    label: str


def drawing(boxes: Sequence[Box], title: str) -> str:
    """An SVG document. A stream that nobody gives ends in a red port."""
    title = in_one_line(title)
    items = [_Item(_width(box), _port_top(box) + _LINE * _port_rows(box) + _PADDING / 2, box) for box in boxes]
    wires, wrong = _wires(items)
    forward = _layered(items, wires)
    layers = _with_lanes(items, forward)
    _order(layers)
    _place(layers)
    backward = [wire for wire in wires if wire not in forward]
    return _svg(layers, backward, wrong, title)


# --- sizes ---------------------------------------------------------------------------------------------------------


def _cells(text: str) -> int:
    return sum(2 if unicodedata.east_asian_width(letter) in "WF" else 1 for letter in text)


def _width(box: Box) -> float:
    rows = [_cells(box.title) + _cells(box.kind) + 3, _cells(box.module)]
    rows += [_label_cells(box) + _cells(value) for _, value in box.options]
    for row in range(_port_rows(box)):
        rows.append(sum(_cells(ports[row].label) + 2 for ports in (box.takes, box.gives) if row < len(ports)) + 2)
    return max(max(rows) * _CELL + 2 * _PADDING, 150.0)


def _label_cells(box: Box) -> int:
    return max((_cells(name) for name, _ in box.options), default=0) + 2


def _port_rows(box: Box) -> int:
    return max(len(box.takes), len(box.gives))


def _port_top(box: Box) -> float:
    return _HEAD + _LINE * (1 + len(box.options)) + _PADDING


def _port_offset(box: Box, number: int) -> float:
    return _port_top(box) + _LINE * (number + 0.5)


# --- layers --------------------------------------------------------------------------------------------------------


def _wires(items: Sequence[_Item]) -> tuple[list[_Wire], set[tuple[int, int]]]:
    """All lines, and the inputs (position of the node, number) that no node gives anything to."""
    givers: dict[str, tuple[_Item, float, str]] = {}
    for item in items:
        for number, port in enumerate(_box(item).gives):
            givers.setdefault(port.stream, (item, _port_offset(_box(item), number), port.label))
    wires, wrong = [], set()
    for item in items:
        for number, port in enumerate(_box(item).takes):
            if port.stream in givers:
                source, offset, label = givers[port.stream]
                wires.append(_Wire(source, offset, item, _port_offset(_box(item), number), label))
            else:
                wrong.add((id(item), number))
    return wires, wrong


def _box(item: _Item) -> Box:
    assert item.box is not None
    return item.box


def _layered(items: Sequence[_Item], wires: Sequence[_Wire]) -> list[_Wire]:
    """Give each node its layer; the lines that go from a lower to a higher one, which are all but those of circles."""
    taken: dict[_Item, list[_Wire]] = {item: [] for item in items}
    for wire in wires:
        taken[wire.target].append(wire)
    forward: list[_Wire] = []
    placed: set[_Item] = set()
    waiting = list(items)
    while waiting:
        # in a circle the first of the file comes first
        item = next((one for one in waiting if all(wire.source in placed for wire in taken[one])), waiting[0])
        waiting.remove(item)
        arriving = [wire for wire in taken[item] if wire.source in placed]
        item.layer = max((wire.source.layer + 1 for wire in arriving), default=0)
        forward += arriving
        placed.add(item)
    for item in items:  # a source stands right before the first that takes something from it
        after = [wire.target.layer for wire in forward if wire.source is item]
        if after and all(wire.target is not item for wire in forward):
            item.layer = min(after) - 1
    return forward


def _with_lanes(items: Sequence[_Item], wires: Sequence[_Wire]) -> list[list[_Item]]:
    """The layers, with lanes in those that lines pass; lines of one stream share them."""
    layers: list[list[_Item]] = [[] for _ in range(max(item.layer for item in items) + 1)]
    for item in items:
        layers[item.layer].append(item)
    lanes: dict[tuple[_Item, float, int], _Item] = {}
    for wire in wires:
        color = _color(wire.source)
        at, offset = wire.source, wire.source_offset
        for number in range(wire.source.layer + 1, wire.target.layer):
            key = (wire.source, wire.source_offset, number)
            if key not in lanes:
                lanes[key] = _Item(0.0, _LANE, layer=number)
                layers[number].append(lanes[key])
                _link(_Link(at, offset, lanes[key], _LANE / 2, wire.label, color))
            at, offset = lanes[key], _LANE / 2
        _link(_Link(at, offset, wire.target, wire.target_offset, wire.label, color))
    return layers


def _link(link: _Link) -> None:
    link.source.out_of.append(link)
    link.target.into.append(link)


# --- places --------------------------------------------------------------------------------------------------------


def _order(layers: list[list[_Item]]) -> None:
    """Sort each layer by where the neighbours stand, to and fro; what crosses least stays."""
    _stack(layers)
    best, fewest = [list(layer) for layer in layers], _crossings(layers)
    for turn in range(_ROUNDS):
        for layer in layers if turn % 2 == 0 else reversed(layers):
            wanted = {item: _wanted_top(item, forward=turn % 2 == 0) for item in layer}
            layer.sort(key=lambda item: wanted[item] + item.height / 2)
            _stack([layer])
        crossings = _crossings(layers)
        if crossings < fewest:
            best, fewest = [list(layer) for layer in layers], crossings
    for layer, order in zip(layers, best, strict=True):
        layer[:] = order
    _stack(layers)
    while _swapped(layers):
        pass


def _swapped(layers: list[list[_Item]]) -> bool:
    """Exchange neighbours wherever fewer lines cross then; whether that was so anywhere."""
    any_better = False
    for number, layer in enumerate(layers):
        around = layers[max(0, number - 1) : number + 1]
        fewest = _crossings(around)
        for above in range(len(layer) - 1):
            layer[above : above + 2] = layer[above : above + 2][::-1]
            _stack([layer])
            crossings = _crossings(around)
            if crossings < fewest:
                fewest, any_better = crossings, True
            else:
                layer[above : above + 2] = layer[above : above + 2][::-1]
                _stack([layer])
    return any_better


def _stack(layers: Sequence[Sequence[_Item]]) -> None:
    for layer in layers:
        top = 0.0
        for item in layer:
            item.top = top
            top += item.height + _BETWEEN_ITEMS


def _wanted_top(item: _Item, *, forward: bool, both: bool = False) -> float:
    """Where lines from the layer before, or to the one behind, would be level."""
    tops = [link.source.top + link.source_offset - link.target_offset for link in item.into if forward or both]
    tops += [link.target.top + link.target_offset - link.source_offset for link in item.out_of if not forward or both]
    return sum(tops) / len(tops) if tops else item.top


def _crossings(layers: Sequence[Sequence[_Item]]) -> int:
    count = 0
    for layer in layers:
        ends = [
            (link.source.top + link.source_offset, link.target.top + link.target_offset)
            for item in layer
            for link in item.out_of
        ]
        count += sum((a[0] - b[0]) * (a[1] - b[1]) < 0 for i, a in enumerate(ends) for b in ends[:i])
    return count


def _place(layers: list[list[_Item]]) -> None:
    """Set left and top of every item; nothing overlaps."""
    for turn in range(_ROUNDS):
        last = turn == _ROUNDS - 1
        for layer in layers if turn % 2 == 0 else reversed(layers):
            _spread(layer, [_wanted_top(item, forward=turn % 2 == 0, both=last) for item in layer])
    highest = min(item.top for layer in layers for item in layer)
    left = _MARGIN
    for layer in layers:
        width = max(item.width for item in layer)
        for item in layer:
            item.top += _MARGIN + _TITLE - highest
            item.column = (left, left + width)
            item.left = left + (width - item.width) / 2
            if item.box is None:  # its line is straight as long as it is beside nodes
                item.left, item.width = left, width
        left += width + _BETWEEN_LAYERS


def _spread(layer: Sequence[_Item], wanted: Sequence[float]) -> None:
    """Set the tops to the nearest to those wanted (least squares) that keep order and distance."""
    before, offsets = 0.0, []
    for item in layer:
        offsets.append(before)
        before += item.height + _BETWEEN_ITEMS
    pools: list[tuple[float, int]] = []  # mean and number of neighbours that push each other
    for top, offset in zip(wanted, offsets, strict=True):
        mean, count = top - offset, 1
        while pools and pools[-1][0] > mean:
            other, others = pools.pop()
            mean, count = (mean * count + other * others) / (count + others), count + others
        pools.append((mean, count))
    means = [mean for mean, count in pools for _ in range(count)]
    for item, mean, offset in zip(layer, means, offsets, strict=True):
        item.top = mean + offset


# --- SVG -----------------------------------------------------------------------------------------------------------


def _svg(layers: list[list[_Item]], backward: Sequence[_Wire], wrong: set[tuple[int, int]], title: str) -> str:
    items = [item for layer in layers for item in layer]
    width = max(item.left + item.width for item in items) + _MARGIN
    width = max(width, _cells(title) * _CELL * 14 / 12 + 2 * _MARGIN)
    bottom = max(item.top + item.height for item in items)
    height = bottom + _MARGIN + (_LINE * len(backward) if backward else 0)
    lines = [_line(link) for item in items for link in item.out_of]
    lines += [_lane(item) for item in items if item.box is None]
    lines += [_way_back(wire, bottom + _LINE * (number + 0.5)) for number, wire in enumerate(backward)]
    return "\n".join(
        [
            f'<svg xmlns="http://www.w3.org/2000/svg" width="{width:.0f}" height="{height:.0f}" '
            f'viewBox="0 0 {width:.0f} {height:.0f}" font-family="{_FONT}" font-size="12" role="img">',
            f"<title>{escape(title)}</title>",
            '<rect width="100%" height="100%" fill="#ffffff"/>',
            f'<text x="{_MARGIN:.0f}" y="{_MARGIN + 8:.0f}" font-size="14" font-weight="bold">{escape(title)}</text>',
            *lines,
            *(_node(item, _box(item), wrong) for item in items if item.box is not None),
            "</svg>\n",
        ]
    )


def _color(item: _Item) -> str:
    return _COLORS.get(_box(item).kind, _OUTSIDE)


def _line(link: _Link) -> str:
    x, y = link.source.left + link.source.width, link.source.top + link.source_offset
    end, level = link.target.left, link.target.top + link.target_offset
    right, left = link.source.column[1], link.target.column[0]  # it bends where no nodes are
    middle = (right + left) / 2
    way = f"M{x:.1f} {y:.1f}H{right:.1f}C{middle:.1f} {y:.1f} {middle:.1f} {level:.1f} {left:.1f} {level:.1f}H{end:.1f}"
    return _path(way, link.color, link.label)


def _lane(item: _Item) -> str:
    link = item.into[0]
    way = f"M{item.left:.1f} {item.top + _LANE / 2:.1f}h{item.width:.1f}"
    return _path(way, link.color, link.label)


def _way_back(wire: _Wire, level: float) -> str:
    """A line of a circle: below everything, back to the left."""
    x, y = wire.source.left + wire.source.width, wire.source.top + wire.source_offset
    end, top = wire.target.left, wire.target.top + wire.target_offset
    bend = _BETWEEN_LAYERS / 2 - 8
    way = f"M{x:.1f} {y:.1f}h{bend / 2:.1f}V{level:.1f}H{end - bend / 2:.1f}V{top:.1f}h{bend / 2:.1f}"
    return _path(way, _color(wire.source), wire.label)


def _path(way: str, color: str, label: str) -> str:
    return f'<path d="{way}" fill="none" stroke="{color}" stroke-width="2"><title>{escape(label)}</title></path>'


def _node(item: _Item, box: Box, wrong: set[tuple[int, int]]) -> str:
    x, y, width, color = item.left, item.top, item.width, _color(item)
    right = x + width - _PADDING
    parts = [
        f'<g><rect x="{x:.1f}" y="{y:.1f}" width="{width:.1f}" height="{item.height:.1f}" rx="6" fill="#ffffff"/>',
        f'<path d="M{x:.1f} {y + _HEAD:.1f}v{6 - _HEAD:.1f}a6 6 0 0 1 6-6h{width - 12:.1f}a6 6 0 0 1 6 6'
        f'v{_HEAD - 6:.1f}z" fill="{color}"/>',
        f'<rect x="{x:.1f}" y="{y:.1f}" width="{width:.1f}" height="{item.height:.1f}" rx="6" fill="none" '
        f'stroke="{color}" stroke-width="1.5"/>',
        _text(x + _PADDING, y + 17, box.title, 'fill="#ffffff" font-weight="bold"'),
        _text(right, y + 17, box.kind, 'fill="#ffffff" text-anchor="end"'),
        _text(x + _PADDING, y + _HEAD + 16, box.module, 'fill="#20242a" font-weight="bold"'),
    ]
    values = x + _PADDING + _label_cells(box) * _CELL
    for row, (name, value) in enumerate(box.options, 1):
        level = y + _HEAD + _LINE * row + 16
        parts += [_text(x + _PADDING, level, name, 'fill="#5d6570"'), _text(values, level, value, 'fill="#20242a"')]
    level = y + _port_top(box) - _PADDING / 2 + 3
    if _port_rows(box):
        parts.append(f'<path d="M{x:.1f} {level:.1f}h{width:.1f}" stroke="#d5d9df"/>')
    for number, port in enumerate(box.takes):
        is_wrong = (id(item), number) in wrong
        parts += _port(x, y + _port_offset(box, number), port, _WRONG if is_wrong else color, is_input=True)
    for number, port in enumerate(box.gives):
        parts += _port(x + width, y + _port_offset(box, number), port, color, is_input=False)
    return "\n".join(part for part in parts if part) + "</g>"


def _port(x: float, y: float, port: Port, color: str, *, is_input: bool) -> list[str]:
    place, anchor = (x + _PADDING, "start") if is_input else (x - _PADDING, "end")
    fill = _WRONG if color == _WRONG else "#20242a"
    return [
        f'<circle cx="{x:.1f}" cy="{y:.1f}" r="4.5" fill="#ffffff" stroke="{color}" stroke-width="2"/>',
        _text(place, y + 4, port.label, f'fill="{fill}" text-anchor="{anchor}"'),
    ]


def _text(x: float, y: float, text: str, attributes: str) -> str:
    return f'<text x="{x:.1f}" y="{y:.1f}" {attributes}>{escape(text)}</text>' if text else ""
