"""What the tests of pages share: a page as a parser sees it, and tables with odd rows."""

from html.parser import HTMLParser
from pathlib import Path
from typing import Any

from lit_aux.experiments import ResultsTable

MARKUP = "<script>alert(1)</script>"
_VOID = {"meta", "link", "img", "br", "input"}


class Page(HTMLParser):
    """A page: its elements, its headings, and the cells of its tables by their title."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.source = path.read_text(encoding="utf-8")
        self.elements: list[tuple[str, dict[str, str]]] = []
        self.headings: list[tuple[int, str]] = []
        self.tables: dict[str, list[list[str]]] = {}
        self.links: dict[str, str] = {}
        self.classes: dict[str, str] = {}
        self._open: list[str] = []
        self._texts: list[str] = []
        self._href = self._title = ""
        self.text = ""
        self.feed(self.source)
        self.close()
        assert self._open == [], "every element is closed"

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given = {name: value or "" for name, value in attrs}
        self.elements.append((tag, given))
        if tag in _VOID:
            return
        self._open.append(tag)
        if tag == "tr" and "table" in self._open:
            self.tables[self._title].append([])
        if tag in ("td", "th", "caption", "a", "h1", "h2", "h3"):
            self._texts.append("")
        if tag == "a":
            self._href = given["href"]
        if tag in ("td", "th"):
            self._class = given.get("class", "")

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, {name: value or "" for name, value in attrs}))

    def handle_data(self, data: str) -> None:
        if self._open and self._open[-1] not in ("script", "style"):
            self.text += data
            self._texts = [text + data for text in self._texts]

    def handle_endtag(self, tag: str) -> None:
        assert self._open.pop() == tag
        if tag not in ("td", "th", "caption", "a", "h1", "h2", "h3"):
            return
        text = self._texts.pop().strip()
        if tag == "caption":
            self._title = text
            self.tables[text] = []
        elif tag in ("td", "th"):
            self.tables[self._title][-1].append(text)
            self.classes[text] = self._class
        elif tag == "a":
            self.links[text] = self._href
        else:
            self.headings.append((int(tag[1]), text))

    def all(self, tag: str) -> list[dict[str, str]]:
        """Return the attributes of every element of a kind."""
        return [given for name, given in self.elements if name == tag]

    def table(self, start: str) -> list[list[str]]:
        """Return the lines of the table whose title begins so."""
        return next(rows for title, rows in self.tables.items() if title.startswith(start))


def row(setup: str, seed: int, n_main: int = 16, **more: Any) -> dict[str, Any]:
    """Return the row of a run."""
    number = f"{sum(map(ord, setup)) * 7919 + seed * 101 + n_main:012x}"
    plain = {"run": number, "experiment": "digits-lenet", "setup": setup, "seed": seed, "n_main": n_main}
    return plain | {"converged": True, "accuracy": 0.5 + n_main / 1000 + seed / 100, "seconds": 3.0} | more


def rows() -> list[dict[str, Any]]:
    """Return rows of three setups, two sizes and three seeds; one setup has two factors."""
    better = {"STL": 0.0, "MTL": 0.1, "PT+FT": 0.2}
    return [
        row(setup, seed, n, accuracy=0.5 + gain + n / 1000 + 0.01 * seed + 0.003 * seed * len(setup))
        for setup, gain in better.items()
        for n in (16, 64)
        for seed in range(3)
    ]


def table(path: Path, rows: list[dict[str, Any]], measures: list[dict[str, Any]] | None = None) -> Path:
    """Write a results table."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with ResultsTable(path) as made:
        made.append(rows, measures or [])
    return path


def layers(run: str, phases: tuple[str, ...] = ("pretrain", "finetune")) -> list[dict[str, Any]]:
    """Return the measures of two layers: the first is nested, the second lazy and near the threshold."""
    found = []
    for phase in phases:
        for layer, numbers in {
            "net.backbone.layer1": (10.0, 2.0, 1.9),
            "net.readout": (10.0, 8.1, 8.0),
        }.items():
            before, after, shared = numbers
            values = {"pr_before": before, "pr_after": after, "ensd": shared}
            values |= {"pr_ratio": after / before, "ensd_ratio": shared / after}
            found += [
                {"run": run, "phase": phase, "step": 3, "layer": layer, "measure": name, "value": value}
                for name, value in values.items()
            ]
    return found
