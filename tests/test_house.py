"""The habits of the house: which way imports run, what is public and documented."""

import ast
import importlib
import subprocess
import sys
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGES = [
    "lazy",
    "cores",
    "errors",
    "files",
    "finite",
    "hub",
    "locks",
    "ranges",
    "spreadsheets",
    "storage",
    "outputs",
    "pickles",
    "tensor_options",
    "identity",
    "tasks",
    "trees",
    "verdicts",
    "functional",
    "models",
    "integrators",
    "data",
    "metrics",
    "drawing",
    "callbacks",
    "phases",
    "modules",
    "batched",
    "runs",
    "results",
    "experiments",
    "trajectories",
    "regimes",
    "figures",
    "pages",
    "sweeps",
    "cli",
]
OF_RUNS = [
    "cores",
    "errors",
    "files",
    "identity",
    "lazy",
    "locks",
    "ranges",
    "runs",
    "spreadsheets",
    "storage",
]
WITHOUT_LIGHTNING = ["errors", "identity", "functional", "models", "integrators", "metrics"]
SOURCES = sorted([*ROOT.glob("lit_aux/**/*.py"), *ROOT.glob("callbacks/**/*.py")])


def package_of(path: Path) -> str:
    parts = path.relative_to(ROOT).with_suffix("").parts
    return parts[0] if parts[0] == "callbacks" else parts[1]


def module_of(path: Path) -> str:
    parts = path.relative_to(ROOT).with_suffix("").parts
    parts = ("lit_aux", *parts) if parts[0] == "callbacks" else parts
    return ".".join(parts).removesuffix(".__init__")


def imports(path: Path, for_types: bool = False) -> set[str]:
    """Return every module that a file imports, anywhere in it; for type checkers alone only if asked for."""
    tree = ast.parse(path.read_text())
    only_types = {
        id(inner)
        for node in ast.walk(tree)
        if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING" and not for_types
        for inner in ast.walk(node)
    }
    found = set()
    for node in ast.walk(tree):
        if id(node) in only_types:
            continue
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: a relative import"
            found |= {f"{node.module}.{alias.name}" for alias in node.names}
    return found


def test_there_are_sources() -> None:
    assert {package_of(path) for path in SOURCES} >= set(PACKAGES)


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: str(path.relative_to(ROOT)))
def test_imports_run_downwards(path: Path) -> None:
    package = package_of(path)
    if package not in PACKAGES:  # the package itself and the report stand beside them
        return
    above = PACKAGES[: PACKAGES.index(package) + 1]
    for name in imports(path):
        parts = name.split(".")
        if parts[0] == "lit_aux" and len(parts) > 1 and parts[1] in PACKAGES:
            assert parts[1] in above, f"{path.name} of {package} imports {name}"
        if package == "callbacks":
            assert not name.startswith(("lit_aux.models", "lit_aux.data")), name
        if package in WITHOUT_LIGHTNING:
            assert parts[0] not in ("lightning", "pytorch_lightning", "lightning_fabric"), name


def test_many_runs_know_nothing_of_what_they_are() -> None:
    for path in SOURCES:
        names = [name.split(".") for name in imports(path, for_types=True)]
        known = {name[1] for name in names if name[0] == "lit_aux" and len(name) > 1}
        assert package_of(path) != "runs" or known <= {*OF_RUNS}, path.name


def test_no_file_imports_itself_by_way_of_others() -> None:
    files = {module_of(path): path for path in SOURCES}

    def file_of(name: str) -> str:
        """Return the file that has a name, which may be that of a file."""
        return name if name in files else name.rpartition(".")[0]

    graph = {
        module: {file_of(name) for name in imports(path, for_types=True) if name.startswith("lit_aux.")}
        for module, path in files.items()
    }
    assert {name for names in graph.values() for name in names} <= {*files}
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as circle:
        pytest.fail(" <- ".join(circle.args[1]))


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: str(path.relative_to(ROOT)))
def test_what_is_public_is_documented(path: Path) -> None:
    tree = ast.parse(path.read_text())
    assert ast.get_docstring(tree), "the file says nothing of itself"
    kinds = (ast.FunctionDef, ast.ClassDef)
    for node in tree.body:
        if not isinstance(node, kinds) or node.name.startswith("_"):
            continue
        assert ast.get_docstring(node), node.name
        for inner in node.body if isinstance(node, ast.ClassDef) else []:
            public = isinstance(inner, kinds) and not inner.name.startswith("_")
            assert not public or ast.get_docstring(inner), f"{node.name}.{inner.name}"


