"""Plots as SVG: bars with their spread, nothing that needs a script or a font of its own.

Colours are told for light and dark pages alike: text and lines are of a grey that both carry.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import svg

from benchmarks.figures import Spread, brief

WIDTH = 760
LABELS_WIDTH = 250
VALUES_WIDTH = 130
ROW_HEIGHT = 30
BAR_HEIGHT = 16
TOP = 40
OURS = "#2f7d4f"
THEIRS = "#7a8ca3"
INK = "#6b7280"
FONT = "system-ui, sans-serif"


@dataclass(frozen=True)
class Bar:
    """One bar: *label* at its left, as long as the median of *spread*, with a whisker over the extremes."""

    label: str
    spread: Spread
    ours: bool = False


def bars(title: str, unit: str, all_bars: Sequence[Bar]) -> str:
    """Return a plot of horizontal bars from 0 on, in the order given."""
    most = max(bar.spread.most for bar in all_bars) or 1.0
    scale = (WIDTH - LABELS_WIDTH - VALUES_WIDTH) / most
    height = TOP + ROW_HEIGHT * len(all_bars) + 10
    elements: list[svg.Element] = [_text(0, 20, title, size=15, weight="bold")]
    for row, bar in enumerate(all_bars):
        middle = TOP + ROW_HEIGHT * row + ROW_HEIGHT / 2
        at = {end: LABELS_WIDTH + max(0.0, getattr(bar.spread, end)) * scale for end in ("least", "median", "most")}
        elements += [
            _text(LABELS_WIDTH - 8, middle + 4, bar.label, anchor="end"),
            svg.Rect(
                x=LABELS_WIDTH,
                y=round(middle - BAR_HEIGHT / 2, 1),
                width=round(at["median"] - LABELS_WIDTH, 1),
                height=BAR_HEIGHT,
                fill=OURS if bar.ours else THEIRS,
            ),
            _line(at["least"], middle, at["most"], middle),
            _line(at["least"], middle - 4, at["least"], middle + 4),
            _line(at["most"], middle - 4, at["most"], middle + 4),
            _text(at["most"] + 8, middle + 4, f"{brief(bar.spread.median)} {unit}"),
        ]
    drawing = svg.SVG(
        xmlns="http://www.w3.org/2000/svg",
        viewBox=svg.ViewBoxSpec(0, 0, WIDTH, height),
        width=WIDTH,
        height=height,
        elements=[svg.Title(text=title), *elements],
    )
    return f"{drawing}\n"


def _text(
    x: float, y: float, text: str, *, size: int = 13, anchor: str = "start", weight: str = "normal"
) -> svg.Element:
    return svg.Text(
        x=round(x, 1),
        y=round(y, 1),
        text=text,
        fill=INK,
        font_size=size,
        font_family=FONT,
        font_weight="bold" if weight == "bold" else "normal",
        text_anchor="end" if anchor == "end" else "start",
    )


def _line(x1: float, y1: float, x2: float, y2: float) -> svg.Element:
    return svg.Line(x1=round(x1, 1), y1=round(y1, 1), x2=round(x2, 1), y2=round(y2, 1), stroke=INK, stroke_width=1.5)
