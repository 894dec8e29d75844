"""One look for every figure: quiet axes, a palette that colour-blind readers can tell apart, no global state."""

import contextlib
import functools
import io
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, ParamSpec

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

P = ParamSpec("P")

INK, MUTED, RULE = "#1f2933", "#66727f", "#e3e7eb"
PALETTE = ("#2563a8", "#d9582b", "#2a9d78", "#8b5fb4", "#c99a1e", "#4bb0d6", "#b03a6b", "#7a7f87")
"""Of series, in order; each is told apart by its marker too."""
MARKERS = ("o", "s", "D", "^", "v", "P", "X", "*")

FONTS = [
    "Inter", "Source Sans 3", "Helvetica Neue", "Arial", "DejaVu Sans",
    # For letters that those have not: words of reviews and names come in any script.
    "Noto Sans", "Noto Sans Arabic", "Noto Sans Hebrew", "Noto Sans Devanagari", "Noto Sans Tamil", "Noto Sans Thai",
    "Noto Sans CJK SC", "Noto Sans CJK JP",
]  # fmt: skip

STYLE: dict[Any, Any] = {
    "font.family": "sans-serif",
    "font.sans-serif": FONTS,
    "text.parse_math": False,  # a $ in a name is a $
    "font.size": 9.5,
    "text.color": INK,
    "axes.titlesize": 11,
    "axes.titleweight": "semibold",
    "axes.titlelocation": "left",
    "axes.titlepad": 10,
    "axes.labelcolor": MUTED,
    "axes.labelsize": 9.5,
    "axes.edgecolor": "#b8c0c8",
    "axes.linewidth": 0.8,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": RULE,
    "grid.linewidth": 0.8,
    "xtick.color": MUTED,
    "ytick.color": MUTED,
    "xtick.major.size": 0,
    "ytick.major.size": 0,
    "xtick.minor.size": 0,
    "ytick.minor.size": 0,
    "legend.frameon": False,
    "legend.fontsize": 9,
    "lines.linewidth": 1.8,
    "lines.markersize": 5,
    "lines.solid_capstyle": "round",
    "figure.facecolor": "white",
    "figure.dpi": 160,
    "savefig.dpi": 160,
    "pdf.fonttype": 42,
    "svg.fonttype": "none",
}


def styled(draw: "Callable[P, Figure]") -> "Callable[P, Figure]":
    """Draws in the common style, without touching matplotlib's settings outside."""

    @functools.wraps(draw)
    def wrapped(*args: P.args, **kwargs: P.kwargs) -> "Figure":
        with _style():
            return draw(*args, **kwargs)

    return wrapped


def figure(width: float = 6.2, height: float = 3.8, columns: int = 1) -> "tuple[Figure, list[Axes]]":
    """An empty figure, in inches, of axes side by side; belongs to no window and to no list of open figures."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    drawn = Figure(figsize=(width, height), layout="constrained")
    FigureCanvasAgg(drawn)
    drawn.get_layout_engine().set(w_pad=0.08, h_pad=0.08, wspace=0.06)  # type: ignore[union-attr, call-arg]
    return drawn, [drawn.add_subplot(1, columns, n + 1) for n in range(columns)]


def save(drawn: "Figure", path: Path | str) -> Path:
    """Writes a figure as its file's ending says: png, pdf or svg."""
    path = Path(path)
    with _style():
        drawn.savefig(path, metadata={"CreationDate": None} if path.suffix == ".pdf" else None)
    return path


def png(drawn: "Figure") -> bytes:
    """A figure as PNG, for a page that holds its pictures itself."""
    memory = io.BytesIO()
    with _style():
        drawn.savefig(memory, format="png")
    return memory.getvalue()


def svg(drawn: "Figure") -> str:
    """A figure as SVG without a ground of its own, letters as outlines: it looks alike on every machine."""
    import matplotlib

    memory = io.StringIO()
    with _style(), matplotlib.rc_context({"svg.fonttype": "path", "svg.hashsalt": "symcere"}):
        drawn.savefig(memory, format="svg", transparent=True, metadata={"Date": None})
    return memory.getvalue()


@contextlib.contextmanager
def _style() -> Iterator[None]:
    import logging
    import warnings

    import matplotlib

    logging.getLogger("matplotlib.font_manager").setLevel(logging.ERROR)  # the first font that is there will do
    with matplotlib.rc_context(STYLE), warnings.catch_warnings():
        # Of a script that no font here has: its words are boxes, which the figure itself shows.
        warnings.filterwarnings("ignore", r"Glyph \d+ .* missing from")
        warnings.filterwarnings("ignore", "Matplotlib currently does not support .* natively")
        yield
