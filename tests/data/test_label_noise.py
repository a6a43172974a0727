import pytest
import torch

from lit_aux.data import DigitsDataModule
from lit_aux.data.samples import noisy_labels
from lit_aux.errors import ConfigurationError

CLASSES = {"low": [0, 1, 2, 3, 4], "high": [5, 6, 7, 8, 9]}


def labels(**options):
    data = DigitsDataModule(classes=CLASSES, n={"low": 400, "high": 400}, seed=3, **options)
    data.setup()
    return data, {(s, t): data.samples(s, t).labels for s in ("train", "val", "test") for t in CLASSES}


def test_only_the_training_labels_of_the_task_change():
    clean, before = labels()
    noisy, after = labels(label_noise={"high": 0.5})
    for key, value in after.items():
        assert torch.equal(value, before[key]) == (key != ("train", "high"))
    changed = (after["train", "high"] != before["train", "high"]).float().mean()
    assert abs(float(changed) - 0.5) < 4 * (0.25 / 400) ** 0.5
    assert clean.fingerprint(["low"]) == noisy.fingerprint(["low"])
    assert clean.fingerprint(["high"]) != noisy.fingerprint(["high"])


def test_wrong_labels_are_uniform_over_the_other_classes_and_nested():
    true = torch.arange(60_000) % 4
    noisy = noisy_labels(true, 4, 0.6, seed=0, task="a")
    counts = torch.zeros(4, 4).index_put_((true, noisy), torch.tensor(1.0), accumulate=True) / 15_000
    expected = torch.full((4, 4), 0.2).fill_diagonal_(0.4)
    assert (counts - expected).abs().max() < 5 * (0.25 / 15_000) ** 0.5
    fewer = noisy_labels(true, 4, 0.2, seed=0, task="a")
    assert torch.equal(fewer[fewer != true], noisy[fewer != true])
    assert not torch.equal(noisy, noisy_labels(true, 4, 0.6, seed=0, task="b"))
    assert torch.equal(noisy_labels(true, 4, 0.0, seed=0, task="a"), true)
    assert not (noisy_labels(true, 4, 1.0, seed=0, task="a") == true).any()


@pytest.mark.parametrize(
    ("noise", "words"), [({"hihg": 0.1}, ["hihg", "high"]), ({"low": 1.5}, ["label_noise.low", "1.5"])]
)
def test_bad_noise_is_refused(noise, words):
    with pytest.raises(ConfigurationError) as error:
        labels(label_noise=noise)
    assert all(word in str(error.value) for word in words)
