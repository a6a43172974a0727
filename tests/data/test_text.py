"""Texts as tokens, their tokenizer, and the glosses of WordNet in files of its own format."""

import itertools
import re
from collections import Counter
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from toys import toy_trainer
from wordnet_files import write_noun

from lit_aux.data import TextDataModule, WordNetDataModule, wordnet
from lit_aux.data.text import SPECIAL, read_tokenizer, train_tokenizer
from lit_aux.errors import ConfigurationError
from lit_aux.modules import SingleTaskModule
from lit_aux.phases import PhaseSettings

WORDS = {"cat": "meow purr whisker claw", "dog": "bark wag bone leash", "ant": "hill queen tiny antenna"}


def texts_of(count: int) -> tuple[list[str], Tensor]:
    """Texts of three classes; each holds words of its class, in an order of its own."""
    found, labels = [], []
    for index, words in enumerate(WORDS.values()):
        parts = words.split()
        for number in range(count):
            found.append(" ".join([*parts[number % 4 :], *parts[: number % 4], f"the{number}"]))
            labels.append(index)
    return found, torch.tensor(labels)


class Animals(TextDataModule):
    """Forty texts of each class in the pool, ten in the test set."""

    @property
    def class_names(self) -> list[str]:
        return list(WORDS)

    def load_pool(self) -> tuple[Sequence[str], Tensor]:
        return texts_of(40)

    def load_test(self) -> tuple[Sequence[str], Tensor]:
        return texts_of(10)


def animals(**options: Any) -> Animals:
    chosen: dict[str, Any] = {"classes": {"main": 2}, "seed": 0, "vocab_size": 80, "max_length": 12}
    return Animals(**{**chosen, **options})


def test_a_batch_is_what_networks_of_transformers_take() -> None:
    data = animals(n_main=8, batch_size=8)
    data.setup("fit")
    x, y = next(iter(data.train_dataloader()))["main"]
    assert {name: (tuple(value.shape), value.dtype) for name, value in x.items()} == {
        "input_ids": ((8, 12), torch.int64),
        "attention_mask": ((8, 12), torch.int64),
    }
    assert y.dtype == torch.int64
    assert sorted(y.tolist()) == [0] * 4 + [1] * 4
    ids, mask = x["input_ids"], x["attention_mask"]
    assert bool((ids[:, 0] == SPECIAL.index("[CLS]")).all())
    assert torch.equal(mask == 0, ids == SPECIAL.index("[PAD]"))
    lengths = mask.sum(1)
    assert bool((ids[torch.arange(8), lengths - 1] == SPECIAL.index("[SEP]")).all())


def test_the_tokens_of_a_text_spell_it() -> None:
    data = animals(max_length=40, vocab_size=40)
    texts, _ = data.load_pool()
    ids = data.encode(texts)["input_ids"]
    vocabulary = {number: token for token, number in data.tokenizer.get_vocab().items()}
    for text, row in zip(texts, ids.tolist(), strict=True):
        spelled = "".join(vocabulary[n] for n in row if n >= len(SPECIAL))
        assert spelled == text.replace(" ", "")


def test_labels_are_those_of_the_texts() -> None:
    data = animals(classes={"main": ["dog", "ant"]}, max_length=30)
    data.setup("fit")
    data.setup("test")
    for split in ("train", "test"):
        samples = data.samples(split, "main")
        for row, label in zip(samples.inputs["input_ids"].tolist(), samples.labels.tolist(), strict=True):
            words = data.tokenizer.decode(row).replace(" ", "")
            assert ("bark" in words, "queen" in words) == (label == 0, label == 1)
    assert data.names_of_classes("main") == ["dog", "ant"]


def test_long_texts_are_cut_and_end_as_others_do() -> None:
    data = animals(max_length=4, vocab_size=30)
    row = data.encode(["meow purr whisker claw"])["input_ids"][0]
    assert len(row) == 4
    assert row[0] == SPECIAL.index("[CLS]")
    assert row[-1] == SPECIAL.index("[SEP]")


