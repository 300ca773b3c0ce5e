"""What all figures share: the class of figures, the style, and the colours of methods.

Figures do not use `pyplot`: there is no current figure, none has to be closed, the last line of a cell shows one.
"""

from __future__ import annotations

import io
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import matplotlib
import matplotlib.figure
from matplotlib.axes import Axes
from matplotlib.text import Text

from gleam.files import written_whole

STYLE: dict[Any, Any] = {  # sizes that stay legible on a phone, where a figure is 340 px wide
    "font.size": 11,
    "axes.titlesize": 11,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "grid.alpha": 0.25,
    "legend.frameon": False,
}
WIDTH = 4.6  # of curves
SMALLEST_TEXT = "Smallest text"  # entry of a PNG, in points, by which the check of the book knows how large it is shown
COLORS = {  # most are of Okabe and Ito's palette, which colour-blind readers can tell apart
    "Zero-filled": "#8c8c8c",
    "CS": "#56b4e9",
    "End-to-end": "#0072b2",
    "Checkpointing": "#009e73",
    "MEL": "#cc79a7",
    "GLEAM": "#d55e00",
    "End-to-end, equal compute": "#56307a",
    "P-GLEAM, in turn": "#e69f00",
    "P-GLEAM, pipelined": "#a6341b",
    "Offloading": "black",
}


class Figure(matplotlib.figure.Figure):
    """A figure that shows itself in any notebook: pictures as PNG, curves as SVG. It is saved whole or not at all."""

    def png(self, dpi: float = 200) -> bytes:
        """The figure as bytes of a PNG."""
        sizes = [text.get_fontsize() for text in self.findobj(Text) if text.get_visible() and text.get_text()]
        return self._written("png", dpi=dpi, metadata={SMALLEST_TEXT: f"{min(sizes):g}"} if sizes else None)

    def svg(self) -> str:
        """The figure as SVG, the same text each time."""
        with matplotlib.rc_context({"svg.hashsalt": "gleam"}):  # random ids would change the page with every build
            return self._written("svg", metadata={"Date": None}).decode()

    def _written(self, form, **options):
        buffer = io.BytesIO()
        self.savefig(buffer, format=form, bbox_inches="tight", **options)
        return buffer.getvalue()

    @property
    def _has_pictures(self):
        return any(axis.images for axis in self.axes)

    def _repr_png_(self):
        return self.png() if self._has_pictures else None

    def _repr_svg_(self):
        return None if self._has_pictures else self.svg()

    def save(self, path: str | Path, dpi: float = 200) -> None:
        """Write the figure as PNG to `path`, whole or not at all."""
        with written_whole(path) as temporary:
            temporary.write_bytes(self.png(dpi))


def name_ticks(axis: Axes, names: Iterable[str]) -> None:
    """Names of methods below an axis: on two lines, or slanted if there are many."""
    labels = list(names)
    if len(labels) > 4:
        axis.set_xticks(range(len(labels)), labels, rotation=30, ha="right", rotation_mode="anchor")
    else:
        axis.set_xticks(range(len(labels)), [label.replace(", ", ",\n") for label in labels])


@contextmanager
def one_axis(height: float, **style: Any) -> Iterator[tuple[Figure, Any]]:
    """A figure of that height in inches, and its only axis, in the book's style."""
    with matplotlib.rc_context(STYLE | style):
        figure = Figure(figsize=(WIDTH, height), layout="constrained")
        yield figure, figure.subplots()
