"""The pipeline as a picture: stages in layers, edges between them, and how busy every stage is."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

from headway.plan.plan import Plan
from headway.report import format as fmt
from headway.report.markup import Markup, coordinate, tag
from headway.report.svg import Point, drawing, rect, text
from headway.spec.graph import Graph, GraphEdge

HIGH_UTILIZATION = 0.9
_NODE_HEIGHT = 104.0
_PAD = 12.0
_MOST_LAYERS_ACROSS = 5


@dataclass(frozen=True, slots=True)
class Look:
    """Measures of a drawing in pixels. `down`: layers follow each other downwards instead of to the right."""

    node_width: float
    between_layers: float
    between_nodes: float
    down: bool


WIDE = Look(node_width=168.0, between_layers=72.0, between_nodes=24.0, down=False)
CLOSE = Look(node_width=140.0, between_layers=48.0, between_nodes=24.0, down=False)
TALL = Look(node_width=168.0, between_layers=44.0, between_nodes=24.0, down=True)
NARROW = Look(node_width=164.0, between_layers=56.0, between_nodes=16.0, down=True)

# An edge that skips layers passes through way-points, (parent, child, layer), so that no stage is drawn over it.
Spot = str | tuple[str, str, int]


def pipeline_drawing(plan: Plan, look: Look, measured: Mapping[str, Any] | None = None) -> Markup:
    """Return the drawing of a plan's pipeline; `measured` are stages of an outcome's summary, which then count."""
    graph = plan.spec.graph
    layers = _layers(graph)
    at, width, height = _places(layers, look)
    edges = [_edge(edge, layers, at, look) for name in graph.order for edge in graph.children[name]]
    nodes = [_node(plan, name, at[name], look, measured or {}) for name in graph.order]
    ways = [f"{edge.parent} to {edge.child}" for name in graph.order for edge in graph.children[name]]
    label = f"Pipeline of {fmt.plural(len(graph.order), 'stage')}: {', '.join(ways or graph.order)}"
    return drawing(width, height, label, [*edges, *nodes], "chart graph")


def wide_look(graph: Graph) -> Look:
    """Return how a graph is drawn on a wide page: to the right, or downwards when it is too long to stay legible."""
    layers = len(_layers(graph))
    return WIDE if layers < _MOST_LAYERS_ACROSS else CLOSE if layers == _MOST_LAYERS_ACROSS else TALL


def _layers(graph: Graph) -> list[list[Spot]]:
    """Every stage one layer after its last parent, and stages ordered within layers so that edges cross little."""
    depth: dict[str, int] = {}
    for name in graph.order:
        depth[name] = max((depth[edge.parent] + 1 for edge in graph.parents[name]), default=0)
    layers: list[list[Spot]] = [[] for _ in range(max(depth.values()) + 1)]
    above: dict[Spot, list[Spot]] = {}
    for name in graph.order:
        layers[depth[name]].append(name)
        above.setdefault(name, [])
        for edge in graph.parents[name]:
            before: Spot = edge.parent
            for layer in range(depth[edge.parent] + 1, depth[name]):
                way: Spot = (edge.parent, name, layer)
                layers[layer].append(way)
                above[way], before = [before], way
            above[name].append(before)
    below: dict[Spot, list[Spot]] = {}
    for spot, parents in above.items():
        for parent in parents:
            below.setdefault(parent, []).append(spot)
    for _ in range(4):
        for index in range(1, len(layers)):
            _sort_by(layers[index], layers[index - 1], above)
        for index in range(len(layers) - 2, -1, -1):
            _sort_by(layers[index], layers[index + 1], below)
    return layers


def _sort_by(layer: list[Spot], fixed: list[Spot], linked: Mapping[Spot, list[Spot]]) -> None:
    """Order a layer by the mean position of what its spots are linked to in the neighbouring layer."""
    position = {spot: index / max(1, len(fixed) - 1) if len(fixed) > 1 else 0.5 for index, spot in enumerate(fixed)}
    own = {spot: index / max(1, len(layer) - 1) for index, spot in enumerate(layer)}

    def weight(spot: Spot) -> float:
        near = [position[other] for other in linked.get(spot, []) if other in position]
        return sum(near) / len(near) if near else own[spot]

    layer.sort(key=weight)


def _places(layers: list[list[Spot]], look: Look) -> tuple[dict[Spot, Point], float, float]:
    """Return every spot's upper left corner, and the size of the drawing."""
    along = look.node_width if look.down else _NODE_HEIGHT
    across = _NODE_HEIGHT if look.down else look.node_width

    def thickness(spot: Spot) -> float:
        return along if isinstance(spot, str) else 16.0

    extents = [sum(map(thickness, layer)) + look.between_nodes * (len(layer) - 1) for layer in layers]
    breadth = max(extents)
    at: dict[Spot, Point] = {}
    for index, layer in enumerate(layers):
        offset = 1 + (breadth - extents[index]) / 2
        start = 1 + index * (across + look.between_layers)
        for spot in layer:
            at[spot] = (offset, start) if look.down else (start, offset)
            offset += thickness(spot) + look.between_nodes
    length = len(layers) * across + (len(layers) - 1) * look.between_layers + 2
    return at, *((breadth + 2, length) if look.down else (length, breadth + 2))


