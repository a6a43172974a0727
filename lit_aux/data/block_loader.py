"""A loader for data that the module asks for itself."""

from collections.abc import Iterator

from lit_aux.data.resumable import ResumableLoader


class BlockLoader(ResumableLoader[int]):
    """Hands out the numbers of the blocks of an epoch; what a block trains on stays with the data module.

    A network whose whole training set is one tensor takes many steps on it at a time: such a block of steps
    is one batch to Lightning. Its place within an epoch is saved and restored like that of other loaders.

    Args:
        blocks: Blocks per epoch.
    """

    def __init__(self, blocks: int) -> None:
        super().__init__()
        self.blocks = blocks

    def __len__(self) -> int:
        return self.blocks

    def _batches(self, epoch: int, start: int) -> Iterator[int]:
        yield from range(start, self.blocks)
