"""A matplotlib figure that shows itself in notebooks. Importing this costs matplotlib."""

from io import BytesIO, StringIO
from typing import Any

from matplotlib import rc_context
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

DPI = 150
MARGINS: dict[str, Any] = {"facecolor": "white", "bbox_inches": "tight", "pad_inches": 0.15}


class Picture(Figure):
    """A figure that belongs to no window and to no global state."""

    def __init__(self, width: float, height: float) -> None:
        super().__init__(figsize=(width, height), layout="constrained")
        FigureCanvasAgg(self)

    def svg(self, salt: str = "lit_aux") -> str:
        """Return the figure as SVG with text as text, the same for the same figure.

        Args:
            salt: From which names within the file are made. Of several in one page each needs its own.
        """
        with rc_context({"svg.hashsalt": salt, "svg.fonttype": "none"}), StringIO() as text:
            self.savefig(text, format="svg", metadata={"Date": None}, **MARGINS)
            return text.getvalue()

    def _repr_png_(self) -> tuple[bytes, dict[str, int]]:
        """Return what Jupyter shows: a PNG for sharp screens, and how large it is on the page."""
        with BytesIO() as content:
            self.savefig(content, format="png", dpi=DPI, **MARGINS)
            data = content.getvalue()
        width, height = (int.from_bytes(data[start : start + 4], "big") for start in (16, 20))
        return data, {"width": 96 * width // DPI, "height": 96 * height // DPI}
