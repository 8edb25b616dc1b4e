"""Noise: it changes exactly the given rows, regardless of how they are mapped, and has the promised distribution."""

from __future__ import annotations

import pickle
from collections import Counter
from typing import Any

import numpy as np
import pytest
from datasets import ClassLabel, Dataset, Features, List, Value
from datasets.fingerprint import Hasher
from scipy import stats
from torch.utils.data import DataLoader
from transformers import ByT5Tokenizer

from hf_exposure import NoiseInjector
from hf_exposure.data import input_moments
from hf_exposure.errors import InputError

TOKENIZER = ByT5Tokenizer()


def labeled(rows: int, classes: int = 10) -> Dataset:
    features = Features({"label": ClassLabel(num_classes=classes), "x": Value("float32")})
    return Dataset.from_dict({"label": [n * 7 % classes for n in range(rows)], "x": [0.5] * rows}, features=features)


@pytest.mark.parametrize("rows", [1, 7, 100, 1001])
@pytest.mark.parametrize("share", [0.0, 0.05, 0.29, 0.5, 1.0])
def test_exactly_the_promised_number_is_corrupted(rows: int, share: float) -> None:
    noise = NoiseInjector(num_rows=rows, labels=share, label_column="label", num_labels=10, seed=3)
    assert noise.corrupted.shape == noise.changed.shape == (rows,) and noise.corrupted.dtype == bool
    assert noise.corrupted.sum() == round(share * rows)
    out = labeled(rows).map(noise, batched=True, with_indices=True)
    assert (np.array(out["label"]) != np.array(labeled(rows)["label"])).tolist() == noise.changed.tolist()
    assert not (noise.changed & ~noise.corrupted).any() and out.features == labeled(rows).features


def test_the_way_it_is_mapped_changes_nothing() -> None:
    data, noise = labeled(300), NoiseInjector(num_rows=300, labels=0.4, num_labels=10, seed=1)
    expected = data.map(noise, batched=True, with_indices=True)["label"][:]
    for options in ({"batched": True, "batch_size": 7}, {}, {"num_proc": 2}, {"num_proc": 2, "batched": True}):
        assert data.map(noise, with_indices=True, **options)["label"][:] == expected
    assert data.with_format("arrow").map(noise, batched=True, with_indices=True).with_format(None)["label"][:] == (
        expected
    )
    assert data.with_format("numpy").map(noise, batched=True, with_indices=True)["label"][:].tolist() == expected
    stream = data.to_iterable_dataset(num_shards=3).map(noise, with_indices=True)
    assert [row["label"] for row in stream] == expected
    # A second process or a second run knows this without mapping anything.
    assert pickle.loads(pickle.dumps(noise)).changed.tolist() == noise.changed.tolist()
    fresh = NoiseInjector(num_rows=300, labels=0.4, num_labels=10, seed=1)
    assert Hasher.hash(fresh) == Hasher.hash(noise) != Hasher.hash(NoiseInjector(300, 0.4, num_labels=10, seed=2))


def test_several_workers_of_a_stream_are_refused_without_an_index() -> None:
    data = labeled(40).add_column("row", list(range(40)))
    expected = data.map(NoiseInjector(40, 0.5, num_labels=10), with_indices=True)["label"][:]
    stream = data.to_iterable_dataset(num_shards=4)
    counted = stream.map(NoiseInjector(40, 0.5, num_labels=10), with_indices=True)
    with pytest.raises(RuntimeError, match="InputError: indices: .* index_column"):
        list(DataLoader(counted, num_workers=2, batch_size=None))
    indexed = stream.map(NoiseInjector(40, 0.5, num_labels=10, index_column="row"))
    rows = list(DataLoader(indexed, num_workers=2, batch_size=None))
    assert [row["label"] for row in sorted(rows, key=lambda row: row["row"])] == expected