def _edge(edge: GraphEdge, layers: list[list[Spot]], at: Mapping[Spot, Point], look: Look) -> Markup:
    depth = {spot: index for index, layer in enumerate(layers) for spot in layer}
    ways: list[Spot] = [(edge.parent, edge.child, layer) for layer in range(depth[edge.parent] + 1, depth[edge.child])]
    spots: list[Spot] = [edge.parent, *ways, edge.child]
    pieces: list[str] = []
    last = (0.0, 0.0)
    for here, there in pairwise(spots):
        start, last = _border(here, at[here], look, leaving=True), _border(there, at[there], look, leaving=False)
        if not pieces:
            pieces.append(f"M{_pair(start)}")
        else:
            pieces.append(f"L{_pair(start)}")
        pieces.append(_curve(start, last, look.down))
    x, y = last
    head = [(x - 4, y - 7), (x + 4, y - 7)] if look.down else [(x - 7, y - 4), (x - 7, y + 4)]
    arrow = tag("path", d=f"M{_pair(last)}L{_pair(head[0])}L{_pair(head[1])}Z", class_="arrow")
    first_end = _border(spots[1], at[spots[1]], look, leaving=False)
    start = _border(edge.parent, at[edge.parent], look, leaving=True)
    middle = ((start[0] + first_end[0]) / 2, (start[1] + first_end[1]) / 2)
    return tag("g", tag("path", d="".join(pieces), class_="edge"), arrow, *_edge_label(edge, middle, look), class_="e")


def _edge_label(edge: GraphEdge, middle: Point, look: Look) -> list[Markup]:
    words = [fmt.percent(edge.probability)] if edge.probability != 1 else []
    if edge.fan_out != 1:
        words.append(f"×{edge.fan_out:g}")
    if not words:
        return []
    label = " ".join(words)
    width = 7.0 * len(label) + 8
    x, y = middle
    tip = f"{edge.parent} to {edge.child}: probability {edge.probability:g}, {edge.fan_out:g} items each"
    plate = rect(x - width / 2, y - 10, width, 20, "plate", tag("title", tip), rx=4)
    return [plate, text(x, y + 4, label, "edge-label", "middle")]


def _border(spot: Spot, corner: Point, look: Look, *, leaving: bool) -> Point:
    """The point where edges leave or enter a spot; a way-point is passed straight through."""
    real = isinstance(spot, str)
    if look.down:
        along = look.node_width if real else 16.0
        return corner[0] + along / 2, corner[1] + (_NODE_HEIGHT if leaving else 0.0)
    along = _NODE_HEIGHT if real else 16.0
    return corner[0] + (look.node_width if leaving else 0.0), corner[1] + along / 2


