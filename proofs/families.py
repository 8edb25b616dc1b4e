"""Tests a tiny model of every language-model family in transformers against brute force: `make families`.

Each config class of the three mappings (causal, encoder-decoder, masked) is built with random weights. Texts are
scored one at a time through the bare model, without cache or padding, in float64 after the logits; the package must
agree on short texts, on texts longer than the families' attention windows, with new and reused scorers, and under the
laws of `hf_exposure.testing`. Certified answers of `extract` and `rank_bounds` are compared with a ranking of the
whole space, and the bits of weighted draws, which grow token by token from kept caches, with those of texts alone.

A family may be refused only where its own logits break causality, or where the library itself cannot run it on text.
"""

from __future__ import annotations

import argparse
import math
import sys
import time
import warnings
from collections import Counter
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch
import transformers
from torch import nn
from transformers import ByT5Tokenizer

from hf_exposure import CanaryTemplate, Digits, extract, rank_bounds
from hf_exposure.errors import ExposureError, InputError
from hf_exposure.extraction import UniformPaths, build_automaton, draw_proposals, prefix_cost
from hf_exposure.files import write_aside
from hf_exposure.scoring import make_scorer
from hf_exposure.testing import brute_force_rank, check_scorer
from proofs.tiny_models import KINDS, build_model, families

__all__ = ["FamilyResult", "prove_family"]

SHORT = ["the pin is 1234", "the pin is 12", "the pin is 9876 and so on", "the pin is 1299", "the pin is 123"]
LONG = ["she said " * 4 + text for text in ("1234", "12 and no more", "98")]
SOURCE = "what is the pin?"
TEMPLATE = CanaryTemplate("pin {pin}", pin=Digits(2))
DRAWN = CanaryTemplate("pin {pin}", pin=Digits(7))
TOLERANCE_BITS = 1e-3
CAUSAL_BITS = 1e-3
MOST_REASON_CHARACTERS = 160
OUTCOMES = {
    "agrees": "scores, laws, search and ranks equal brute force",
    "agrees, no search": "scores equal brute force; the model's own logits depend on length, so nothing is certified",
    "refused": "an error says why",
    "not run": "the library itself cannot build a tiny model of the family, or cannot run it on text alone",
    "WRONG": "a defect",
}


@dataclass
class FamilyResult:
    """One row of the table.

    Attributes:
        kind: the mapping that names the family.
        family: its `model_type`.
        model: the class that was built, "" if none was.
        read_as: how its texts are scored: a speech model is in the encoder-decoder mapping, but reads texts from left
            to right; BART is also in the mapping of masked models.
        outcome: "agrees"; "agrees, no search" if scores are correct but there is no certificate; "refused"; "not run"
            if the library itself cannot run it; or "WRONG". A family whose own logits are causal must agree.
        scorer, mode: how it was scored.
        difference_bits: the largest difference from brute force.
        own_bits: how much the family's own scores of a text's beginning depend on the length of the text and on what
            follows, with each text scored alone: its logits break causality if this exceeds rounding.
        reason: of a refusal or an error.
        seconds: duration.
    """

    kind: str
    family: str
    model: str = ""
    read_as: str = ""
    outcome: str = ""
    scorer: str = ""
    mode: str = ""
    difference_bits: float = math.nan
    own_bits: float = math.nan
    reason: str = ""
    seconds: float = 0.0


_COLUMNS = ("family", "model", "mapping", "mode", "difference (bits)", "own difference (bits)", "outcome")


class MismatchError(Exception):
    """The package's result differs from brute force."""


class NoCertificateError(Exception):
    """The package returned no certificate."""


def prove_family(kind: str, config_class: type) -> FamilyResult:
    """Builds one family, scores texts, searches, and compares the results."""
    started = time.perf_counter()
    result = FamilyResult(kind, config_class.model_type)
    tokenizer = ByT5Tokenizer()
    tokenizer.add_special_tokens({"mask_token": "<extra_id_0>"})
    try:
        model = build_model(kind, config_class)
        result.model = type(model).__name__
        kind = result.read_as = _reading(kind, model)
        result.own_bits = causality_gap(kind, model, tokenizer)
        expected = brute_force(kind, model, tokenizer, [*SHORT, *LONG])
    except Exception as error:
        result.outcome, result.reason = "not run", _one_line(error)
        return result
    try:
        _compare(result, model, tokenizer, expected)
        result.outcome = "agrees"
    except ExposureError as error:
        result.outcome, result.reason = "refused", _one_line(error)
    except NoCertificateError as error:
        result.outcome = "agrees, no search" if result.own_bits > CAUSAL_BITS else "WRONG"
        result.reason = _one_line(error)
    except Exception as error:
        result.outcome, result.reason = "WRONG", _one_line(error)
    result.seconds = round(time.perf_counter() - started, 1)
    return result


