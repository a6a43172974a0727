"""The glosses of WordNet's nouns."""

from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from lit_aux.data.loader import generator_for
from lit_aux.data.tasks import at_least, resolve_seed
from lit_aux.data.text import TextDataModule
from lit_aux.errors import ConfigurationError
from lit_aux.storage import check_given

DEBIAN_FOLDER = Path("/usr/share/wordnet")
_FIRST = 3
"""Number of the first category of nouns among WordNet's lexicographer files."""
_NAMES = """
tops act animal artifact attribute body cognition communication event feeling food group location motive
object person phenomenon plant possession process quantity relation shape state substance time
"""
_SMALL = {"tops", "event", "feeling", "motive", "phenomenon", "possession", "process", "quantity", "relation"}
_SMALL |= {"shape", "time"}
LARGE = [name for name in _NAMES.split() if name not in _SMALL]
"""The categories of at least 1,500 glosses, among which the classes of the main task are drawn."""


class WordNetDataModule(TextDataModule):
    """81,500 glosses of nouns in 26 categories (act, animal, artifact, ...): WordNet 3.0 (Fellbaum, 1998).

    A gloss is the definition of a sense with its examples. The protocol is that of the CIFAR-100 experiments:
    the seed draws the two classes of the main task, among the 15 categories of at least 1,500 glosses; all
    other categories are the auxiliary task.

    The file ``data.noun`` is looked for in ``root`` and where Debian's package ``wordnet-base`` installs it.
    A gloss that several senses share is kept once. The test glosses of a category are always the same, 500 of
    them or a third if that is less, spread evenly over the file. A tokenizer is trained on all others, which
    are the pool.

    Args:
        root: Folder of ``data.noun``.
        most: Glosses of a category in the pool at most, drawn by the seed.
        classes: See :class:`TextDataModule`.
        **kwargs: See :class:`TextDataModule`.

    Raises:
        ConfigurationError: In ``prepare_data`` if there are no data, in ``setup`` if they are damaged.
    """

    def __init__(
        self,
        root: str = "data",
        most: int | None = 2000,
        classes: Mapping[str, int | list[int | str]] = {"main": 2, "aux": 24},
        **kwargs: Any,
    ) -> None:
        at_least("--data.most", most, 1)
        check_given("--data.root", root)
        super().__init__(classes=_with_main_drawn(classes, kwargs.get("seed")), **kwargs)
        self.root, self.most = root, most

    @property
    def class_names(self) -> list[str]:
        """The categories, in the order of WordNet's lexicographer files."""
        return _NAMES.split()

    def prepare_data(self) -> None:
        """Make sure that the file is there."""
        self._file()

    def load_pool(self) -> tuple[Sequence[str], Tensor]:
        """Return at most ``most`` glosses of each category that are no test glosses."""
        texts, labels = self._split(test=False)
        if self.most is None:
            return texts, labels
        kept = []
        for index, name in enumerate(self.class_names):
            rows = (labels == index).nonzero().flatten()
            order = torch.randperm(len(rows), generator=generator_for(self.seed, "most", name))
            kept.append(rows[order[: self.most]])
        chosen = torch.cat(kept).sort().values
        return [texts[row] for row in chosen.tolist()], labels[chosen]

    def load_test(self) -> tuple[Sequence[str], Tensor]:
        """Return the test glosses."""
        return self._split(test=True)

    def tokenizer_texts(self) -> Sequence[str]:
        """Return all glosses that are no test glosses, whatever the seed."""
        return self._split(test=False)[0]

    def _split(self, test: bool) -> tuple[list[str], Tensor]:
        texts, labels = read_glosses(self._file())
        apart = torch.zeros(len(labels), dtype=torch.bool)
        for index in range(len(self.class_names)):
            rows = (labels == index).nonzero().flatten()
            count = min(500, len(rows) // 3)
            apart[rows[(torch.arange(count) + 1) * len(rows) // max(count, 1) - 1]] = True
        chosen = (apart if test else ~apart).nonzero().flatten()
        return [texts[row] for row in chosen.tolist()], labels[chosen]

    def _file(self) -> Path:
        folders = [Path(self.root).expanduser(), DEBIAN_FOLDER]
        found = next((folder / "data.noun" for folder in folders if (folder / "data.noun").is_file()), None)
        if found is None:
            places = " or ".join(str(folder.absolute()) for folder in folders)
            raise ConfigurationError(
                f"--data.root {self.root}: no data.noun in {places}; "
                "run: apt-get install wordnet-base, or name the folder of WordNet 3.0's file"
            )
        return found


def _with_main_drawn(
    classes: Mapping[str, int | list[int | str]], seed: int | None
) -> Mapping[str, int | list[int | str]]:
    """Return the classes, those of ``main`` drawn among the large ones where only their number is given."""
    wanted = classes.get("main") if isinstance(classes, Mapping) else None
    if not isinstance(wanted, int) or isinstance(wanted, bool):
        return classes
    taken = {one for given in classes.values() if isinstance(given, list) for one in given}
    free = [name for name in LARGE if name not in taken and _NAMES.split().index(name) not in taken]
    if wanted > len(free):
        raise ConfigurationError(
            f"--data.classes: 'main' asks for {wanted} classes, but {len(free)} categories of at least 1,500 "
            "glosses are left; name the classes instead"
        )
    order = torch.randperm(len(free), generator=generator_for(resolve_seed(seed), "large classes"))
    return {**classes, "main": [free[place] for place in order[:wanted].tolist()]}


@cache
def read_glosses(path: Path) -> tuple[list[str], Tensor]:
    """Read the glosses of ``data.noun`` and the numbers of their categories, int64, from 0.

    Raises:
        ConfigurationError: If the file is damaged or of another kind.
    """
    found: dict[str, int] = {}
    try:
        for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), start=1):
            if line.startswith("  "):  # the licence
                continue
            head, mark, gloss = line.partition(" | ")
            category = int(head.split(" ", 2)[1]) - _FIRST
            if not mark or not 0 <= category < len(_NAMES.split()):
                raise ValueError(f"line {number} is no sense of a noun")
            found.setdefault(gloss.strip(), category)
    except (OSError, ValueError, IndexError) as error:
        raise ConfigurationError(f"--data.root: {path} is no data.noun of WordNet ({error})") from None
    return list(found), torch.tensor(list(found.values()), dtype=torch.int64)
