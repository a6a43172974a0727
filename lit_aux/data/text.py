"""What all data modules of texts have in common: a tokenizer, and texts as tokens with their mask."""

from abc import abstractmethod
from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from lit_aux.data import tasks as of_tasks
from lit_aux.data.arrays import checked_labels, pair_of
from lit_aux.data.classes import ClassesDataModule
from lit_aux.data.loader import unchanged
from lit_aux.data.multi_task_loader import Order
from lit_aux.data.own_arrays import ArraySamples
from lit_aux.data.samples import numbered_within
from lit_aux.errors import ConfigurationError, first_line, shortened
from lit_aux.hub import hub_answers
from lit_aux.storage import check_given

SPECIAL = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")
"""The first tokens of a tokenizer that is trained here, with the numbers 0 to 4."""


class TextDataModule(ClassesDataModule[ArraySamples]):
    """Texts divided into classification tasks.

    A batch is ``{task: (x, y)}`` with x ``{"input_ids": int64 (B, max_length), "attention_mask": int64 (B,
    max_length)}`` as networks of ``transformers`` take it, and y int64 (B,), the class's number within its
    task. Everything that is drawn depends on the seed alone, and each task's draw on that task alone.

    Subclasses name the classes and load the texts. Needs ``tokenizers`` (the extra ``text``).

    Args:
        classes: For each task its number of classes, or a list of class indices or names.
            Listed classes are taken as they are, the others are permuted by the seed.
        n_main: Training texts of the task ``main``; all of them by default.
        n_aux: Training texts of the task ``aux``; all of them by default.
        n: Training texts of any task, by name. More texts of the same seed include the fewer.
        n_val: Validation texts of each task, taken from the training pool after the training texts were. By
            default what is left, 1000 at most, and so none where a task trains on everything; 0 for none.
        n_test: Test texts of each task at most; all by default.
        batch_size: Training texts of a task per step and process.
        eval_batch_size: The same in validation, test and prediction.
        seed: Of the classes, the draws and the order of batches; by default that of ``seed_everything``, else
            0.
        balanced: Draw classes in turn, so that few texts still hold every class.
        balance_batches: Draw training batches such that every class of a task is equally likely, with
            replacement; true for all tasks, or the names of some.
        label_noise: Share of wrong training labels of a task, by name; the others stay right.
        tokenizer: A tokenizer's ``tokenizer.json``, the folder that holds it, or the name of a model on the
            hub. By default a byte-pair tokenizer is trained on the texts of :meth:`tokenizer_texts`.
        vocab_size: Tokens of a tokenizer that is trained here.
        max_length: Tokens of a text, with those that mark its ends; longer texts are cut.

    Attributes:
        max_length: As given.

    Raises:
        ConfigurationError: For options that cannot be satisfied: here where no data are needed to know it,
            else in ``setup``.
    """

    items = "texts"

    def __init__(
        self,
        classes: Mapping[str, int | list[int | str]] = {"main": 2, "aux": 8},
        n_main: int | None = None,
        n_aux: int | None = None,
        n: Mapping[str, int] | None = None,
        n_val: int | None = None,
        n_test: int | None = None,
        batch_size: int = 128,
        eval_batch_size: int = 512,
        seed: int | None = None,
        balanced: bool = True,
        label_noise: Mapping[str, float] | None = None,
        tokenizer: str | None = None,
        vocab_size: int = 8192,
        max_length: int = 32,
        balance_batches: bool | list[str] | None = None,
    ) -> None:
        of_tasks.at_least("--data.vocab_size", vocab_size, len(SPECIAL) + 1)
        of_tasks.at_least("--data.max_length", max_length, 3)
        if tokenizer is not None:
            check_given("--data.tokenizer", tokenizer)
        super().__init__(
            classes=classes,
            n_main=n_main,
            n_aux=n_aux,
            n=n,
            n_val=n_val,
            n_test=n_test,
            batch_size=batch_size,
            eval_batch_size=eval_batch_size,
            seed=seed,
            balanced=balanced,
            label_noise=label_noise,
            balance_batches=balance_batches,
        )
        self.tokenizer_source, self._tokens, self.max_length = tokenizer, vocab_size, max_length

    # What subclasses say

    @abstractmethod
    def load_pool(self) -> tuple[Sequence[str], Any]:
        """Return the texts that may train or validate, and their classes: numbers or names, one a text."""

    @abstractmethod
    def load_test(self) -> tuple[Sequence[str], Any]:
        """Return the test texts and their classes."""

    def tokenizer_texts(self) -> Sequence[str]:
        """Return what a tokenizer is trained on: by default the pool."""
        return self.load_pool()[0]

    # What there is

    @cached_property
    def tokenizer(self) -> Any:
        """The tokenizer, a ``tokenizers.Tokenizer``."""
        if self.tokenizer_source is None:
            return train_tokenizer(self.tokenizer_texts(), self._tokens)
        return read_tokenizer(self.tokenizer_source)

    @property
    def vocab_size(self) -> int:
        """Number of tokens that the tokenizer knows; loads it where it is not a new one."""
        return int(self.tokenizer.get_vocab_size())

    def encode(self, texts: Sequence[str]) -> dict[str, Tensor]:
        """Return the tokens of texts, ``{"input_ids", "attention_mask"}``, each int64 (N, max_length)."""
        tokenizer = self.tokenizer
        padding = tokenizer.padding or {}
        pad = {name: padding[name] for name in ("pad_id", "pad_token", "direction") if name in padding}
        if not pad and (
            known := next((t for t in ("[PAD]", "<pad>") if tokenizer.token_to_id(t) is not None), None)
        ):
            pad = {"pad_id": tokenizer.token_to_id(known), "pad_token": known}
        tokenizer.enable_truncation(self.max_length)
        tokenizer.enable_padding(length=self.max_length, **pad)
        found = tokenizer.encode_batch(list(texts))
        return {
            "input_ids": torch.tensor([one.ids for one in found]),
            "attention_mask": torch.tensor([one.attention_mask for one in found]),
        }

    def fingerprint(self, tasks: Sequence[str], order: Order = "interleaved") -> str:
        """Return a hash of all that training on ``tasks`` depends on: tokens, labels and batches.

        Other tasks, and how many texts they have, do not matter.
        """
        return self._training_digest(tasks, order)

    def options(self) -> dict[str, Any]:
        """Return the options that are kept under other names than they are given under."""
        told = {"tokenizer": self.tokenizer_source, "vocab_size": self._tokens}
        return {**super().options(), **told}

    # Beneath

    def _transform(self, training: bool) -> Any:
        return unchanged

    def _loaded(self, split: str) -> tuple[dict[str, Tensor], Tensor]:
        """Return the tokens and labels of a split."""
        source = f"{type(self).__name__}.load_{split}"
        given, marks = pair_of(getattr(self, f"load_{split}")(), source, "text")
        texts = _checked_texts(given, source)
        labels, kept = checked_labels(marks, len(texts), self.class_names, source, "text")
        return self.encode(texts if kept is None else [texts[row] for row in kept.tolist()]), labels

    def _pick(
        self, items: dict[str, Tensor], labels: Tensor, chosen: Tensor, classes: list[int]
    ) -> ArraySamples:
        inputs = {name: values[chosen] for name, values in items.items()}
        return ArraySamples(inputs, numbered_within(labels[chosen], classes), chosen)