def test_more_texts_include_the_fewer() -> None:
    few, more = animals(n_main=6), animals(n_main=20)
    held = [{int(row) for row in data.samples("train", "main").rows} for data in (few, more)]
    assert held[0] < held[1]


def test_the_same_texts_give_the_same_tokenizer_and_merges_are_those_of_the_commonest_pairs() -> None:
    texts, _ = texts_of(40)
    first, second = (train_tokenizer(texts, 60) for _ in range(2))
    assert first.to_str() == second.to_str()
    # by hand: the first merge joins the pair of neighbours in words that is found most often
    pairs: Counter[tuple[str, str]] = Counter()
    for text in texts:
        for word in text.split():
            pairs.update(itertools.pairwise(word))
    most = max(pairs.values())
    merge = re.search(r'"merges":\s*\[\s*\[\s*"(.+?)",\s*"(.+?)"', first.to_str(pretty=True))
    assert merge is not None
    assert pairs[merge[1], merge[2]] == most


def test_a_tokenizer_of_ones_own(tmp_path: Path) -> None:
    own = train_tokenizer(texts_of(40)[0], 50)
    own.save(str(tmp_path / "tokenizer.json"))
    for source in (tmp_path, tmp_path / "tokenizer.json"):
        data = animals(tokenizer=str(source))
        assert data.vocab_size == own.get_vocab_size() == read_tokenizer(str(source)).get_vocab_size()
        assert torch.equal(
            data.encode(["bark"])["input_ids"], animals(vocab_size=50).encode(["bark"])["input_ids"]
        )


def test_another_tokenizer_is_another_run(tmp_path: Path) -> None:
    one, same, other = animals(), animals(), animals(vocab_size=40)
    assert one.fingerprint(["main"]) == same.fingerprint(["main"]) != other.fingerprint(["main"])
    assert one.options() == same.options() != other.options()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"vocab_size": 5}, "--data.vocab_size 5: must be at least 6"),
        ({"max_length": 2}, "--data.max_length 2"),
        ({"max_length": 2.5}, "--data.max_length 2.5"),
        ({"tokenizer": ""}, "--data.tokenizer"),
        ({"classes": {"main": 4}}, "--data.classes: 'main' asks for 4 classes"),
        ({"n_main": 1}, "--data.n_main 1"),
        ({"label_noise": {"aux": 0.5}}, "--data.label_noise"),
    ],
)
def test_options_that_cannot_be(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigurationError, match=re.escape(message)):
        animals(**options)


@pytest.mark.parametrize("content", [None, "{}", "no json"])
def test_a_file_that_is_no_tokenizer_is_named(tmp_path: Path, content: str | None) -> None:
    file = tmp_path / "tokenizer.json"
    if content is not None:
        file.write_text(content)
    with pytest.raises(
        ConfigurationError, match=r"--data\.tokenizer .*tokenizer\.json: is no tokenizer\.json"
    ) as told:
        animals(tokenizer=str(file)).setup("fit")
    assert "\n" not in str(told.value)


