"""``lit-aux figures``: what it draws, where, and what it says of mistakes."""

import pytest

from lit_aux.cli.figures import PICTURES, run
from lit_aux.errors import ConfigurationError
from lit_aux.figures.results import FIGURES


@pytest.mark.parametrize("name", PICTURES)
def test_each_picture_is_drawn_into_the_working_folder(name, tmp_path, capsys):
    assert run([name]) == 0
    assert capsys.readouterr().out == f"picture: {name}.png\n"
    assert [p.name for p in tmp_path.iterdir()] == [f"{name}.png"]
    assert (tmp_path / f"{name}.png").read_bytes().startswith(b"\x89PNG")


def test_out_names_file_and_format(tmp_path, capsys):
    assert run(["l-order", "--out", "deep/order.svg"]) == 0
    assert "picture: deep/order.svg" in capsys.readouterr().out
    text = (tmp_path / "deep" / "order.svg").read_text()
    assert text.startswith("<?xml")
    assert text.rstrip().endswith("</svg>")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "NAME: nothing is given; name one of penalties, l-order, regimes"),
        (["regime"], "NAME: 'regime' is unknown; did you mean 'regimes'"),
        (["penalties", "--out", "a.jpg"], "--out: 'a.jpg' ends in no known format"),
        (["penalties", "--out="], "--out: ''"),
        (["penalties", "--out"], "--out: nothing is given"),
        (["penalties", "--output", "a.png"], "figures: '--output' is unknown; did you mean '--out'"),
        (["penalties", "regimes"], "'regimes' belongs to no option"),
        (["penalties", "--out", "folder.png"], "--out: 'folder.png' is a folder"),
        (["penalties", "--results", "a.csv"], "--results a.csv: penalties is a picture of the theory"),
        (["norm", "--results", "a.csv"], "NAME: 'norm' is unknown; did you mean 'norms'"),
        (["norms"], "--results: nothing is given; norms is drawn from a table, as of lit-aux reproduce"),
        (["norms", "--results"], "--results: nothing is given; name one"),
        (["norms", "--results", "a.csv"], "--results a.csv: there is no such file"),
        (["overlap", "--results", "a.csv", "--out", "a.gif"], "--out: 'a.gif' ends in no known format"),
        (["all", "--results", "a.csv", "--out", "a.png"], "--out: 'a.png' is no folder"),
    ],
)
def test_mistakes_are_one_line_and_draw_nothing(arguments, message, tmp_path, capsys):
    (tmp_path / "folder.png").mkdir()
    with pytest.raises(ConfigurationError) as error:
        run(arguments)
    assert str(error.value).startswith(message)
    assert "\n" not in str(error.value)
    assert [p.name for p in tmp_path.iterdir()] == ["folder.png"]
    assert capsys.readouterr().out == ""


def test_help_tells_the_pictures(capsys):
    with pytest.raises(SystemExit) as ended:
        run(["--help"])
    assert ended.value.code == 0
    text = capsys.readouterr().out
    for name in (*PICTURES, *FIGURES, "all"):
        assert name in text
