"""The page in a real browser: sorting, choosing, the theme, its width, and that it asks for nothing."""

import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from browser_helpers import needs_browser, started
from page_helpers import MARKUP, row, rows, table

from lit_aux.pages import write_report

pytestmark = needs_browser


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Write a page of 20 runs, two of which have failed and one of which has a folder."""
    folder = tmp_path_factory.mktemp("page")
    failed = [row("STL", s, error=f"no space {MARKUP}", accuracy=None, converged=False) for s in (7, 8)]
    own = [*rows(), *failed]
    own[3]["accuracy"] = 0.05
    (folder / "runs" / own[0]["run"]).mkdir(parents=True)
    return write_report(table(folder / "results.csv", own))


@pytest.fixture(scope="module")
def driver(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    """Start the browser, which is the machine's own: nothing is downloaded."""
    with started(tmp_path_factory.mktemp("browser")) as browser:
        yield browser


@pytest.fixture
def shown(driver: Any, page: Path) -> Any:
    """Show the page as a reader with a light screen sees it first."""
    size(driver, 1280)
    prefer(driver, "light")
    driver.get("about:blank")
    for kind in ("browser", "performance"):
        driver.get_log(kind)
    driver.get(page.as_uri())
    driver.execute_script("localStorage.clear()")
    driver.get(page.as_uri())
    return driver


def size(driver: Any, width: int) -> None:
    metrics = {"width": width, "height": 800, "deviceScaleFactor": 1, "mobile": width < 600}
    driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", metrics)


def prefer(driver: Any, theme: str) -> None:
    features = [{"name": "prefers-color-scheme", "value": theme}]
    driver.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": features})


RUNS = "document.querySelector('#runs table')"


def column(driver: Any, name: str) -> list[str]:
    """Return what the list of runs shows in a column, from top to bottom."""
    script = f"""
        const heads = [...{RUNS}.tHead.rows[0].cells].map((cell) => cell.textContent.trim());
        return [...{RUNS}.tBodies[0].rows].filter((row) => !row.hidden)
            .map((row) => row.cells[heads.indexOf(arguments[0])].textContent.trim());"""
    found: list[str] = driver.execute_script(script, name)
    return found


def head(driver: Any, name: str) -> Any:
    from selenium.webdriver.common.by import By

    return driver.find_element(By.XPATH, f"//section[@id='runs']//th[normalize-space()='{name}']")


def choice(driver: Any, name: str) -> Any:
    from selenium.webdriver.common.by import By

    return driver.find_element(By.XPATH, f"//section[@id='runs']//label[starts-with(., '{name}')]/*")


def test_it_asks_for_nothing_and_complains_of_nothing(shown: Any, page: Path) -> None:
    assert shown.get_log("browser") == []
    messages = [json.loads(entry["message"])["message"] for entry in shown.get_log("performance")]
    asked = [m["params"]["request"]["url"] for m in messages if m["method"] == "Network.requestWillBeSent"]
    assert {url for url in asked if not url.startswith("data:")} <= {page.as_uri(), "about:blank"}
    assert page.as_uri() in asked
    assert shown.execute_script("return document.querySelectorAll('script').length") == 1
    assert MARKUP in shown.execute_script("return document.querySelector('#failures').textContent")


def test_columns_are_sorted_by_click_and_by_key(shown: Any) -> None:
    from selenium.webdriver.common.by import By
    from selenium.webdriver.common.keys import Keys

    before = column(shown, "accuracy")
    button = head(shown, "accuracy").find_element(By.TAG_NAME, "button")
    button.click()
    assert head(shown, "accuracy").get_attribute("aria-sort") == "ascending"
    numbers = [float(text) for text in before if text]
    assert column(shown, "accuracy") == [*(f"{n:.5g}" for n in sorted(numbers)), "", ""], (
        "what is empty is last"
    )
    button.send_keys(Keys.ENTER)
    assert head(shown, "accuracy").get_attribute("aria-sort") == "descending"
    assert column(shown, "accuracy")[0] == f"{max(numbers):.5g}"
    head(shown, "setup").find_element(By.TAG_NAME, "button").send_keys(Keys.SPACE)
    assert head(shown, "accuracy").get_attribute("aria-sort") is None
    assert column(shown, "setup") == sorted(column(shown, "setup"), key=str.lower)
    button.click()
    button.click()
    button.click()
    assert column(shown, "accuracy") == before, "the third time as it was"