def test_a_name_is_looked_up_in_the_cache_where_there_is_no_network(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    with pytest.raises(ConfigurationError, match=r"--data\.tokenizer my-bert: is no tokenizer\.json"):
        read_tokenizer("my-bert")
    own, commit = train_tokenizer(TEXTS, 50), "0" * 40
    cached = tmp_path / "models--my-bert"
    (cached / "snapshots" / commit).mkdir(parents=True)
    (cached / "refs").mkdir()
    (cached / "refs" / "main").write_text(commit)
    own.save(str(cached / "snapshots" / commit / "tokenizer.json"))
    monkeypatch.setattr("huggingface_hub.file_download.HF_HUB_CACHE", str(tmp_path), raising=False)
    assert read_tokenizer("my-bert").to_str() == own.to_str()


def with_pool(pool: Any) -> Animals:
    class Own(Animals):
        def load_pool(self) -> Any:
            return pool

        def tokenizer_texts(self) -> Sequence[str]:
            return TEXTS

    return Own(classes={"main": 2}, vocab_size=60, seed=0)


TEXTS, LABELS = texts_of(4)
NAMED = [list(WORDS)[label] for label in LABELS.tolist()]


@pytest.mark.parametrize(
    "pool",
    [
        (tuple(TEXTS), LABELS.tolist()),
        (np.array(TEXTS), LABELS.numpy()),
        (TEXTS, NAMED),
        [TEXTS, torch.nn.functional.one_hot(LABELS)],
        ([*TEXTS, "of nothing"], [*NAMED, None]),
    ],
)
def test_texts_and_labels_come_as_their_owners_have_them(pool: Any) -> None:
    found, expected = (
        with_pool(pool).samples("train", "main"),
        with_pool((TEXTS, LABELS)).samples("train", "main"),
    )
    assert torch.equal(found.labels, expected.labels)
    assert torch.equal(found.inputs["input_ids"], expected.inputs["input_ids"])


@pytest.mark.parametrize(
    ("pool", "message"),
    [
        ((TEXTS[:-1], LABELS), "Own.load_pool: 11 texts and 12 labels; return one label for each text"),
        (([*TEXTS[:-1], None], LABELS), "Own.load_pool: the text 11 is None"),
        (([*TEXTS[:-1], 3.5], LABELS), "Own.load_pool: the text 11 is 3.5"),
        (("one text", [0]), "Own.load_pool: str in place of texts"),
        (([], []), "Own.load_pool: list in place of texts"),
        (TEXTS, "Own.load_pool: list; return a pair"),
        ((TEXTS, LABELS + 1), "labels from 1 to 3"),
        ((TEXTS, ["cow"] * 12), "label 'cow' is none of the class_names"),
        ((TEXTS, [-100] * 12), "no text with a label"),
    ],
)
def test_texts_that_cannot_be(pool: Any, message: str) -> None:
    class Own(Animals):
        def load_pool(self) -> Any:
            return pool

        def tokenizer_texts(self) -> Sequence[str]:
            return TEXTS

    with pytest.raises(ConfigurationError, match=re.escape(message)) as told:
        Own(classes={"main": 2}, vocab_size=60).setup("fit")
    assert "\n" not in str(told.value)


class MeanOfTokens(nn.Module):
    """Embeddings of the tokens that are there, and their mean."""

    num_features = 8

    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(120, 8)

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        there = attention_mask.unsqueeze(-1).float()
        mean: Tensor = (self.embedding(input_ids) * there).sum(1) / there.sum(1)
        return mean


def test_test_texts_of_a_run_are_checked_before_it_trains(tmp_path: Path) -> None:
    class Run(Animals):
        def load_test(self) -> Any:
            return TEXTS, LABELS[:5]

    torch.manual_seed(0)
    module = SingleTaskModule(MeanOfTokens(), {"main": 2}, settings=PhaseSettings(max_epochs=1))
    start = module.net.readout.weight.detach().clone()
    with pytest.raises(ConfigurationError, match=r"Run.load_test: 12 texts and 5 labels"):
        toy_trainer(tmp_path).fit(module, datamodule=Run(classes={"main": 2}))
    assert torch.equal(module.net.readout.weight, start)


def test_words_of_a_class_are_learned(tmp_path: Path) -> None:
    torch.manual_seed(0)
    settings = PhaseSettings(optimizer=partial(torch.optim.Adam, lr=0.1), max_epochs=5)
    trainer = toy_trainer(tmp_path)
    trainer.fit(SingleTaskModule(MeanOfTokens(), {"main": 2}, settings=settings), datamodule=animals())
    assert trainer.phase_results[0].metrics["main/test_accuracy"] == 1.0


# WordNet


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    write_noun(tmp_path)
    return tmp_path


def glosses(folder: Path, **options: Any) -> WordNetDataModule:
    return WordNetDataModule(root=str(folder), vocab_size=120, **options)


def test_glosses_are_read_with_their_categories_and_once(folder: Path) -> None:
    texts, labels = wordnet.read_glosses(folder / "data.noun")
    names = wordnet._NAMES.split()
    assert len(texts) == len(set(texts)) == 15 * 60 + 11 * 9
    assert all(
        f"a kind of {names[label]} " in text for text, label in zip(texts, labels.tolist(), strict=True)
    )
    assert texts[0].endswith('"an example | of tops"')


@pytest.mark.parametrize("seed", range(4))
def test_the_protocol_of_the_published_experiments(folder: Path, seed: int) -> None:
    data = glosses(folder, seed=seed, n_main=10, n_val=0, most=30)
    data.prepare_data()
    data.setup("fit")
    data.setup("test")
    main, aux = data.names_of_classes("main"), data.names_of_classes("aux")
    assert set(main) <= set(wordnet.LARGE)
    assert sorted(main + aux) == sorted(wordnet._NAMES.split())
    assert data.num_classes == {"main": 2, "aux": 24}
    assert data.samples("train", "main").labels.bincount().tolist() == [5, 5]
    assert data.samples("test", "main").labels.bincount().tolist() == [20, 20]  # a third of sixty
    counts = data.samples("train", "aux").labels.bincount().tolist()
    assert counts == [30 if name in wordnet.LARGE else 6 for name in aux]
    held = {
        part: set(data.tokenizer.decode_batch(data.samples(part, "aux").inputs["input_ids"].tolist()))
        for part in ("train", "test")
    }
    assert held["train"]
    assert held["test"]
    assert not held["train"] & held["test"]


def test_the_seed_draws_the_main_classes_and_the_tokenizer_stays(folder: Path) -> None:
    drawn = [glosses(folder, seed=seed) for seed in range(6)]
    assert len({tuple(data.names_of_classes("main")) for data in drawn}) > 3
    assert len({data.tokenizer.to_str() for data in drawn[:2]}) == 1


def test_no_test_gloss_is_seen_by_the_tokenizer(folder: Path) -> None:
    data = glosses(folder)
    assert not set(data.tokenizer_texts()) & set(data.load_test()[0])
    assert len(data.tokenizer_texts()) + len(data.load_test()[0]) == 15 * 60 + 11 * 9


def test_the_main_classes_may_be_named(folder: Path) -> None:
    data = glosses(folder, classes={"main": ["tops", "shape"], "aux": 3})
    assert data.names_of_classes("main") == ["tops", "shape"]
    other = glosses(folder, classes={"main": 13, "aux": ["animal", 3]})
    assert not {"animal", "artifact"} & set(other.names_of_classes("main"))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"classes": {"main": 16}}, "--data.classes: 'main' asks for 16 classes, but 15 categories"),
        ({"most": 0}, "--data.most 0: must be at least 1"),
        ({"root": ""}, "--data.root"),
        ({"classes": {"main": ["animal", "cat"]}}, "--data.classes"),
    ],
)
def test_options_of_wordnet_that_cannot_be(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigurationError, match=re.escape(message)):
        WordNetDataModule(**options)


def test_a_missing_file_says_where_to_get_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(wordnet, "DEBIAN_FOLDER", tmp_path / "none")
    with pytest.raises(ConfigurationError, match="apt-get install wordnet-base"):
        WordNetDataModule(root=str(tmp_path)).prepare_data()


@pytest.mark.parametrize("line", ["no sense", "00001740 29 v 01 run | a verb", "00001740 03 n 01 entity"])
def test_a_file_of_another_kind_is_refused(tmp_path: Path, line: str) -> None:
    (tmp_path / "data.noun").write_text(line + "\n")
    with pytest.raises(ConfigurationError, match=r"data\.noun is no data\.noun of WordNet"):
        glosses(tmp_path).setup("fit")


def test_the_counts_of_the_real_file() -> None:
    file = wordnet.DEBIAN_FOLDER / "data.noun"
    if not file.is_file():
        pytest.skip("WordNet is not installed: apt-get install wordnet-base")
    texts, labels = wordnet.read_glosses(file)
    assert len(texts) == 81510
    counts = dict(zip(wordnet._NAMES.split(), labels.bincount().tolist(), strict=True))
    assert {name for name, count in counts.items() if count >= 1500} == set(wordnet.LARGE)
