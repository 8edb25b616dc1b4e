"""Size of the subword vocabulary: whether larger units make training lines easier to distinguish from others.

python -m examples.many_trainings.subwords --data TEXT_FILE --store FOLDER

Byte-pair encodings of several sizes are learned from the training lines; the same network predicts the next unit from
the last ten. The loss attack compares bits per character on training lines and on other lines.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from tokenizers import Tokenizer, models, pre_tokenizers, trainers
from torch import nn

from examples.many_trainings.canaries import NextCharacter, windows
from examples.many_trainings.study import Options, draw_lines, each_seed, parse_options, write_result
from examples.secret_sharer.results import Stopwatch
from hf_exposure.estimators import roc_curve

VOCABULARIES = (60, 150, 400)


@dataclass(frozen=True, kw_only=True)
class Size:
    lines: int
    epochs: int
    seeds: int
    equal_steps: bool = False  # batches of equal amounts of text for all vocabularies, instead of 256 units


SIZES = {"smallest": Size(lines=20, epochs=1, seeds=2), "small": Size(lines=150, epochs=8, seeds=5)}


def run(options: Options) -> None:
    size, watch = SIZES[options.size], Stopwatch()
    lines, name = draw_lines(options.data, 2 * size.lines)
    runs = each_seed(options, size.seeds, lambda seed: one_seed(lines, size, seed))
    settings = {"lines": size.lines, "epochs": size.epochs, "seeds": size.seeds, "vocabularies": list(VOCABULARIES)}
    write_result(options, "subwords", data=name, settings=settings, figures={"runs": runs}, cost=watch.read())


def one_seed(lines: list[str], size: Size, seed: int) -> dict[str, Any]:
    order = np.random.default_rng([seed, 2]).permutation(len(lines))
    members, others = ([lines[place] for place in part] for part in np.split(order, 2))
    found: dict[str, Any] = {}
    for vocabulary in VOCABULARIES:
        tokenizer = Tokenizer(models.BPE(unk_token="?"))
        tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
        trainer = trainers.BpeTrainer(vocab_size=vocabulary, special_tokens=["?"], show_progress=False)
        tokenizer.train_from_iterator(members, trainer)
        torch.manual_seed(seed)
        model = NextCharacter(256, entries=tokenizer.get_vocab_size())
        ids = [np.array(tokenizer.encode(line).ids, dtype=np.int64) + 1 for line in members]
        contexts, following = (torch.cat(parts) for parts in zip(*map(windows, ids), strict=True))
        characters = sum(map(len, members))
        batch_size = round(256 * len(following) / characters) if size.equal_steps else 256
        optimizer = torch.optim.Adam(model.parameters(), lr=3e-3)
        for _ in range(size.epochs):
            for batch in torch.randperm(len(following)).split(batch_size):
                optimizer.zero_grad(set_to_none=True)
                nn.functional.cross_entropy(model(contexts[batch]), following[batch]).backward()
                optimizer.step()
        bits = [_bits_a_character(model, tokenizer, texts) for texts in (members, others)]
        found[str(vocabulary)] = {
            "units": tokenizer.get_vocab_size(),
            "units_a_line": float(np.mean([len(one) for one in ids])),
            "auc": roc_curve(-bits[0], -bits[1]).auc,
            "gap_bits": float(bits[1].mean() - bits[0].mean()),
            "held_out_bits": float(bits[1].mean()),
        }
    return found


def _bits_a_character(model: nn.Module, tokenizer: Tokenizer, texts: list[str]) -> npt.NDArray[np.float64]:
    found = []
    for text in texts:
        contexts, following = windows(np.array(tokenizer.encode(text).ids, dtype=np.int64) + 1)
        with torch.no_grad():
            found.append(float(nn.functional.cross_entropy(model(contexts), following, reduction="sum")) / len(text))
    return np.array(found) / np.log(2.0)


if __name__ == "__main__":
    run(parse_options(__doc__ or ""))