def test_labels_are_uniform_over_all_classes_whatever_they_were() -> None:
    rows = 40_000
    old = np.arange(rows) % 4
    noise = NoiseInjector(num_rows=rows, labels=0.5, num_labels=4, seed=5)
    new = np.array(noise({"label": old.tolist()}, list(range(rows)))["label"])
    for label in range(4):
        counts = list(Counter(new[noise.corrupted & (old == label)].tolist()).values())
        assert len(counts) == 4 and stats.chisquare(counts).pvalue > 1e-4
    assert noise.changed.sum() == pytest.approx(0.75 * rows / 2, rel=0.02)
    # Noise in labels and noise in inputs are independent: each hits the rows of the other as often as the other rows.
    both = NoiseInjector(rows, 0.5, num_labels=4, inputs=0.5, input_column="x", mean=0.0, std=1.0)
    assert (both.corrupted_labels & both.corrupted_inputs).mean() == pytest.approx(0.25, abs=0.01)


def test_gaussian_inputs_have_the_moments_of_the_data() -> None:
    generator = np.random.default_rng(0)
    values = generator.gamma(2.0, size=(200, 5, 6)).astype(np.float32)
    data = Dataset.from_dict({"x": values.tolist()}, features=Features({"x": List(List(Value("float32")))}))
    mean, std = input_moments(data, "x")
    assert (mean, std) == pytest.approx((values.mean(dtype=np.float64), values.std(dtype=np.float64)))
    noise = NoiseInjector(num_rows=200, inputs=0.5, input_column="x", mean=mean, std=std)
    out = np.array(data.map(noise, with_indices=True)["x"][:])
    assert ((out != values).any(axis=(1, 2)) == noise.changed).all() and noise.changed.sum() == 100
    replaced = out[noise.changed]
    assert (replaced.mean(), replaced.std()) == pytest.approx((mean, std), rel=0.05)
    assert stats.kstest((replaced.ravel() - mean) / std, "norm").pvalue > 1e-4
    assert np.array_equal(data.map(noise, batched=True, batch_size=3, with_indices=True)["x"][:], out)


def test_pixels_stay_pixels() -> None:
    from PIL import Image

    pixels = np.random.default_rng(1).integers(0, 256, size=(6, 8, 8, 3)).astype(np.uint8)
    images = [Image.fromarray(one) for one in pixels]
    mean, std = input_moments([{"image": one} for one in images], "image")
    noise = NoiseInjector(num_rows=6, inputs=0.5, input_column="image", mean=mean, std=std)
    out = Dataset.from_dict({"image": images}).map(noise, with_indices=True)["image"][:]
    for number, (old, new) in enumerate(zip(images, out, strict=True)):
        assert new.mode == "RGB" and new.size == (8, 8)
        assert (np.asarray(old) != np.asarray(new)).any() == noise.changed[number]
    gray = noise({"image": [Image.fromarray(one[:, :, 0]) for one in pixels]}, list(range(6)))["image"]
    assert {one.mode for one in gray} == {"L"}
    # Lists in a column of bytes are clipped to the caller's range.
    listed = Dataset.from_dict(
        {"image": pixels.reshape(6, -1).tolist()}, features=Features({"image": List(Value("uint8"))})
    )
    noise = NoiseInjector(6, inputs=1.0, input_column="image", mean=128, std=200, input_range=(0, 255))
    values = np.array(listed.map(noise, with_indices=True)["image"][:])
    assert values.min() == 0 and values.max() == 255


def test_tokens_are_replaced_or_shuffled_within_a_row() -> None:
    texts = [f"the number {n} is not {n + 1}" for n in range(30)]
    encoded = Dataset.from_dict(
        dict(TOKENIZER(texts)) | {"labels": [[-100] + row[1:] for row in TOKENIZER(texts).input_ids]}
    )
    for kind in ("random_tokens", "shuffled_tokens"):
        noise = NoiseInjector(30, inputs=0.5, input_column="input_ids", input_noise=kind, tokenizer=TOKENIZER)
        out = encoded.map(noise, batched=True, with_indices=True)
        for number in range(30):
            old, new = encoded[number]["input_ids"], out[number]["input_ids"]
            assert (old != new) == noise.changed[number] and len(old) == len(new)
            assert new[-1] == TOKENIZER.eos_token_id and TOKENIZER.eos_token_id not in new[:-1]
            assert out[number]["labels"] == [-100, *new[1:]]
            if kind == "shuffled_tokens":
                assert sorted(old) == sorted(new)
        noise = NoiseInjector(30, inputs=0.5, input_column="text", input_noise=kind, tokenizer=TOKENIZER)
        changed = noise({"text": texts}, list(range(30)))["text"]
        assert [old != new for old, new in zip(texts, changed, strict=True)] == noise.changed.tolist()
        if kind == "shuffled_tokens":
            assert all(sorted(o.split()) == sorted(n.split()) for o, n in zip(texts, changed, strict=True))


