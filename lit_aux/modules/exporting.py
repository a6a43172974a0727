"""What is written of a module for use without this package."""

from pathlib import Path
from typing import Any

from lit_aux.callbacks._parameters import uncompiled
from lit_aux.models import TransformersBackbone, export_state_dict
from lit_aux.models.transformers_export import check_folder_of_export, export_folder
from lit_aux.modules.loading import load_checkpoint, save_weights
from lit_aux.outputs import check_output
from lit_aux.phases.phased import phased_data


def export(module: Any, path: str | Path, task: str | None, ckpt_path: str | Path | None, data: Any) -> None:
    """Write a module's network: plain timm weights, or the folder of a network of transformers.

    Args:
        module: One of the project's; see its method ``export``.
        path: The file or folder.
        task: The task whose readout becomes the classifier.
        ckpt_path: Checkpoint to read the weights from first.
        data: A data module, whose tokenizer and names of classes go into a folder.

    Raises:
        ConfigurationError: If one of them does not fit.
    """
    folder = isinstance(uncompiled(uncompiled(module.net).backbone), TransformersBackbone)
    if folder:
        check_folder_of_export("output", path)
    else:
        read = [] if ckpt_path is None else [ckpt_path]
        check_output("output", path, inputs=read, kind="file of exported weights")
    if ckpt_path is not None:
        load_checkpoint(module, ckpt_path, "ckpt_path", strict=True)
    if folder:
        said = phased_data(data)
        names = None if task is None or task not in module.tasks else said.names_of_classes(task)
        export_folder(module.net, path, task, classes=names, tokenizer=said.tokenizer)
    else:
        save_weights(export_state_dict(module.net, task), path)
