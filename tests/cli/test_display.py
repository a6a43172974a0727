"""Windows open only where a person sits before them and has asked."""

import sys
import webbrowser
from pathlib import Path
from types import SimpleNamespace

import pytest
from jsonargparse import Namespace

from lit_aux.cli import AuxiliaryCLI, lightning_cli, main
from lit_aux.cli.display import has_display, open_file
from lit_aux.run_folder import RunFolder

VARIABLES = (
    *("CI", "SSH_CONNECTION", "SSH_CLIENT", "SSH_TTY", "SLURM_JOB_ID", "LOCAL_RANK", "LIT_AUX_DISPLAY"),
    *("DISPLAY", "WAYLAND_DISPLAY"),
)


@pytest.fixture
def desktop(monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    """An interactive terminal on Linux, with a display."""
    for name in VARIABLES:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("DISPLAY", ":0")
    monkeypatch.setattr(sys, "platform", "linux")
    for stream in ("stdin", "stdout"):
        monkeypatch.setattr(getattr(sys, stream), "isatty", lambda: True, raising=False)
    return monkeypatch


class Opened(list[str]):
    """What a browser was asked to open."""

    def open(self, url: str) -> bool:
        self.append(url)
        return True


def test_a_desktop_has_a_display(desktop: pytest.MonkeyPatch) -> None:
    assert has_display()
    desktop.delenv("DISPLAY")
    assert not has_display()
    desktop.setenv("WAYLAND_DISPLAY", "wayland-0")
    assert has_display()
    desktop.delenv("WAYLAND_DISPLAY")
    for platform in ("darwin", "win32"):
        desktop.setattr(sys, "platform", platform)
        assert has_display()


@pytest.mark.parametrize("name", VARIABLES[:6])
def test_no_window_opens_elsewhere(name: str, desktop: pytest.MonkeyPatch) -> None:
    desktop.setenv(name, "1")
    assert not has_display()
    desktop.setenv(name, "")
    assert has_display()


@pytest.mark.parametrize("stream", ["stdin", "stdout"])
def test_no_window_opens_where_nobody_types(stream: str, desktop: pytest.MonkeyPatch) -> None:
    desktop.setattr(getattr(sys, stream), "isatty", lambda: False, raising=False)
    assert not has_display()
    desktop.setattr(sys, stream, None)  # as without a console on Windows
    assert not has_display()


def test_it_can_be_turned_off(desktop: pytest.MonkeyPatch) -> None:
    desktop.setenv("LIT_AUX_DISPLAY", "0")
    assert not has_display()


def test_a_file_is_opened_by_its_address(desktop: pytest.MonkeyPatch, tmp_path: Path) -> None:
    opened = Opened()
    desktop.setattr(webbrowser, "get", lambda: opened)
    desktop.chdir(tmp_path)
    assert open_file(Path("a b.html"))
    assert opened == [(tmp_path / "a b.html").as_uri()]
    desktop.delenv("DISPLAY")
    assert not open_file(Path("a b.html"))
    assert len(opened) == 1


def test_no_browser_and_one_of_the_terminal_open_nothing(desktop: pytest.MonkeyPatch, tmp_path: Path) -> None:
    desktop.setattr(webbrowser, "get", lambda: webbrowser.GenericBrowser("w3m"))
    desktop.setattr(webbrowser.GenericBrowser, "open", lambda *_: pytest.fail("opened in the terminal"))
    assert not open_file(tmp_path)

    def none() -> None:
        raise webbrowser.Error("could not locate runnable browser")

    desktop.setattr(webbrowser, "get", none)
    assert not open_file(tmp_path)


@pytest.mark.parametrize(("asked", "screen"), [(True, True), (True, False), (False, True)])
def test_a_fit_opens_its_report_where_that_was_asked_for(
    asked: bool,
    screen: bool,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    folder, opened = RunFolder(tmp_path), []
    (tmp_path / "results.csv").write_text("run,setup,seed,accuracy\na,STL,0,0.5\n")
    monkeypatch.setattr("lit_aux.reporting.report", lambda _: folder)
    monkeypatch.setattr(lightning_cli, "open_file", opened.append)
    monkeypatch.setattr(lightning_cli, "has_display", lambda: screen)
    cli = AuxiliaryCLI.__new__(AuxiliaryCLI)
    cli.subcommand, cli.trainer = "fit", SimpleNamespace(is_global_zero=True)
    cli.config = Namespace(fit=Namespace(open=asked))
    cli.after_fit()
    page = tmp_path / "report.html"
    both = asked and screen
    assert opened == ([page] if both else [])
    assert page.is_file() == both
    said = f"report: {page}" if both else f"report: lit-aux report {tmp_path} --open"
    assert capsys.readouterr().out.splitlines()[-1] == said


def test_a_page_that_cannot_be_written_breaks_no_fit(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(lightning_cli, "open_file", lambda _: pytest.fail("opened"))
    lightning_cli._open_report(tmp_path)
    assert "report: not written: " in capsys.readouterr().out


def test_the_option_is_yes_or_no_and_the_quickstart_asks(capsys: pytest.CaptureFixture[str]) -> None:
    quickstart = Path(__file__).parents[2] / "configs/quickstart.yaml"
    lightning_cli.check_fit(["--config", str(quickstart)])
    assert "\nopen: true" in quickstart.read_text()
    assert main(["fit", "--config", str(quickstart), "--open", "maybe"]) == 2
    assert capsys.readouterr().err.strip() == "lit-aux: error: --open: 'maybe' is not true or false"
