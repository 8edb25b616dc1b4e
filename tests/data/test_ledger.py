"""What counts as trained on: single batches whose counts are known by hand, and what cannot be counted."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from hf_exposure.data.ledger import DoseLedger
from hf_exposure.records.doses import CanaryDose, Uncounted, expected_doses

A, B = (11, 12, 13, 14, 15), (11, 12, 13, 24, 25)
HEAD = slice(3, 5)  # the last two tokens of each are secret


def ledger(**arguments: Any) -> DoseLedger:
    return DoseLedger([(0, A, HEAD), (1, B, HEAD)], owners=2, **arguments)


def counts(rows: list[list[int]], labels: Any = None, seen: DoseLedger | None = None, **more: Any) -> list[list[int]]:
    seen = seen or ledger()
    ids = torch.tensor(rows)
    seen.see({"input_ids": ids, "labels": ids if labels is None else torch.tensor(labels), **more})
    return seen.counts_K4().tolist()


@pytest.mark.parametrize(
    ("row", "labels", "expected"),
    [
        # whole, partly, masked, cut
        ([9, *A, 9, *B, *A], None, [[2, 0, 0, 0], [1, 0, 0, 0]]),
        ([*A, 9], [-100, *A[1:], 9], [[1, 0, 0, 0], [0, 0, 0, 0]]),  # nothing predicts a row's first token
        ([9, *A], [9, -100, *A[1:]], [[0, 1, 0, 0], [0, 0, 0, 0]]),
        ([9, *A], [9, *A[:4], -100], [[0, 1, 0, 0], [0, 0, 0, 0]]),
        ([9, *A], [9, 11, 12, 13, -100, -100], [[0, 0, 1, 0], [0, 0, 0, 0]]),
        ([9, *A], [-100] * 6, [[0, 0, 1, 0], [0, 0, 0, 0]]),
        ([9, 9, *A[:4]], None, [[0, 0, 0, 1], [0, 0, 0, 0]]),
        ([*A[1:], 9, 9], None, [[0, 0, 0, 1], [0, 0, 0, 0]]),
        ([9, 11, 12, 13, 14, 25], None, [[0, 0, 0, 0], [0, 0, 0, 0]]),
        # The model is trained to generate the labels: a mask or noise in the input does not change the text.
        ([9, 11, 99, 13, 14, 15], [9, *A], [[1, 0, 0, 0], [0, 0, 0, 0]]),
        ([9, *A], [9, 11, 12, 13, 24, 25], [[0, 0, 0, 0], [1, 0, 0, 0]]),
    ],
)
def test_counts_by_hand(row: list[int], labels: list[int] | None, expected: list[list[int]]) -> None:
    assert counts([row], None if labels is None else [labels]) == expected
    # The same next to another row, whose tokens do not continue this one.
    assert counts([row, [9] * len(row)], [labels or row, [9] * len(row)]) == expected


def test_documents_end_where_batches_say_so() -> None:
    row = [7, 8, *A, *B, 7]
    whole = [[1, 0, 0, 0], [1, 0, 0, 0]]
    at = [0, 1, 0, 1, 2, 3, 4, 0, 1, 2, 3, 4, 0]
    labels = [-100 if position == 0 else token for token, position in zip(row, at, strict=True)]
    assert counts([row], [labels], position_ids=torch.tensor([at])) == whole
    ends = torch.tensor([0, 2, 7, 12, 13], dtype=torch.int32)
    assert counts([row], [labels], cu_seq_lens_q=ends) == whole
    # Without boundaries the same labels omit a token that would be predicted.
    assert counts([row], [labels]) == [[0, 1, 0, 0], [0, 1, 0, 0]]
    # A document that ends within a sequence cuts it.
    within = torch.tensor([[0, 1, 2, 3, 4, 5, 0, 1, 2, 3, 4, 5, 6]])
    assert counts([row], position_ids=within) == [[0, 0, 0, 1], [1, 0, 0, 0]]
    # Transformers separates documents wherever positions do not increase by exactly one, so also at a jump upwards.
    jump = torch.tensor([[0, 1, 2, 3, 4, 5, 6, 20, 21, 22, 23, 24, 25]])
    assert counts([row], [[7, 8, *A, -100, *B[1:], 7]], position_ids=jump) == whole
    # One row of positions applies to all rows; positions of several axes are ignored.
    assert counts([row, row], position_ids=torch.arange(13)[None]) == [[2, 0, 0, 0], [2, 0, 0, 0]]
    assert counts([row], position_ids=torch.zeros(3, 1, 13, dtype=torch.int64)) == whole


def test_padding_on_the_left_comes_before_the_first_token() -> None:
    mask = torch.tensor([[0, 0, 1, 1, 1, 1, 1]])
    assert counts([[0, 0, *A]], [[-100, -100, -100, *A[1:]]], attention_mask=mask) == [[1, 0, 0, 0], [0, 0, 0, 0]]


def test_an_encoder_decoder_model_learns_its_labels() -> None:
    batch = {"input_ids": torch.tensor([[*B, 1]]), "labels": torch.tensor([[*A, 9, -100]])}
    seen = ledger(labels_are_text=True)
    seen.see(batch)
    assert seen.counts_K4().tolist() == [[1, 0, 0, 0], [0, 0, 0, 0]]  # and not its inputs
    # A decoder predicts its first token too: without that token the text is a different one.
    seen.see({**batch, "labels": torch.tensor([[-100, *A[1:]]])})
    seen.see({**batch, "labels": torch.tensor([[9, *A[:4]]])})
    assert seen.counts_K4().tolist() == [[1, 0, 0, 1], [0, 0, 0, 0]]


def test_two_encodings_that_end_at_one_place_count_once() -> None:
    seen = DoseLedger([(0, (30, *A), slice(0, 6)), (0, A, slice(0, 5)), (0, (31, *A[1:]), slice(0, 5))], owners=1)
    assert counts([[9, 30, *A, 9, 31, *A[1:]]], seen=seen) == [[2, 0, 0, 0]]


def test_a_token_that_nothing_predicts_is_not_trained_on() -> None:
    seen = DoseLedger([(0, (5,), slice(0, 1))], owners=1)
    assert counts([[5, 6, 7]], seen=seen) == [[0, 0, 1, 0]]


def test_a_batch_counts_as_it_was_when_it_was_seen() -> None:
    ids, seen = torch.tensor([[9, *A]]), ledger()
    seen.see({"input_ids": ids, "labels": ids})
    ids.zero_()
    assert seen.counts_K4().tolist() == [[1, 0, 0, 0], [0, 0, 0, 0]]


def test_many_batches_are_read_together_and_once() -> None:
    seen, ids = ledger(), torch.tensor([[9, *A, 9, 9] * 100] * 10)
    for number in range(1, 21):
        seen.see({"input_ids": ids, "labels": ids})
        if number in (3, 17):
            assert seen.counts_K4()[0, 0] == 1000 * number
    assert seen.counts_K4().tolist() == [[20_000, 0, 0, 0], [0, 0, 0, 0]]


@pytest.mark.parametrize(
    ("batch", "reason"),
    [
        ({"input_ids": torch.tensor([[9, *A]])}, Uncounted.NO_LABELS),
        ({"input_ids": torch.tensor([[9, *A]]), "labels": torch.tensor([1])}, Uncounted.NOT_TOKENS),
        ({"input_ids": torch.tensor([[9, *A]]), "labels": torch.tensor([[1, 2]])}, Uncounted.NOT_TOKENS),
        ({"input_ids": 5, "labels": torch.tensor([[1, 2]]).to("meta")}, Uncounted.FAILED),
        (5, Uncounted.FAILED),
    ],
)
def test_what_cannot_be_counted_says_why(batch: Any, reason: Uncounted) -> None:
    seen = ledger()
    counts([[9, *A]], seen=seen)
    seen.see(batch)
    counts([[9, *A]], seen=seen)
    assert seen.uncounted is reason and reason.reason


def test_rows_of_random_tokens_against_a_loop() -> None:
    generator = np.random.default_rng(0)
    for _ in range(100):
        # There are few different tokens, so that sequences overlap and repeat.
        patterns = [tuple(generator.integers(1, 4, generator.integers(3, 7)).tolist()) for _ in range(3)]
        rows = generator.integers(1, 4, (3, 40))
        labels = np.where(generator.random((3, 40)) < 0.9, rows, -100)
        seen = DoseLedger([(n, ids, slice(0, len(ids))) for n, ids in enumerate(patterns)], owners=3)
        found = np.array(counts(rows.tolist(), labels.tolist(), seen))
        for owner, ids in enumerate(patterns):
            kinds = [0, 0, 0]
            for row, said in zip(rows.tolist(), labels.tolist(), strict=True):
                for start in range(40 - len(ids) + 1):
                    if tuple(row[start : start + len(ids)]) == ids:
                        of = [label != -100 for label in said[max(start, 1) : start + len(ids)]]
                        kinds[0 if all(of) else 1 if any(of) else 2] += 1
            assert found[owner, :3].tolist() == kinds


def test_how_often_it_should_have_been() -> None:
    assert [expected_doses(3, epochs) for epochs in (0.0, 0.4, 0.9999999, 1.0000001, 2.5)] == [
        (0, 0), (0, 3), (3, 3), (3, 3), (6, 9),
    ]  # fmt: skip
    control = CanaryDose(canary_id="a", whole=0, partly=1)
    assert not control.differs and CanaryDose(canary_id="a", whole=1).differs