def test_rows_are_chosen_by_setup_size_seed_and_words(shown: Any) -> None:
    from selenium.webdriver.common.by import By
    from selenium.webdriver.support.ui import Select

    Select(choice(shown, "setup")).select_by_visible_text("PT+FT")
    assert {*column(shown, "setup")} == {"PT+FT"}
    Select(choice(shown, "n_main")).select_by_visible_text("64")
    Select(choice(shown, "seed")).select_by_visible_text("1")
    assert [column(shown, name) for name in ("setup", "n_main", "seed")] == [["PT+FT"], ["64"], ["1"]]
    said = "return document.querySelector('#runs output').textContent"
    assert shown.execute_script(said) == "1 of 20 rows"
    shown.find_element(By.CSS_SELECTOR, "#runs form button[type=reset]").click()
    shown.execute_script("return new Promise((done) => setTimeout(() => done(1), 50))")
    assert len(column(shown, "setup")) == 20
    choice(shown, "search").send_keys("NO SPACE")
    assert column(shown, "setup") == ["STL", "STL"]


def test_the_theme_is_the_readers_and_can_be_changed(shown: Any, page: Path) -> None:
    from selenium.webdriver.common.by import By

    ground = "return getComputedStyle(document.body).backgroundColor"
    assert shown.execute_script(ground) == "rgb(255, 255, 255)"
    button = shown.find_element(By.ID, "theme")
    button.click()
    dark = shown.execute_script(ground)
    assert dark != "rgb(255, 255, 255)"
    assert button.get_attribute("aria-pressed") == "true"
    card = "return getComputedStyle(document.querySelector('.card')).backgroundColor"
    assert shown.execute_script(card) == "rgb(255, 255, 255)", "pictures are drawn for white ground"
    shown.get(page.as_uri())
    assert shown.execute_script(ground) == dark, "a reader chooses once"
    shown.execute_script("localStorage.clear()")
    prefer(shown, "dark")
    shown.get(page.as_uri())
    assert shown.execute_script(ground) == dark


@pytest.mark.parametrize("width", [360, 390, 1280])
def test_it_is_never_wider_than_the_screen(shown: Any, width: int, page: Path) -> None:
    size(shown, width)
    shown.get(page.as_uri())
    assert shown.execute_script("return document.documentElement.scrollWidth") <= width
    wide = "return [...document.querySelectorAll('.scroll')].some((box) => box.scrollWidth > box.clientWidth)"
    assert shown.execute_script(wide) or width > 400, "what is wide scrolls in its own box"


def test_all_rows_are_printed_and_no_controls(shown: Any) -> None:
    choice(shown, "search").send_keys("no space")
    assert len(column(shown, "setup")) == 2
    shown.execute_cdp_cmd("Emulation.setEmulatedMedia", {"media": "print"})
    drawn = f"return [...{RUNS}.tBodies[0].rows].filter((row) => row.getClientRects().length).length"
    assert shown.execute_script(drawn) == 20
    hidden = """return [...document.querySelectorAll('form, #theme, nav')]
        .every((one) => !one.getClientRects().length)"""
    assert shown.execute_script(hidden)
    shown.execute_cdp_cmd("Emulation.setEmulatedMedia", {"media": ""})


def test_all_is_there_without_its_script(driver: Any, page: Path, tmp_path: Path) -> None:
    driver.execute_cdp_cmd("Emulation.setScriptExecutionDisabled", {"value": True})
    try:
        driver.get(page.as_uri())
    finally:
        driver.execute_cdp_cmd("Emulation.setScriptExecutionDisabled", {"value": False})
    assert len(column(driver, "setup")) == 20
    shown = "return [...document.querySelectorAll('.controls, form')].every((one) => one.hidden)"
    assert driver.execute_script(shown)
    assert os.path.getsize(page) < 5e6