def causality_gap(kind: str, model: nn.Module, tokenizer: ByT5Tokenizer) -> float:
    """Returns the largest difference in a token's bits in the first half of a text: complete, cut, or with another
    end.
    """
    if kind == "masked":
        return math.nan
    ids = [byte + 3 for byte in LONG[0].encode()]
    half = len(ids) // 2
    texts = (ids, ids[: half + 1], [*ids[: half + 1], *ids[:1] * (len(ids) - half - 1)])
    bits = [_token_bits(kind, model, tokenizer, text)[: half - 1] for text in texts]
    return max(float(np.abs(bits[0] - other).max()) for other in bits[1:])


def _reading(kind: str, model: nn.Module) -> str:
    if getattr(model.config, "is_encoder_decoder", False):
        return "encoder-decoder"
    return "causal" if kind == "encoder-decoder" else kind


def brute_force(kind: str, model: nn.Module, tokenizer: ByT5Tokenizer, texts: Sequence[str]) -> np.ndarray:
    """Returns (N,) bits of each text, by one model call per text (for masked models, per token)."""
    return np.array([_brute_force_one(kind, model, tokenizer, text) for text in texts])


def _brute_force_one(kind: str, model: nn.Module, tokenizer: ByT5Tokenizer, text: str) -> float:
    ids = [byte + 3 for byte in text.encode()]
    if kind != "masked":
        return float(_token_bits(kind, model, tokenizer, ids).sum())
    whole, total = torch.tensor([[*ids, tokenizer.eos_token_id]]), 0.0
    for place, token in enumerate(ids):
        masked = whole.clone()
        masked[0, place] = tokenizer.mask_token_id
        with torch.no_grad():
            total += _bits(model(input_ids=masked).logits[0, place : place + 1], [token]).item()
    return total


def _token_bits(kind: str, model: nn.Module, tokenizer: ByT5Tokenizer, ids: list[int]) -> np.ndarray:
    """Returns (L,) bits of each token, or (L - 1,) without the first token."""
    with torch.no_grad():
        if kind == "encoder-decoder":
            start = model.config.decoder_start_token_id
            source, target = torch.tensor([tokenizer(SOURCE)["input_ids"]]), torch.tensor([[start, *ids]])
            # As in training, where labels exclude a cache: some decoders are bidirectional with a cache.
            return _bits(model(input_ids=source, decoder_input_ids=target, use_cache=False).logits[0, :-1], ids)
        return _bits(model(input_ids=torch.tensor([ids])).logits[0, :-1], ids[1:])


def _bits(logits: torch.Tensor, tokens: Sequence[int]) -> np.ndarray:
    log_probabilities = torch.log_softmax(logits.double(), dim=-1)
    return -log_probabilities[torch.arange(len(tokens)), torch.tensor(tokens)].numpy() / math.log(2.0)


def _compare(result: FamilyResult, model: nn.Module, tokenizer: ByT5Tokenizer, expected: np.ndarray) -> None:
    source = {"source": SOURCE} if result.read_as == "encoder-decoder" else {}
    texts = [*SHORT, *LONG]
    fresh = make_scorer(model, tokenizer, **source)
    result.scorer = type(fresh).__name__
    if result.read_as == "causal" and result.scorer == "MaskedScorer":
        if not result.own_bits > CAUSAL_BITS:
            raise MismatchError("a causal model is read both ways")
        expected = brute_force("masked", model, tokenizer, [*SHORT, *LONG])
    differences = [0.0]

    def compare(found: np.ndarray, wanted: np.ndarray, what: str) -> None:
        difference = float(np.abs(np.asarray(found) - np.asarray(wanted)).max())
        differences.append(difference)
        result.difference_bits = max(differences)
        if not difference <= TOLERANCE_BITS:
            raise MismatchError(f"{what}: {difference:.3g} bits")

    compare(fresh.sequence_bits(fresh.encode(texts)), expected, "all texts")
    used = make_scorer(model, tokenizer, **source)
    for at in (slice(0, 1), slice(0, 2), slice(0, 5), slice(5, 8), slice(1, 7)):
        compare(used.sequence_bits(used.encode(texts[at])), expected[at], f"texts {at.start} to {at.stop}")
    result.mode = used.mode
    if result.scorer == "MaskedScorer":
        return
    try:
        check_scorer(make_scorer(model, tokenizer, **source), SHORT)
    except InputError as error:
        raise NoCertificateError(_one_line(error)) from error
    space = [TEMPLATE.text_at(index) for index in range(TEMPLATE.space_size)]
    costs = brute_force(result.read_as, model, tokenizer, space)
    order = np.argsort(costs, kind="stable")
    found = extract(model, tokenizer, TEMPLATE, top_k=10, **source)
    result.mode = found.mode
    if not found.certified:
        raise NoCertificateError(f"extract: {found.note}")
    compare([each.log_perplexity_bits for each in found.candidates], np.sort(costs)[:10], "extract")
    for place in (0, 9, 60):
        own = int(order[place])
        bounds = rank_bounds(model, tokenizer, space[own], TEMPLATE, **source)
        low, high = brute_force_rank(costs, own)
        if not bounds.certified:
            raise NoCertificateError(f"rank_bounds: {bounds.note}")
        if not (low <= bounds.low <= bounds.high <= high):
            found = f"[{bounds.low}, {bounds.high}] {bounds.note}"
            raise MismatchError(f"rank {found} where brute force has [{low}, {high}]")
    # In small batches, since the reference code of some linear attention takes gigabytes for a large one.
    scorer = make_scorer(model, tokenizer, max_batch_tokens=256, **source)
    automaton = build_automaton(DRAWN, scorer.encoder)
    draws = draw_proposals(scorer, automaton, 96, UniformPaths(DRAWN, 0), np.random.default_rng(0))
    some = np.linspace(0, len(draws.texts) - 1, 16).astype(int)
    bits = prefix_cost(scorer, automaton) + draws.hole_bits_N[some]
    compare(bits, brute_force(result.read_as, model, tokenizer, [draws.texts[draw] for draw in some]), "draws")