def _checked_texts(given: Any, source: str) -> list[str]:
    """Return texts as a list; anything with one in each place is taken, a column of a data frame say."""
    texts = [] if isinstance(given, str) or not hasattr(given, "__iter__") else list(given)
    if not texts:
        raise ConfigurationError(f"{source}: {type(given).__name__} in place of texts; return a list of them")
    odd = next((place for place, text in enumerate(texts) if not isinstance(text, str)), None)
    if odd is not None:
        raise ConfigurationError(f"{source}: the text {odd} is {texts[odd]!r}; leave it out, or give a str")
    return texts


def _padding(tokenizer: Any) -> dict[str, Any]:
    """Return how a tokenizer pads: as it says, else with its token for that, if it has one."""
    if told := tokenizer.padding:
        return {name: told[name] for name in ("pad_id", "pad_token", "direction")}
    known = {token: tokenizer.token_to_id(token) for token in ("[PAD]", "<pad>")}
    return next(({"pad_id": n, "pad_token": token} for token, n in known.items() if n is not None), {})


def train_tokenizer(texts: Sequence[str], vocab_size: int) -> Any:
    """Train a byte-pair tokenizer (Sennrich et al. 2016, arXiv:1508.07909) of lower-case words.

    Texts begin with ``[CLS]`` and end with ``[SEP]``; padding is the token 0. The same texts give the same
    tokenizer.

    Args:
        texts: What it learns from.
        vocab_size: Number of its tokens at most, with the special ones.

    Returns:
        A ``tokenizers.Tokenizer``.
    """
    tokenizers = _library()
    tokenizer = tokenizers.Tokenizer(tokenizers.models.BPE(unk_token="[UNK]"))
    normal = tokenizers.normalizers
    tokenizer.normalizer = normal.Sequence([normal.NFKC(), normal.Lowercase()])
    tokenizer.pre_tokenizer = tokenizers.pre_tokenizers.BertPreTokenizer()
    trainer = tokenizers.trainers.BpeTrainer(
        vocab_size=vocab_size, special_tokens=list(SPECIAL), show_progress=False
    )
    tokenizer.train_from_iterator(texts, trainer)
    tokenizer.post_processor = tokenizers.processors.TemplateProcessing(
        single="[CLS] $A [SEP]",
        pair="[CLS] $A [SEP] $B [SEP]",
        special_tokens=[(name, SPECIAL.index(name)) for name in ("[CLS]", "[SEP]")],
    )
    return tokenizer


def read_tokenizer(source: str) -> Any:
    """Read a tokenizer: ``tokenizer.json``, a folder with it, or a model's on the hub.

    Returns:
        A ``tokenizers.Tokenizer``.

    Raises:
        ConfigurationError: If there is none.
    """
    tokenizers = _library()
    path = Path(source).expanduser()
    try:
        if not path.exists() and path.suffix != ".json":
            from huggingface_hub import hf_hub_download

            path = Path(hf_hub_download(source, "tokenizer.json", local_files_only=not hub_answers()))
        return tokenizers.Tokenizer.from_file(str(path / "tokenizer.json" if path.is_dir() else path))
    except Exception as error:  # the library raises nothing more special
        raise ConfigurationError(
            f"--data.tokenizer {source}: is no tokenizer.json, no folder with one, and no model on the hub "
            f"({shortened(first_line(error), 120)})"
        ) from error


def _library() -> Any:
    try:
        import tokenizers
    except ImportError as error:
        raise ConfigurationError(
            "--data: texts need the package tokenizers; install it with pip install 'lit-aux[text]'"
        ) from error
    return tokenizers
