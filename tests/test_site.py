"""The built pages in a browser, at a desk's and a phone's width: nothing overflows, fails or asks a network.

``uv run --group docs pytest -n 0 -m slow tests/test_site.py`` builds them first, unless ``LIT_AUX_SITE``
names a folder that holds them.
"""

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
from browser_helpers import needs_browser, started

DOCS = Path(__file__).parents[1] / "docs"
GIVEN = os.environ.get("LIT_AUX_SITE")
SITE = Path(GIVEN).resolve() if GIVEN else None  # before a test moves elsewhere
OVERFLOWING = """
for (const folded of document.querySelectorAll('article details')) folded.open = true;
const width = document.documentElement.clientWidth;
const scrolls = (e) => ['auto', 'scroll'].includes(getComputedStyle(e).overflowX);
const inside = (e) => {  // a box that is scrolled by itself and lies on the page
    for (let p = e.parentElement; p && p !== document.body; p = p.parentElement)
        if (scrolls(p) && p.getBoundingClientRect().right <= width + 1) return true;
    return false;
};
const found = [...document.querySelectorAll('article *')].filter((e) => {
    const box = e.getBoundingClientRect();
    return box.width > 0 && box.right > width + 1 && !inside(e);
});
const wide = document.documentElement.scrollWidth > window.innerWidth ? ['the page'] : [];
return [...wide, ...found.slice(0, 3).map((e) => e.tagName + ': ' + e.textContent.slice(0, 60))];
"""

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(find_spec("sphinx") is None and SITE is None, reason="Sphinx is in the group docs"),
    needs_browser,
]


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Build the pages, unless they are there."""
    if SITE is not None:
        return SITE
    folder = tmp_path_factory.mktemp("site")
    build = [sys.executable, "-m", "sphinx", "-q", "-E", "-W", "-b", "html", str(DOCS), str(folder)]
    subprocess.run(build, check=True, timeout=300)
    return folder


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    with started(tmp_path_factory.mktemp("profile")) as driver:
        yield driver


def resize(browser: Any, width: int) -> None:
    size = {"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": False}
    browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)


def requests_of_pages(browser: Any) -> list[str]:
    """Return what pages have asked for since the last call, but for files."""
    told = [json.loads(entry["message"])["message"] for entry in browser.get_log("performance")]
    sent = [event["params"] for event in told if event["method"] == "Network.requestWillBeSent"]
    ours = [one["request"]["url"] for one in sent if one["documentURL"].startswith("file:")]
    return [url for url in ours if not url.startswith(("file:", "data:"))]


@pytest.mark.parametrize("width", [1280, 390])
def test_no_page_overflows_fails_or_asks_a_network(site: Path, browser: Any, width: int) -> None:
    resize(browser, width)
    pages = sorted(site.rglob("*.html"))
    assert len(pages) > 40
    amiss = {}
    for page in pages:
        browser.get(page.as_uri())
        if found := browser.execute_script(OVERFLOWING):
            amiss[page.relative_to(site).as_posix()] = found
    assert amiss == {}
    assert [entry["message"] for entry in browser.get_log("browser") if entry["level"] == "SEVERE"] == []
    assert requests_of_pages(browser) == []


def test_formulas_are_drawn_by_the_browser(site: Path, browser: Any) -> None:
    browser.get((site / "theory.html").as_uri())
    sizes = browser.execute_script(
        "return [...document.querySelectorAll('math')].map((e) => e.getBoundingClientRect().height)"
    )
    assert len(sizes) > 30
    assert min(sizes) > 5
    text = browser.execute_script("return document.querySelector('article').innerText")
    assert "\\mathrm" not in text  # the source is there for whoever copies it, and not seen
    assert "$" not in text.replace("$ ", "")


def test_search_finds_pages(site: Path, browser: Any) -> None:
    from selenium.webdriver.support.ui import WebDriverWait

    browser.get((site / "search.html").as_uri() + "?q=rescale")
    hits = "return [...document.querySelectorAll('#search-results li a')].map((e) => e.textContent)"
    WebDriverWait(browser, 20).until(
        lambda b: "finished" in b.page_source and len(b.execute_script(hits)) > 5
    )
    assert "Rescaling and the three regimes" in browser.execute_script(hits)
    assert requests_of_pages(browser) == []