def test_test_files_have_names_of_their_own() -> None:
    names = [path.name for path in ROOT.glob("tests/**/*.py")]
    assert sorted(names) == sorted({*names}), "pytest imports them by their name alone"


def test_importing_costs_no_heavy_package() -> None:
    heavy = ["lightning", "pytorch_lightning", "timm", "sklearn", "wandb"]
    code = f"""
import sys, lit_aux
def loaded(*names):
    print([name for name in names if name in sys.modules])
loaded(*{heavy}, "matplotlib", "torchvision", "torchmetrics")
import lit_aux.functional, lit_aux.models
loaded(*{heavy}, "matplotlib", "torchvision")
import lit_aux.metrics  # torchmetrics itself imports the other two
loaded(*{heavy})
"""
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=120
    )
    assert done.stdout.split() == ["[]", "[]", "[]"]


PUBLIC = {
    "lit_aux": ["Phase", "PhaseSettings", "PhaseTrainer", "report"],
    "lit_aux.functional": [
        "participation_ratio",
        "effective_shared_dimensions",
        "kmeans_inertia",
        "feature_alignment",
        "q_penalty",
        "group_penalty",
        "mtl_marginal_penalty",
        "relu_finetuning_penalty",
        "l_order",
        "feature_dependence",
        "gradient_flow_limit",
        "gradient_descent_probe",
        "minimal_group_norm",
    ],
    "lit_aux.integrators": ["GradientFlow", "GradientDescent", "Exact"],
    "lit_aux.models": ["MultiHeadNet", "TimmBackbone", "DiagonalNet", "ReLUNet"],
    "lit_aux.metrics": ["ParticipationRatio", "EffectiveSharedDimensions"],
    "lit_aux.callbacks": ["WeightRescaling", "RepresentationDimensionality", "StopAtTrainingLoss"],
    "lit_aux.data": [
        "DigitsDataModule",
        "FashionMNISTDataModule",
        "CIFAR100DataModule",
        "ImageFolderDataModule",
        "DiagonalTeacherDataModule",
        "ReLUTeacherDataModule",
        "RandomCropFlip",
    ],
    "lit_aux.modules": ["SingleTaskModule", "MultiTaskModule", "PretrainFinetuneModule"],
    "lit_aux.results": [
        "query",
        "table",
        "pairs",
        "who_wins",
        "Query",
        "Sheet",
        "read_rows",
        "read_measures",
    ],
    "lit_aux.runs": ["read_rows", "read_measures", "ResultsTable", "run_hash"],
    "lit_aux.experiments": ["reproduce", "cells", "Options"],
    "lit_aux.figures": ["draw_figure", "figures_of", "draw_regimes", "save"],
    "lit_aux.pages": ["LivePage", "write_report"],
    "lit_aux.cli": ["main"],
}


@pytest.mark.parametrize("module", PUBLIC)
def test_public_names_exist(module: str) -> None:
    found = importlib.import_module(module)
    for name in PUBLIC[module]:
        assert callable(getattr(found, name))
    for name in getattr(found, "__all__", []):
        assert hasattr(found, name)
        assert name in dir(found), "as completion looks for it"


def test_the_package_says_that_it_is_typed() -> None:
    assert (ROOT / "lit_aux" / "py.typed").is_file()
    text = (ROOT / "pyproject.toml").read_text()
    assert 'lit_aux = ["py.typed"]' in text
    packages = {
        p.parent.relative_to(ROOT).as_posix().replace("/", ".") for p in ROOT.glob("lit_aux/**/__init__.py")
    }
    for package in packages:
        assert f'"{package}"' in text, f"{package} is not installed"
