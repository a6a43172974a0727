"""What a fit of one of the project's modules found, written as ``results.csv`` and ``measures.csv``."""

from pathlib import Path
from typing import TYPE_CHECKING

from lit_aux.experiments.image_rows import image_measures, image_rows
from lit_aux.experiments.student_rows import Row, student_measures, student_rows
from lit_aux.modules import AuxiliaryModule
from lit_aux.runs.duplicates import settled
from lit_aux.runs.table import ResultsTable
from lit_aux.runs.wandb_summary import log_rows

if TYPE_CHECKING:
    from lightning.pytorch import Trainer


def found_rows(module: AuxiliaryModule, trainer: "Trainer") -> tuple[list[Row], list[Row]]:
    """Return the rows of a fit, one for each replica of a student, else one; and their measures.

    Args:
        module: After ``fit``.
        trainer: What fitted it.
    """
    if module.students is None:
        rows = image_rows(module, trainer)
        return rows, image_measures(module, trainer, rows)
    rows = student_rows(module)
    measures = student_measures(module, rows)
    beside = ("evaluations", "replica")  # for the report's own table
    return [{k: v for k, v in row.items() if k not in beside} for row in rows], measures


def write_rows(module: AuxiliaryModule, trainer: "Trainer", folder: Path) -> dict[str, str]:
    """Write the rows of a fit into its folder, and into the summaries of its W&B runs.

    Rows that the files hold already are left as they are; new ones of the same runs must agree with them. Of
    several processes the first alone writes.

    Args:
        module: After ``fit``.
        trainer: What fitted it.
        folder: The run's folder.

    Returns:
        The files that were written, by what they are.

    Raises:
        ConfigurationError: If they cannot be written, or there is a file of another kind by one of their
            names, which is left as it is, or a row of the same run with other numbers.
    """
    rows, measures = found_rows(module, trainer) if trainer.is_global_zero else ([], [])
    if not rows:
        return {}
    log_rows(trainer.loggers, rows, measures)
    with ResultsTable(folder / "results.csv") as table:
        known = {row["run"]: row for row in table.rows()}
        again = [[(known[row["run"]], str(table.path)), (row, "now")] for row in rows if row["run"] in known]
        settled(
            again, None, "trainer.default_root_dir", "name another folder, or take the row out of this one"
        )
        new = [row for row in rows if row["run"] not in known]
        runs = {row["run"] for row in new}
        table.append(new, [measure for measure in measures if measure["run"] in runs])
    return {"results": str(table.path), "measures": str(table.measures_path)}
