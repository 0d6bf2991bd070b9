"""The few drawing means that all charts share: scales, ticks, a frame with a light grid, text."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from headway.report.markup import Markup, coordinate, tag

Point = tuple[float, float]
LETTER = 6.6
"""Width of a letter of the charts' text in pixels, on average: there is no font here to ask."""


@dataclass(frozen=True, slots=True)
class Scale:
    """Maps values in [low, high] to pixels in [start, end], linearly or by their logarithm.

    >>> Scale(0.0, 10.0, 0.0, 100.0)(2.5)
    25.0
    """

    low: float
    high: float
    start: float
    end: float
    log: bool = False

    def __call__(self, value: float) -> float:
        """Return the pixel of a value; values outside are held at the border."""
        low, high = self.low, self.high
        value = min(max(value, low), high)
        if self.log:
            low, high, value = math.log(low), math.log(high), math.log(value)
        share = (value - low) / (high - low) if high > low else 0.5
        return self.start + share * (self.end - self.start)

    def ticks(self, wanted: int = 5) -> list[float]:
        """Return round values inside the scale, about as many as wanted."""
        return _log_ticks(self.low, self.high, wanted) if self.log else _linear_ticks(self.low, self.high, wanted)


def _linear_ticks(low: float, high: float, wanted: int) -> list[float]:
    if high <= low:
        return [low]
    raw = (high - low) / max(1, wanted)
    power = 10.0 ** math.floor(math.log10(raw))
    step = next(m * power for m in (1, 2, 2.5, 5, 10) if m * power >= raw * (1 - 1e-9))
    first = math.ceil(low / step - 1e-9)
    return [k * step for k in range(first, math.floor(high / step + 1e-9) + 1)]


def _log_ticks(low: float, high: float, wanted: int) -> list[float]:
    decades = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    for mantissas in ((1, 2, 3, 5, 7), (1, 2, 5), (1, 3), (1,)):
        every = [m * 10.0**d for d in decades for m in mantissas]
        found = [tick for tick in every if low * (1 - 1e-9) <= tick <= high * (1 + 1e-9)]
        if len(found) <= wanted + 1 or mantissas == (1,):
            return found
    return []


@dataclass(frozen=True, slots=True)
class Frame:
    """The plotting area of a chart of `width` x `height` pixels inside its margins."""

    width: float
    height: float
    left: float = 48.0
    right: float = 16.0
    top: float = 16.0
    bottom: float = 40.0

    @property
    def x0(self) -> float:
        """Left border of the plot."""
        return self.left

    @property
    def x1(self) -> float:
        """Right border of the plot."""
        return self.width - self.right

    @property
    def y0(self) -> float:
        """Upper border of the plot."""
        return self.top

    @property
    def y1(self) -> float:
        """Lower border of the plot."""
        return self.height - self.bottom

    def x(self, low: float, high: float, log: bool = False) -> Scale:
        """Return a horizontal scale over the plot."""
        return Scale(low, high, self.x0, self.x1, log)

    def y(self, low: float, high: float, log: bool = False) -> Scale:
        """Return a vertical scale over the plot, growing upwards."""
        return Scale(low, high, self.y1, self.y0, log)

    def x_axis(self, scale: Scale, ticks: Sequence[float], label: Callable[[float], str], title: str) -> list[Markup]:
        """Return the base line, tick labels and title of the horizontal axis."""
        marks, free_from = [line(self.x0, self.y1, self.x1, self.y1, "axis")], -math.inf
        for value in ticks:
            at, half = scale(value), len(label(value)) * LETTER / 2
            marks.append(line(at, self.y1, at, self.y1 + 4, "axis"))
            if at - half >= free_from:
                marks.append(text(at, self.y1 + 18, label(value), "tick", "middle"))
                free_from = at + half + 8
        marks.append(text(self.x1, self.y1 + 36, title, "axis-title", "end"))
        return marks

    def y_axis(self, scale: Scale, ticks: Sequence[float], label: Callable[[float], str]) -> list[Markup]:
        """Return the horizontal grid lines with their labels."""
        marks = []
        for value in ticks:
            marks.append(line(self.x0, scale(value), self.x1, scale(value), "grid"))
            marks.append(text(self.x0 - 8, scale(value) + 4, label(value), "tick", "end"))
        return marks


def line(x1: float, y1: float, x2: float, y2: float, class_: str) -> Markup:
    """Return a straight line."""
    return tag("line", x1=x1, y1=y1, x2=x2, y2=y2, class_=class_)


def rect(x: float, y: float, width: float, height: float, class_: str, *inner: str, **more: str | float) -> Markup:
    """Return a rectangle; negative sizes become zero."""
    return tag("rect", *inner, x=x, y=y, width=max(0.0, width), height=max(0.0, height), class_=class_, **more)


def dot(at: Point, radius: float, class_: str, tip: str | None = None) -> Markup:
    """Return a circle, with a tooltip when `tip` is given."""
    return tag("circle", *([tag("title", tip)] if tip else []), cx=at[0], cy=at[1], r=radius, class_=class_)


def text(x: float, y: float, content: str, class_: str, anchor: str = "start") -> Markup:
    """Return a line of text with its base line at `y`."""
    return tag("text", content, x=x, y=y, class_=class_, text_anchor=None if anchor == "start" else anchor)


def polyline(points: Iterable[Point], class_: str, close: str = "") -> Markup:
    """Return a path of straight pieces through the points; repeated pixels are left out."""
    pieces: list[str] = []
    for x, y in points:
        piece = f"{coordinate(x)} {coordinate(y)}"
        if not pieces or pieces[-1] != piece:
            pieces.append(piece)
    return tag("path", d=f"M{'L'.join(pieces)}{close}" if pieces else "", class_=class_)


def stepped(points: Sequence[Point]) -> list[Point]:
    """Return the corners of a staircase that keeps each point's y until the next point's x."""
    corners: list[Point] = []
    for index, (x, y) in enumerate(points):
        if index:
            corners.append((x, points[index - 1][1]))
        corners.append((x, y))
    return corners


def drawing(width: float, height: float, label: str, parts: Iterable[str], class_: str = "chart") -> Markup:
    """Return the SVG element: scales with its container, and is read out as `label`."""
    view = f"0 0 {coordinate(width)} {coordinate(height)}"
    return tag("svg", *parts, viewBox=view, width=width, height=height, class_=class_, role="img", aria_label=label)


def hatch(identifier: str) -> Markup:
    """Return the definition of a diagonal hatching to be used as `fill: url(#identifier)`."""
    stripe = tag("line", x1=0, y1=0, x2=0, y2=6, class_="hatch")
    turned = {"patternUnits": "userSpaceOnUse", "patternTransform": "rotate(45)"}
    return tag("defs", tag("pattern", stripe, id=identifier, width=6, height=6, **turned))