def _curve(start: Point, end: Point, down: bool) -> str:
    if down:
        half = (start[1] + end[1]) / 2
        return f"C{_pair((start[0], half))} {_pair((end[0], half))} {_pair(end)}"
    half = (start[0] + end[0]) / 2
    return f"C{_pair((half, start[1]))} {_pair((half, end[1]))} {_pair(end)}"


def _pair(point: Point) -> str:
    return f"{coordinate(point[0])} {coordinate(point[1])}"


def _node(plan: Plan, name: str, corner: Point, look: Look, measured: Mapping[str, Any]) -> Markup:
    (x, y), width = corner, look.node_width
    config, inner = plan.stages[name].to_dict(), look.node_width - 2 * _PAD
    first, second = _config_lines(config)
    used = measured.get(name, plan.stage_predictions.get(name, {})).get("utilization")
    joins = plan.spec.stages[name].gather or len(plan.spec.graph.parents[name]) > 1
    parts = [
        tag("title", f"{name}: {', '.join(f'{key} {fmt.plain(value)}' for key, value in _plain(config))}"),
        rect(x, y, width, _NODE_HEIGHT, "node", rx=6),
        text(x + _PAD, y + 24, shorten(name, inner - 44 * joins, 9.2), "node-name"),
        text(x + _PAD, y + 44, shorten(first, inner, 7.0), "node-line"),
        text(x + _PAD, y + 62, shorten(second, inner, 7.0), "node-line muted"),
    ]
    if joins:
        parts.append(text(x + width - _PAD, y + 24, "joins", "node-line muted", "end"))
    bar_y, bar_width = y + 82, inner - 44
    parts.append(rect(x + _PAD, bar_y, bar_width, 6, "bar-track", rx=3))
    if used is not None:
        tone = "bar-high" if used > HIGH_UTILIZATION else "bar-used"
        parts.append(rect(x + _PAD, bar_y, bar_width * min(1.0, used), 6, tone, rx=3))
    parts.append(text(x + width - _PAD, bar_y + 7, fmt.whole_percent(used), "node-figure", "end"))
    return tag("g", *parts, class_="stage")


def _plain(config: Mapping[str, Any]) -> list[tuple[str, Any]]:
    """The fields of a configuration that fit into a line."""
    return [(name, value) for name, value in config.items() if not isinstance(value, list | Mapping)]


def _config_lines(config: Mapping[str, Any]) -> tuple[str, str]:
    """What a stage's box says of its configuration; kinds without replicas show their first fields."""
    if "gears" in config and "devices" in config:
        models = fmt.plural(len(config.get("max_batch_sizes", ())), "model")
        return f"{config['devices']} × {config['hardware']}", f"{models} · {fmt.plural(len(config['gears']), 'gear')}"
    if "replicas" not in config or "hardware" not in config:
        words = [f"{key} {fmt.plain(value)}" for key, value in config.items()]
        return " · ".join(words[:2]), " · ".join(words[2:4])
    second = [] if config.get("variant", "default") == "default" else [str(config["variant"])]
    second.append(f"batch {fmt.plain(config.get('max_batch_size'))}")
    if config.get("max_wait_s"):
        second.append(f"wait {fmt.duration(config['max_wait_s'])}")
    return f"{config['replicas']} × {config['hardware']}", " · ".join(second)


def shorten(content: str, width: float, per_letter: float) -> str:
    """Return text that fits a width in pixels at so many pixels per letter, with an ellipsis where it was cut.

    >>> shorten("recognition", 56, 8)
    'recogn…'
    """
    most = max(2, int(width / per_letter))
    return content if len(content) <= most else content[: most - 1] + "…"
