"""CIFAR-100."""

import pickle
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor

from lit_aux.data.base import TaskDataModule, fetch
from lit_aux.errors import ConfigurationError
from lit_aux.storage import check_given

_NAMES = """
apple aquarium_fish baby bear beaver bed bee beetle bicycle bottle bowl boy bridge bus butterfly camel can
castle caterpillar cattle chair chimpanzee clock cloud cockroach couch crab crocodile cup dinosaur dolphin
elephant flatfish forest fox girl hamster house kangaroo keyboard lamp lawn_mower leopard lion lizard lobster
man maple_tree motorcycle mountain mouse mushroom oak_tree orange orchid otter palm_tree pear pickup_truck
pine_tree plain plate poppy porcupine possum rabbit raccoon ray road rocket rose sea seal shark shrew skunk
skyscraper snail snake spider squirrel streetcar sunflower sweet_pepper table tank telephone television tiger
tractor train trout tulip turtle wardrobe whale willow_tree wolf woman worm
"""


_LINES = """
aquatic_mammals: beaver dolphin otter seal whale
fish: aquarium_fish flatfish ray shark trout
flowers: orchid poppy rose sunflower tulip
food_containers: bottle bowl can cup plate
fruit_and_vegetables: apple mushroom orange pear sweet_pepper
household_electrical_devices: clock keyboard lamp telephone television
household_furniture: bed chair couch table wardrobe
insects: bee beetle butterfly caterpillar cockroach
large_carnivores: bear leopard lion tiger wolf
large_man-made_outdoor_things: bridge castle house road skyscraper
large_natural_outdoor_scenes: cloud forest mountain plain sea
large_omnivores_and_herbivores: camel cattle chimpanzee elephant kangaroo
medium_mammals: fox porcupine possum raccoon skunk
non-insect_invertebrates: crab lobster snail spider worm
people: baby boy girl man woman
reptiles: crocodile dinosaur lizard snake turtle
small_mammals: hamster mouse rabbit shrew squirrel
trees: maple_tree oak_tree palm_tree pine_tree willow_tree
vehicles_1: bicycle bus motorcycle pickup_truck train
vehicles_2: lawn_mower rocket streetcar tank tractor
"""

SUPERCLASSES: dict[str, list[int | str]] = {
    name: [*fine.split()] for name, _, fine in (line.partition(": ") for line in _LINES.strip().splitlines())
}
"""For each superclass, in the order of the data set's coarse labels, the names of its classes."""


class CIFAR100DataModule(TaskDataModule):
    """60,000 colour images, 32 x 32 pixels, in a hundred classes (Krizhevsky, 2009), through torchvision.

    500 images of each class are the pool, 100 are test images. With the defaults, ``n_main`` images of two
    classes are the main task and all 49,000 of the other 98 the auxiliary one. ``classes: superclasses``
    makes twenty tasks of five classes.

    Args:
        root: Folder that holds ``cifar-100-python``.
        download: Fetch the data into ``root`` if they are missing.
        classes: See :class:`TaskDataModule`; ``"superclasses"`` for each superclass as a task.
        **kwargs: See :class:`TaskDataModule`.

    Raises:
        ConfigurationError: In ``prepare_data`` if there are no data, in ``setup`` if they are damaged.
    """

    def __init__(
        self,
        root: str = "data",
        download: bool = False,
        classes: Mapping[str, int | list[int | str]] | Literal["superclasses"] = {"main": 2, "aux": 98},
        **kwargs: Any,
    ) -> None:
        super().__init__(classes=SUPERCLASSES if classes == "superclasses" else classes, **kwargs)
        check_given("--data.root", root)
        self.root, self.download = root, download

    @property
    def class_names(self) -> list[str]:
        """The names of the fine labels."""
        return _NAMES.split()

    def pool_counts(self) -> list[int]:
        """Return the number of pool images of every class."""
        return [500] * 100

    def prepare_data(self) -> None:
        """Fetch the data if they were asked for and are missing, and make sure that the folder is there."""
        if self.download:
            from torchvision.datasets import CIFAR100

            fetch("CIFAR-100", lambda: CIFAR100(self.root, download=True))
        self._check_folder()

    def load_pool(self) -> tuple[Tensor, Tensor]:
        """Return the 50,000 training images."""
        return self._load(train=True)

    def load_test(self) -> tuple[Tensor, Tensor]:
        """Return the 10,000 test images."""
        return self._load(train=False)

    @property
    def _folder(self) -> Path:
        return Path(self.root).expanduser() / "cifar-100-python"

    def _check_folder(self) -> None:
        if not self._folder.is_dir():
            raise ConfigurationError(
                f"--data.root {self.root}: there is no CIFAR-100 in {self._folder.absolute()}; "
                "set --data.download true to fetch it"
            )

    def _load(self, train: bool) -> tuple[Tensor, Tensor]:
        from torchvision.datasets import CIFAR100

        self._check_folder()
        try:  # unpickles nothing but files whose checksums are those of the published ones
            data = CIFAR100(self.root, train=train)
        except (RuntimeError, OSError, EOFError, LookupError, TypeError, ValueError, pickle.UnpicklingError):
            raise ConfigurationError(
                f"--data.root {self.root}: files in {self._folder.absolute()} are missing or damaged; "
                "remove them and set --data.download true"
            ) from None
        return torch.from_numpy(data.data).permute(0, 3, 1, 2).contiguous(), torch.tensor(data.targets)
