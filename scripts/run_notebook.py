"""Run docs/notebook.ipynb and keep its outputs, without the times and paths of a machine."""

import os
from pathlib import Path
from tempfile import TemporaryDirectory

import nbformat
from nbclient import NotebookClient

NOTEBOOK = Path(__file__).parents[1] / "docs" / "notebook.ipynb"


def main() -> None:
    os.environ["PYTHONWARNINGS"] = "ignore:IProgress"  # of tqdm, where no widgets are installed
    notebook = nbformat.read(NOTEBOOK, as_version=4)  # type: ignore[no-untyped-call]
    with TemporaryDirectory() as folder:
        resources = {"metadata": {"path": folder}}
        NotebookClient(notebook, timeout=600, record_timing=False, resources=resources).execute()
    for cell in notebook.cells:
        cell.metadata.pop("execution", None)
    notebook.metadata.pop("widgets", None)
    notebook.metadata["language_info"] = {"name": "python"}
    NOTEBOOK.write_text(nbformat.writes(notebook) + "\n")  # type: ignore[no-untyped-call]


if __name__ == "__main__":
    main()
