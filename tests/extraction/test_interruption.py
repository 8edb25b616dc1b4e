"""A search that shows its progress: Ctrl-C ends it with the certain results, and the paper's own search finds the
same.
"""

from __future__ import annotations

import signal
from collections.abc import Sequence

import numpy as np
import pytest
from conftest import tiny_model
from transformers import ByT5Tokenizer

from hf_exposure import CanaryTemplate, Digits, extract, rank_bounds
from hf_exposure.extraction import build_automaton, search_likeliest, search_ranks
from hf_exposure.extraction.expansion import SearchProgress
from hf_exposure.scoring import CausalScorer, PathBits, PathQuery

TEMPLATE = CanaryTemplate("pin {pin}", pin=Digits(3))


class _Interrupted(CausalScorer):
    """Ctrl-C comes while the model is at its n-th batch of a search."""

    at: int = 0

    def path_bits(self, prefix: Sequence[int], queries: Sequence[PathQuery]) -> list[PathBits]:
        self.at -= 1
        if self.at == 0:
            signal.raise_signal(signal.SIGINT)
        return super().path_bits(prefix, queries)


@pytest.fixture
def scorer(byte_tokenizer: ByT5Tokenizer) -> _Interrupted:
    return _Interrupted(tiny_model("gpt2"), byte_tokenizer)


def test_ctrl_c_ends_a_search_with_the_bounds_of_that_moment(scorer: _Interrupted) -> None:
    automaton = build_automaton(TEMPLATE, scorer.encoder)
    texts = [TEMPLATE.text_at(index) for index in range(1000)]
    bits = scorer.sequence_bits(scorer.encode(texts))
    own = int(np.argsort(bits)[700])
    (whole,) = search_ranks(scorer, automaton, [texts[own]], batch_size=8)
    before = signal.getsignal(signal.SIGINT)
    scorer.at = 6  # the first batch scores the text itself
    with SearchProgress() as progress:
        (part,) = search_ranks(scorer, automaton, [texts[own]], batch_size=8, progress=progress)
    assert signal.getsignal(signal.SIGINT) is before
    assert whole.certified and whole.low <= 701 <= whole.high
    assert not part.certified and part.note.startswith("interrupted")
    assert 0 < part.expansions < whole.expansions
    assert part.low <= 701 <= part.high and part.high - part.low > whole.high - whole.low


def test_ctrl_c_ends_extraction_without_a_certificate(scorer: _Interrupted) -> None:
    automaton = build_automaton(TEMPLATE, scorer.encoder)
    scorer.at = 5
    with SearchProgress() as progress:
        found = search_likeliest(scorer, automaton, top_k=50, progress=progress)
    assert not found.certified and found.note == "interrupted; a likelier text may be left"
    assert len(found.candidates) < 50


def test_a_second_ctrl_c_interrupts_at_once() -> None:
    # A background job of a shell ignores Ctrl-C by inheritance.
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        _interrupt_twice()
    finally:
        signal.signal(signal.SIGINT, before)


def _interrupt_twice() -> None:
    with pytest.raises(KeyboardInterrupt), SearchProgress() as progress:
        signal.raise_signal(signal.SIGINT)
        assert progress.interrupted
        signal.raise_signal(signal.SIGINT)


def test_the_bar_is_shown_on_demand(byte_tokenizer: ByT5Tokenizer, capfd: pytest.CaptureFixture[str]) -> None:
    model = tiny_model("gpt2")
    extract(model, byte_tokenizer, TEMPLATE, progress=None)  # stderr is no terminal here
    rank_bounds(model, byte_tokenizer, "pin 123", TEMPLATE)
    assert capfd.readouterr().err == ""
    extract(model, byte_tokenizer, TEMPLATE, progress=True)
    assert "Searching" in capfd.readouterr().err


def test_the_paper_s_own_search_finds_the_same(byte_tokenizer: ByT5Tokenizer) -> None:
    model = tiny_model("gpt2")
    ours = extract(model, byte_tokenizer, TEMPLATE, top_k=20)
    theirs = extract(model, byte_tokenizer, TEMPLATE, top_k=20, unbatched=True)
    assert [one.text for one in ours.candidates] == [one.text for one in theirs.candidates]
    assert theirs.certified and theirs.model_rows == theirs.forward_passes > ours.forward_passes
    assert theirs.expansions <= ours.expansions


def test_no_progress_is_shown_unless_it_is_asked_for(capfd: pytest.CaptureFixture[str]) -> None:
    for progress, is_shown in ((SearchProgress(), False), (SearchProgress(True), True)):
        with progress as shown:
            assert shown.should_continue(7, 3, 1.0, 0.5)
        assert ("7 expansions" in capfd.readouterr().err) == is_shown