def _one_line(error: Exception) -> str:
    said = str(error) if isinstance(error, InputError) else f"{type(error).__name__}: {error}"
    said = " ".join(said.split())
    return said if len(said) <= MOST_REASON_CHARACTERS else said[:MOST_REASON_CHARACTERS] + " ..."


def _prove(entry: tuple[str, type]) -> FamilyResult:
    warnings.simplefilter("ignore")
    transformers.logging.set_verbosity_error()
    torch.set_num_threads(1)
    return prove_family(*entry)


def page(results: Sequence[FamilyResult], earlier: str = "") -> str:
    """Returns the results as a page; families that were not run now keep their rows of the `earlier` page."""
    rows = {}
    for line in earlier.splitlines():
        cells = [cell.strip() for cell in line.strip("|").split("|")]
        if len(cells) == len(_COLUMNS) and cells[2] in KINDS:
            rows[cells[2], cells[0]] = cells
    for result in results:
        reason = f": {result.reason}" if result.reason else ""
        mode = f"{result.mode}, masked" if result.scorer == "MaskedScorer" else result.mode
        figures = (_figure(result.difference_bits), _figure(result.own_bits))
        outcome = (result.outcome + reason).replace("|", "/")
        rows[result.kind, result.family] = [result.family, result.model, result.kind, mode, *figures, outcome]
    count = Counter(cells[-1].split(":")[0] for cells in rows.values())
    order = [(kind, config_class.model_type) for kind, config_class in families()]
    return "\n".join(
        [
            "# Families of models",
            "",
            f"`make families` (`proofs/families.py`) builds a tiny model of each of the {len(rows)} families in the",
            f"three mappings of transformers {transformers.__version__} (causal, encoder-decoder, masked), and",
            "compares the package with brute force: each text is scored alone, without cache or padding, with torch "
            f"{torch.__version__.split('+')[0]} on a CPU in float32.",
            "",
            "| outcome | families | meaning |",
            "|---|---|---|",
            *(f"| {name} | {count[name]} | {OUTCOMES[name]} |" for name in OUTCOMES if count[name]),
            "",
            "The mode is that of `CausalScorer`: packed rows, cached prefix, plain batches, or every text alone. A",
            "masked model is scored by its pseudo-log-likelihood and not searched. *Difference* is the largest",
            "difference from brute force. *Own difference* is the largest change in how the model itself, without",
            "this package, scores the beginning of a text if the text is cut after it or continues differently.",
            "",
            f"| {' | '.join(_COLUMNS)} |",
            "|---" * len(_COLUMNS) + "|",
            *(f"| {' | '.join(rows[key])} |" for key in dict.fromkeys(order) if key in rows),
            "",
        ]
    )


def _figure(bits: float) -> str:
    return "" if math.isnan(bits) else "0" if bits == 0 else f"{bits:.1e}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--only", nargs="*", default=[], help="model types")
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--page", type=Path, help="file for the table in Markdown, such as docs/families.md")
    chosen = parser.parse_args()
    entries = [entry for entry in families() if not chosen.only or entry[1].model_type in chosen.only]
    results = []
    with ProcessPoolExecutor(chosen.processes) as pool:
        for result in pool.map(_prove, entries):
            results.append(result)
            print(*(value for value in asdict(result).values() if value != ""), sep=" | ", flush=True)
    if chosen.page:
        earlier = chosen.page.read_text(encoding="utf-8") if chosen.only and chosen.page.exists() else ""
        write_aside(chosen.page, page(results, earlier))
    wrong = [result for result in results if result.outcome == "WRONG"]
    print(f"{len(results)} families, {len(wrong)} wrong")
    sys.exit(bool(wrong))


if __name__ == "__main__":
    main()
