"""The notebook of the pages runs, shows tables and pictures, and prints what a person wants to read."""

from pathlib import Path
from typing import Any

import nbformat
import pytest
from nbclient import NotebookClient

NOTEBOOK = Path(__file__).parents[1] / "docs" / "notebook.ipynb"
TIPS = (
    "Tip",
    "litlogger",
    "litmodels",
    "GPU",
    "TPU",
    "Trainer.fit",
    "weights_only",
    "num_workers",
    "ipywidgets",
)


def check_outputs(notebook: Any) -> None:
    """See that every kind of value shows itself, and that nothing else is printed."""
    outputs = [output for cell in notebook.cells for output in cell.get("outputs", [])]
    printed = "".join(output.text for output in outputs if output.output_type == "stream")
    shown = [output.data for output in outputs if "data" in output]
    assert "Phase 1 of 2: pretrain on aux" in printed
    assert [tip for tip in (*TIPS, "LeafSpec", "logging interval") if tip in printed] == []
    report, rows, tables = (data["text/html"] for data in shown if "text/html" in data)
    assert report.count("<table>") == 2
    assert report.count("data:image/png;base64,") == 1
    assert "global_pool" in report
    assert "image/png" in shown[-1]
    assert "<caption>2 rows</caption>" in rows
    assert ">0.125</td>" in rows
    assert tables.count("<table>") == 3  # means, differences, who wins


def test_the_kept_outputs_are_of_the_notebook() -> None:
    notebook = nbformat.read(NOTEBOOK, as_version=4)
    check_outputs(notebook)
    counts = [cell.execution_count for cell in notebook.cells if cell.cell_type == "code"]
    assert counts == [*range(1, len(counts) + 1)]
    text = NOTEBOOK.read_text()
    assert "Warning" not in text
    assert "/site-packages/" not in text
    assert "execution" not in {name for cell in notebook.cells for name in cell.metadata}


def test_the_notebook_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONWARNINGS", "ignore:IProgress")  # of tqdm, where no widgets are installed
    notebook = nbformat.read(NOTEBOOK, as_version=4)
    for cell in notebook.cells:
        if cell.cell_type == "code":
            cell.outputs, cell.execution_count = [], None
    NotebookClient(notebook, timeout=300, resources={"metadata": {"path": str(tmp_path)}}).execute()
    check_outputs(notebook)
    assert (tmp_path / "runs/version_0/results.csv").is_file()
