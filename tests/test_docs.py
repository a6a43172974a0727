"""The documentation: its Python runs as it is printed, links lead somewhere, names and options exist."""

import importlib
import re
import shlex
import sys
from functools import cache
from pathlib import Path

import pytest
import yaml

from lit_aux.cli import main
from lit_aux.cli.reproduce import _parse as parse_reproduce
from lit_aux.experiments import EXPERIMENTS, cells

ROOT = Path(__file__).parents[1]
DOCS = ROOT / "docs"
PAGES = sorted(p for p in DOCS.glob("**/*.md") if "_build" not in p.parts)
TUTORIAL = DOCS / "tutorial.md"

# What commands of the tutorial are given on top, so that all of it takes less than a minute.
SHORT = {
    "fit": ["--trainer.max_epochs", "1", "--data.n_aux", "80", "--data.n_val", "40", "--data.n_test", "40"],
    "regime": ["--trainer.max_epochs", "5", "--data.n_val", "100"],
}

PACKAGES = [
    "lit_aux",
    "lit_aux.callbacks",
    "lit_aux.cli",
    "lit_aux.data",
    "lit_aux.experiments",
    "lit_aux.figures",
    "lit_aux.functional",
    "lit_aux.integrators",
    "lit_aux.metrics",
    "lit_aux.models",
    "lit_aux.modules",
    "lit_aux.pages",
    "lit_aux.phases",
    "lit_aux.regimes",
    "lit_aux.runs",
]


# Packages whose names are in part described where others are: the trainer, the results table.
HOMES = {
    "lit_aux": ["lit_aux", "lit_aux.phases"],
    "lit_aux.phases": ["lit_aux.phases", "lit_aux"],
    "lit_aux.experiments": ["lit_aux.experiments", "lit_aux.runs"],
}


def code_blocks(page: Path) -> list[tuple[str, str]]:
    """Return language and text of every fenced block."""
    return re.findall(r"^```(\w+)\n(.*?)^```", page.read_text(), re.DOTALL | re.MULTILINE)


def python_of(page: Path) -> str:
    return "\n".join(block for language, block in code_blocks(page) if language == "python")


def commands_of(page: Path) -> list[list[str]]:
    """Return the words behind ``lit-aux`` of every command on a page."""
    blocks = (block for language, block in code_blocks(page) if language == "bash")
    return [words for block in blocks for words in commands_in(block)]


def commands_in(block: str) -> list[list[str]]:
    """Return the words behind ``lit-aux`` of every command of a block."""
    lines = re.sub(r"\\\n\s*", " ", block).splitlines()
    split = [shlex.split(line, comments=True) for line in lines]
    return [words[words.index("lit-aux") + 1 :] for words in split if "lit-aux" in words]


def runs_of(words: list[str]) -> int:
    """Return how many runs of a grid a documented ``reproduce`` would carry out."""
    given = parse_reproduce(words[: words.index("--")] if "--" in words else words).as_dict()
    axes = {name: given[name] for name in ("overlap", "k_main", "correlation", "magnitude", "rescale")}
    chosen = {name: value for name, value in axes.items() if value is not None}
    return len(cells(given["experiment"], given["setups"], given["seeds"], given["n_main"], **chosen))


def is_long(words: list[str]) -> bool:
    """Whether a documented command takes more than ten minutes on two cores, or was never timed."""
    if words[0] == "reproduce":
        found = EXPERIMENTS[words[1]]
        trained = "--integrator" not in words
        return trained and (found.seconds is None or found.seconds * runs_of(words[1:]) > 600)
    if words[0] not in ("sweep", "fit") or "--slurm" in words or "--collect" in words or "--count" in words:
        return False
    files = [Path(word) for word in words if word.startswith("configs/") and word.endswith(".yaml")]
    return any("short: " in (ROOT / file).read_text().partition("\n")[0] for file in files)


LONG = [
    (page, block)
    for page in [ROOT / "README.md", *PAGES]
    for language, block in code_blocks(page)
    if language == "bash" and any(map(is_long, commands_in(block)))
]


@pytest.mark.parametrize(
    ("page", "block"), LONG, ids=[f"{page.stem}-{i}" for i, (page, _) in enumerate(LONG)]
)
def test_what_takes_long_says_so_first_and_names_a_short_variant(page: Path, block: str) -> None:
    assert re.match(r"# .*(\d minutes|timed).*; short: --", block), f"{page.name}: {block.splitlines()[0]}"


def run_as_a_reader(block: str, space: dict[str, object], page: str) -> None:
    """Save a block that is a file under its name; run any other after those before it."""
    if file := re.match(r"# (\w+\.py)\n", block):
        Path(file[1]).write_text(block)
    else:
        exec(compile(block, page, "exec"), space)


