"""Pictures within a page: drawn as SVG whose text is text, or as PNG where that is smaller."""

import base64
import io
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import count
from pathlib import Path
from typing import TYPE_CHECKING
from xml.etree import ElementTree

from lit_aux.drawing.engine import draw
from lit_aux.drawing.layout import Layout
from lit_aux.errors import ConfigurationError, one_line, printable
from lit_aux.figures.request import Request
from lit_aux.figures.results import FIGURES, laid_out
from lit_aux.figures.tables import Tables

if TYPE_CHECKING:
    from lit_aux.drawing.picture import Picture as Drawn

MOST_BYTES = 400_000
"""Of an SVG; a larger one becomes a PNG, which does not grow with what is drawn."""
_MOST_PANELS = 20
"""Of an SVG: with more it would be larger than that."""
MOST_TOGETHER = 3_500_000
"""Of all pictures of a page, which shall be sent by mail."""
_PNG = b"\x89PNG\r\n\x1a\n"
_SVG = "{http://www.w3.org/2000/svg}"
_XLINK = "{http://www.w3.org/1999/xlink}href"
_DIGITS = re.compile(r"(\d+\.\d{2})\d+")
_NUMBER = count(1)


@dataclass(frozen=True)
class Picture:
    """A picture in a page.

    Attributes:
        title: Its heading.
        alt: What it shows, for those who cannot see it.
        svg: Markup that is safe: drawn here, and written again by a parser.
        png: The address of its data, where it is no SVG.
        caption: A line below.
        notes: What else is to be known.
        width: In CSS pixels, as drawn.
    """

    title: str
    alt: str
    svg: str = ""
    png: str = ""
    caption: str = ""
    notes: Sequence[str] = ()
    width: int = 640

    @property
    def said(self) -> str:
        """What stands below it."""
        return " ".join(f"{text.rstrip('.')}." for text in (self.caption, *self.notes) if text)

    @property
    def size(self) -> int:
        """How many bytes it adds to a page."""
        return len(self.svg) + len(self.png)


def of_tables(tables: Tables) -> Iterator[Picture | str]:
    """Yield every picture that the rows of tables cover; a line in place of one that cannot be drawn.

    Args:
        tables: The rows.
    """
    for name, figure in FIGURES.items():
        parts = figure.parts(tables)
        for part in [None] if figure.side_by_side and parts else parts:
            try:
                layout = laid_out(name, tables, part, Request())
            except ConfigurationError as error:
                yield f"not drawn: {error}"
                continue
            several = f", {part[0]}" if len(parts) > 1 and part and part[0] else ""
            title = f"{figure.about[:1].upper()}{figure.about[1:]}{several}"
            rows = f"{layout.rows:,} row{'' if layout.rows == 1 else 's'}"
            about = f"lit-aux figures {name} draws it from {rows}; bars are 2 standard errors over seeds"
            make = partial(draw, layout)
            many = len(layout.panels) > _MOST_PANELS
            yield drawn(title, _alt(title, layout), make, about, layout.notes, many=many)


def _alt(title: str, layout: Layout) -> str:
    """Describe a picture by its panels and curves."""
    panels = [panel.title for panel in layout.panels if panel.title]
    curves = ", ".join(label for label, _ in layout.looks.values())
    shown = f" Panels: {'; '.join(_plain(panels[:12]))}." if panels else ""
    return f"{title}. Curves: {', '.join(_plain([curves]))}.{shown}"


def _plain(texts: Iterable[str]) -> list[str]:
    """Return text without the marks of mathematics."""
    return [re.sub(r"\\([a-z]+)", r"\1", text.replace("$", "")) for text in texts]


def drawn(
    title: str,
    alt: str,
    make: "Callable[[], Drawn]",
    caption: str = "",
    notes: Sequence[str] = (),
    *,
    many: bool = False,
) -> Picture | str:
    """Draw a picture; return a line that says why where it cannot be.

    Args:
        title: Its heading.
        alt: What it shows.
        make: Draws it.
        caption: A line below.
        notes: What else is to be known.
        many: Whether it holds so much that it had better be a PNG at once.
    """
    png = ""
    try:
        figure = make()
        _settle(figure)
        svg = "" if many else embedded(figure.svg(), alt)
        if many or len(svg) > MOST_BYTES:
            svg, png = "", _as_png(figure)
    except Exception as error:  # of a picture, whatever names it bears; the tables are worth more
        return f"not drawn: {printable(title)}: {printable(one_line(error))}"
    width = round(figure.get_figwidth() * 96)
    lines = [printable(note) for note in notes]
    return Picture(printable(title), printable(alt), svg, png, printable(caption), lines, width)


def _settle(figure: "Drawn") -> None:
    """Lay a figure out; else matplotlib draws it twice for each file, once for nothing but that."""
    engine = figure.get_layout_engine()
    if engine is not None:
        engine.execute(figure)
        figure.set_layout_engine(None)


def _as_png(figure: "Drawn") -> str:
    from PIL import Image

    buffer, small = io.BytesIO(), io.BytesIO()
    figure.savefig(buffer, format="png", dpi=130, facecolor="white")
    with Image.open(buffer) as image:
        image.convert("RGB").quantize(256, dither=Image.Dither.NONE).save(small, format="PNG", optimize=True)
    return data_of(small.getvalue())


def data_of(png: bytes) -> str:
    """Return the address of a PNG that is part of the page."""
    return f"data:image/png;base64,{base64.b64encode(png).decode()}"


def of_file(path: Path, title: str, alt: str) -> Picture | None:
    """Return a PNG that a run left; None where it is none, or too large to be sent along.

    Args:
        path: The file.
        title: Its heading.
        alt: What it shows.
    """
    try:
        if path.stat().st_size > MOST_BYTES:
            return None
        content = path.read_bytes()
    except OSError:
        return None
    if not content.startswith(_PNG):
        return None
    return Picture(printable(title), printable(alt), png=data_of(content))


def embedded(svg: str, alt: str) -> str:
    """Return a drawing of matplotlib's as an element of a page.

    Names within it are made unique, since a page has several; what only files need is left out, and what
    says how all elements look, for it would hold for the whole page.

    Args:
        svg: The file.
        alt: What it shows.
    """
    root = ElementTree.fromstring(svg)
    number = next(_NUMBER)
    used = {*re.findall(r"url\(#([^)]+)\)", svg), *re.findall(r'xlink:href="#([^"]+)"', svg)}
    for parent in list(root.iter()):
        for child in list(parent):
            if child.tag.removeprefix(_SVG) in ("style", "metadata") or not child.tag.startswith(_SVG):
                parent.remove(child)
    for element in root.iter():
        element.tag = element.tag.removeprefix(_SVG)
        if (name := element.attrib.pop("id", None)) in used:
            element.set("id", f"p{number}-{name}")
        if (target := element.attrib.pop(_XLINK, "")).startswith("#"):
            element.set("href", f"#p{number}-{target[1:]}")
        for name, value in element.attrib.items():
            if "url(#" in value:
                element.set(name, value.replace("url(#", f"url(#p{number}-"))
            elif name in ("d", "transform", "points"):
                element.set(name, _DIGITS.sub(r"\1", " ".join(value.split())))
    for name in ("width", "height", "version"):
        root.attrib.pop(name, None)
    root.set("role", "img")
    root.set("aria-labelledby", f"p{number}-title")
    title = ElementTree.Element("title", {"id": f"p{number}-title"})
    title.text = printable(alt)
    root.insert(0, title)
    return ElementTree.tostring(root, encoding="unicode")