def test_padding_stays() -> None:
    rows = {"input_ids": [[5, 6, 7, 0, 0]], "attention_mask": [[1, 1, 1, 0, 0]]}
    noise = NoiseInjector(1, inputs=1.0, input_column="input_ids", input_noise="shuffled_tokens")
    (ids,) = noise(rows, [0])["input_ids"]
    assert ids[3:] == [0, 0] and sorted(ids[:3]) == [5, 6, 7] and ids != [5, 6, 7, 0, 0]


def test_one_class_for_each_example() -> None:
    noise = NoiseInjector(num_rows=20, one_class_per_example=True)
    data = labeled(20).cast_column("label", Value("int64"))
    assert data.map(noise, batched=True, batch_size=6, with_indices=True)["label"][:] == list(range(20))
    assert noise.num_labels == 20 and not noise.changed.any()
    with pytest.raises(InputError, match="one_class_per_example"):
        NoiseInjector(num_rows=20, one_class_per_example=True, labels=0.5, num_labels=10)


def test_its_arguments_are_in_the_record() -> None:
    noise = NoiseInjector(num_rows=10, labels=0.4, num_labels=3, seed=8)
    record = noise.to_dict()
    assert record["seed"] == 8 and record["corrupted"] == 4 and record["changed"] == noise.changed.sum()
    again = NoiseInjector(10, record["labels"], num_labels=record["num_labels"], seed=record["seed"])
    assert again.changed.tolist() == noise.changed.tolist()


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        ({"num_rows": 0}, "num_rows"),
        ({"labels": 1.5, "num_labels": 3}, "labels"),
        ({"labels": True, "num_labels": 3}, "labels"),
        ({"labels": 0.5}, "num_labels"),
        ({"labels": 0.5, "num_labels": 1}, "num_labels"),
        ({"labels": 0.5, "num_labels": 3, "seed": -1}, "seed"),
        ({"inputs": 0.5}, "input_column"),
        ({"inputs": 0.5, "input_column": "x"}, "mean"),
        ({"inputs": 0.5, "input_column": "x", "mean": 0.0, "std": -1.0}, "std"),
        ({"inputs": 0.5, "input_column": "x", "mean": 0.0, "std": 1.0, "input_range": (1, 0)}, "input_range"),
        ({"inputs": 0.5, "input_column": "x", "input_noise": "random_tokens"}, "tokenizer"),
        ({"inputs": 0.5, "input_column": "x", "input_noise": "salt"}, "input_noise"),
    ],
)
def test_bad_arguments_are_refused(arguments: dict[str, Any], named: str) -> None:
    with pytest.raises(InputError) as raised:
        NoiseInjector(**{"num_rows": 10, **arguments})
    assert raised.value.argument == named


@pytest.mark.parametrize(
    ("rows", "indices", "message"),
    [
        ({"label": [0, 1]}, None, "with_indices=True"),
        ({"label": [0, 1]}, [3, 4], "which has a row 4"),
        ({"label": [0, -1]}, [0, 1], "-1 in row 1"),
        ({"label": [0, 3]}, [0, 1], "3 in row 1"),
        ({"label": ["cat", "dog"]}, [0, 1], "class_encode_column"),
        ({"target": [0, 1]}, [0, 1], "label_column: must be one of target"),
    ],
)
def test_unexpected_rows_are_refused(rows: Any, indices: Any, message: str) -> None:
    with pytest.raises(InputError, match=message):
        NoiseInjector(num_rows=4, labels=1.0, num_labels=3)(rows, indices)


def test_rows_that_no_shuffling_changes_are_named_and_not_quoted() -> None:
    noise = NoiseInjector(2, inputs=1.0, input_column="text", input_noise="shuffled_tokens")
    with pytest.raises(InputError, match="fewer in row 1") as raised:
        noise({"text": ["one two", "secret secret"]}, [0, 1])
    assert "secret" not in str(raised.value)