@pytest.fixture
def _project(monkeypatch: pytest.MonkeyPatch) -> None:
    """Give the pages' own files a place to be imported from, and the project's configurations."""
    Path("configs").symlink_to(ROOT / "configs")
    monkeypatch.delitem(sys.modules, "my_project", raising=False)


@pytest.mark.usefixtures("_project")
def test_the_tutorial_runs(capsys: pytest.CaptureFixture[str]) -> None:
    space: dict[str, object] = {"__name__": "tutorial"}
    for language, block in code_blocks(TUTORIAL):
        if language == "python":
            run_as_a_reader(block, space, "tutorial.md")
        elif language == "bash":
            for line in block.splitlines():
                words = shlex.split(line)
                words = words[words.index("lit-aux") + 1 :]
                assert main([*words, *SHORT[words[0]]]) == 0, words
    printed = capsys.readouterr().out
    assert "trained before" in printed  # the second command found the pretraining of the first
    assert "best on validation data" in printed
    assert set(space["accuracy"]) == {1.0, 0.5, 0.25}  # type: ignore[call-overload]
    assert min(space["accuracy"].values()) > 0.8  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    "page", [p for p in PAGES if p != TUTORIAL and python_of(p)], ids=lambda p: p.relative_to(DOCS).as_posix()
)
def test_the_python_of_a_page_runs(
    page: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(Path.cwd())  # as it is where a reader saves a file and starts Python
    monkeypatch.delitem(sys.modules, "my_teacher", raising=False)
    space: dict[str, object] = {"__name__": page.stem}
    for language, block in code_blocks(page):
        if language == "python":
            run_as_a_reader(block, space, page.name)
    if page.name == "own-data.md":
        assert float(capsys.readouterr().out.split()[-1]) > 0.8  # the last line is an accuracy


def test_the_tutorial_needs_nothing_that_it_does_not_show() -> None:
    commands = commands_of(TUTORIAL)
    assert len(commands) == 4
    assert {words[0] for words in commands} == {"fit", "regime"}


@cache
def anchors(page: Path) -> set[str]:
    """Return the anchors that a code host and Sphinx give to a page's headings."""
    text = re.sub(r"^```.*?^```", "", page.read_text(), flags=re.DOTALL | re.MULTILINE)
    headings = re.findall(r"^#+ (.+)$", text, re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize(
    "page",
    [*PAGES, ROOT / "README.md", ROOT / "CONTRIBUTING.md"],
    ids=lambda p: p.relative_to(ROOT).as_posix(),
)
def test_links_and_pictures_lead_somewhere(page: Path) -> None:
    text = re.sub(r"^```.*?^```", "", page.read_text(), flags=re.DOTALL | re.MULTILINE)
    for target in re.findall(r"\]\(([^)\s]+)\)", text):
        if target.startswith(("http://", "https://")):
            continue
        name, _, anchor = target.partition("#")
        file = (page.parent / name).resolve() if name else page
        assert file.exists(), f"{target}: there is no such file"
        assert not anchor or anchor in anchors(file), f"{target}: no such heading"
    for name in re.findall(r"(?:configs/[\w/]+\.yaml|scripts/\w+\.\w+)", page.read_text()):
        assert (ROOT / name).is_file(), name


def test_contributors_are_told_of_what_is_there() -> None:
    text = (ROOT / "CONTRIBUTING.md").read_text()
    named = re.findall(r"`((?:lit_aux|callbacks|tests|docs|configs|scripts|\.ci|\.github)/[\w./-]*)", text)
    assert len(named) > 25
    assert [n for n in named if not re.search(r"[A-Z]{4}", n) and not (ROOT / n).exists()] == []
    parts = {path.name for path in (ROOT / "tests").iterdir() if any(path.glob("test_*.py"))}
    assert parts == {part for part in parts if f"`{part}`" in text}


def test_the_glossary_has_the_words_that_the_papers_use() -> None:
    words = "readout student replica teacher l-order lazy rich nested pr ensd"
    assert {*words.split()} <= anchors(DOCS / "glossary.md")
    for page in (ROOT / "README.md", DOCS / "index.md", TUTORIAL):
        assert "glossary.md" in page.read_text(), page.name


def test_every_page_is_in_the_contents() -> None:
    listed = set()
    for page in PAGES:
        for tree in re.findall(r"^```\{toctree\}\n(.*?)^```", page.read_text(), re.DOTALL | re.MULTILINE):
            names = [line for line in tree.splitlines() if line and not line.startswith(":")]
            listed |= {found.resolve() for name in names for found in page.parent.glob(f"{name}.[mi]*")}
    assert listed | {DOCS / "index.md"} == {*PAGES, *DOCS.glob("*.ipynb")}


def test_the_sweep_file_on_the_page_is_the_one_that_runs() -> None:
    shown = next(block for kind, block in code_blocks(DOCS / "how-to" / "sweeps.md") if kind == "yaml")
    assert yaml.safe_load(shown) == yaml.safe_load((ROOT / "configs/sweeps/digits.yaml").read_text())


@cache
def help_of(*command: str) -> str:
    """Return what ``lit-aux COMMAND --help`` prints."""
    import contextlib
    import io

    out = io.StringIO()
    with contextlib.redirect_stdout(out), pytest.raises(SystemExit):
        main([*command, "--help"])
    return out.getvalue()


def is_option(command: str, option: str) -> bool:
    """Whether ``lit-aux COMMAND`` knows an option, also one of a module or data class."""
    name = option.partition("=")[0].replace(".init_args", "")
    if command in ("fit", "test", "predict", "export") or (
        command == "regime" and name not in help_of("regime")
    ):
        return name in KNOWN_OF_FIT or re.search(rf"{re.escape(name)}\b", help_of("fit")) is not None
    return re.search(rf"{re.escape(name)}\b", help_of(command)) is not None


def options_of_classes() -> set[str]:
    """Return the options that reach into modules, backbones, data and their settings."""
    from inspect import signature

    from torch.optim import SGD
    from transformers import BertConfig

    from lit_aux import PhaseSettings, data, models, modules

    def names(kind: type) -> set[str]:
        return {name for base in kind.__mro__ for name in signature(base.__init__).parameters}

    found: set[str] = set()
    for package, prefix in ((modules, "--model"), (data, "--data")):
        for public in package.__all__:
            kind = getattr(package, public)
            if isinstance(kind, type):
                found |= {f"{prefix}.{name}" for name in names(kind)}
    for public in models.__all__:
        kind = getattr(models, public)
        if isinstance(kind, type):
            found |= {f"--model.backbone.{name}" for name in names(kind)}
    for settings in [name for name in found if name.endswith("settings")]:
        found |= {f"{settings}.{name}" for name in names(PhaseSettings)}
        found |= {f"{settings}.optimizer.{name}" for name in names(SGD)}
    found |= {f"--model.backbone.model.{name}" for name in names(BertConfig)}
    found |= {f"--model.lora.{name}" for name in names(models.LoRA)}
    return found | {"--ckpt_path", "--task", "--output"}


KNOWN_OF_FIT = options_of_classes()


@pytest.mark.parametrize("page", [*PAGES, ROOT / "README.md"], ids=lambda p: p.relative_to(ROOT).as_posix())
def test_every_option_exists(page: Path) -> None:
    known = ("fit", "test", "predict", "export")
    known += ("reproduce", "regime", "sweep", "table", "figures", "report", "trajectories")
    for command, *words in commands_of(page):
        assert command in known
        for word in words:
            if word == "--":  # what follows is for the fits
                command = "fit"
            elif word.startswith("--"):
                assert is_option(command, word), f"lit-aux {command} {word}"
    inline = re.findall(r"`(--(?:model|data|trainer)\.[\w.]+)", page.read_text())
    for option in inline:
        assert is_option("fit", option), option


@pytest.mark.parametrize("package", PACKAGES)
def test_every_public_name_is_in_the_reference(package: str) -> None:
    module = importlib.import_module(package)
    pages = "\n".join(page.read_text() for page in (DOCS / "api").glob("*.md"))
    described = re.findall(r"^\.\. (?:auto\w+|py:data):: (\S+)$", pages, re.MULTILINE)
    for name in module.__all__:
        homes = [f"{home}.{name}" for home in HOMES.get(package, [package])]
        assert any(home in described for home in homes), f"{package}.{name}"


def test_every_package_has_a_page_in_the_reference() -> None:
    packages = {path.parent.name for path in ROOT.glob("lit_aux/*/__init__.py")}
    assert packages - {path.stem for path in (DOCS / "api").glob("*.md")} == set()


def test_the_reference_names_nothing_twice_or_gone() -> None:
    pages = "\n".join(page.read_text() for page in (DOCS / "api").glob("*.md"))
    described = re.findall(r"^\.\. (?:auto\w+|py:data):: (\S+)$", pages, re.MULTILINE)
    assert len(described) == len(set(described))
    for name in described:
        package, _, public = name.rpartition(".")
        assert hasattr(importlib.import_module(package), public), name
