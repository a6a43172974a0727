"""Small teacher data modules."""

from typing import Any

from lit_aux.data import DiagonalTeacherDataModule, ReLUTeacherDataModule

SMALL_DIAGONAL = {"k_aux": 8, "n_aux": 24, "in_features": 64, "n_test": 48}
SMALL_RELU = {"n_aux": 32, "n_test": 48}


def diagonal(**options: Any) -> DiagonalTeacherDataModule:
    return DiagonalTeacherDataModule(
        **({"seed": 0, "n_main": 16, "overlap": 4, "k_main": 8} | SMALL_DIAGONAL | options)
    )


def relu(**options: Any) -> ReLUTeacherDataModule:
    return ReLUTeacherDataModule(**({"seed": 0, "n_main": 16} | SMALL_RELU | options))
