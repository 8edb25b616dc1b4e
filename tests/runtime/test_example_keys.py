"""Identification of examples: the same number in every epoch, however they are batched."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from chat_tokenizers import chat_tokenizer
from datasets import Dataset, disable_progress_bars
from transformers import DataCollatorForSeq2Seq, DataCollatorWithFlattening

from hf_exposure.runtime.example_keys import KeyKind, content_key, example_keys

disable_progress_bars()
ROWS = [np.random.default_rng(n).integers(5, 90, 3 + n).tolist() for n in range(12)]


def arrays(batch: dict) -> dict[str, np.ndarray]:
    return {name: value.numpy() for name, value in batch.items() if hasattr(value, "numpy")}


@pytest.mark.parametrize("side", ["left", "right"])
def test_padding_changes_no_key(side: str) -> None:
    tokenizer = chat_tokenizer()
    tokenizer.padding_side = side
    collate = DataCollatorForSeq2Seq(tokenizer)
    found = {}
    for first in (0, 3, 5):
        rows = ROWS[first : first + 6]
        batch = arrays(collate([{"input_ids": row, "labels": row} for row in rows]))
        keys = example_keys(batch)
        assert keys.kind is KeyKind.CONTENT and keys.keys_D.tolist() == [content_key(row) for row in rows]
        found |= dict(zip(range(first, first + 6), keys.keys_D.tolist(), strict=True))
        # Without a mask, the pad token must be named.
        del batch["attention_mask"]
        assert example_keys(batch, pad_token_id=0).keys_D.tolist() == keys.keys_D.tolist()
    assert len(set(found.values())) == len(found) == 11


def test_documents_of_a_flattened_row_have_their_own_keys() -> None:
    batch = arrays(DataCollatorWithFlattening(return_tensors="pt")([{"input_ids": row} for row in ROWS]))
    assert len(batch["input_ids"]) == 1
    assert example_keys(batch).keys_D.tolist() == [content_key(row) for row in ROWS]


def test_trl_packing_keeps_tokens_alone_and_so_keys(tmp_path: Path) -> None:
    trl = pytest.importorskip("trl")
    from trl.trainer.sft_trainer import DataCollatorForLanguageModeling

    data = Dataset.from_list([{"input_ids": row, "labels": row, "index": n} for n, row in enumerate(ROWS)])
    packed = trl.pack_dataset(data.select_columns(["input_ids", "labels"]), 30, "bfd")
    assert set(packed.column_names) == {"input_ids", "labels", "seq_lengths"}
    collate = DataCollatorForLanguageModeling(pad_token_id=0, padding_free=True)
    batch = arrays(collate([packed[row] for row in range(len(packed))]))
    assert sorted(example_keys(batch).keys_D.tolist()) == sorted(content_key(row) for row in ROWS)


def test_an_index_that_survives_is_the_key() -> None:
    batch = {"input_ids": np.array([[5, 6], [7, 8]]), "index": np.array([70, 2**40]), "row": np.array([1, 0])}
    assert example_keys(batch).keys_D.tolist() == [70, 2**40] and example_keys(batch).kind is KeyKind.INDEX
    assert example_keys(batch, "row").keys_D.tolist() == [1, 0]
    # A column without a number for each row is not an index.
    assert example_keys({**batch, "index": np.array([[1.0], [2.0]])}).kind is KeyKind.CONTENT


def test_noise_and_masks_in_the_input_are_the_same_example() -> None:
    ids, labels = np.array([[5, 99, 7]]), np.array([[-100, 6, -100]])
    assert example_keys({"input_ids": ids, "labels": labels}).keys_D.tolist() == [content_key([5, 6, 7])]
    of_labels = example_keys({"input_ids": ids, "labels": np.array([[5, 6, -100]])}, labels_are_text=True)
    assert of_labels.keys_D.tolist() == [content_key([5, 6])]


def test_a_key_is_the_same_on_every_machine() -> None:
    # Computed by hashlib in another process: blake2b of three little-endian 64-bit numbers, 8 bytes.
    assert content_key([1, 2, 300]) == int.from_bytes(bytes.fromhex("3e10280ef75b4228"), "little")
    with pytest.raises(ValueError, match="no rows of tokens"):
        example_keys({"pixels": np.zeros((2, 3))})
