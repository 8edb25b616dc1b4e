"""Compares weighted draws as they are with independent draws of one text each: their number, tokens and intervals.

`python -m benchmarks.draws` trains the demo's model as `benchmarks.overhead` does, keeps the weights of each epoch,
and measures 104 canaries there by "importance" with ten seeds. Independent draws are made as they were before draws
were spread evenly and counted all their endings: equally many of each component, and weights bounded by the model's
own component alone. The truth is the mean of three estimates from at most 65,536 draws each. 12 minutes.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any
from unittest import mock

import numpy as np
import torch
import transformers
from transformers import TrainerCallback

from benchmarks.overhead import EPOCHS, TOKENIZER, draw_overhead_canaries, train
from benchmarks.record import write_result
from hf_exposure import CanarySet, ExposureMeter, Importance
from hf_exposure.demo.inputs import load_model
from hf_exposure.extraction import TokenAutomaton, proposal
from hf_exposure.measures import search_methods

SEEDS, TRUTH_SEEDS = 10, (90, 91, 92)
REFERENCES, TRUTH_DRAWS = 4096, 65_536
# A search takes over from here on, for 4,096 expansions are enough for a rank of 2^12 in a space of 2^30.
BELOW_BITS = (2.0, 4.0, 8.0, 18.0)


class KeepWeights(TrainerCallback):
    """Keeps the weights at the end of each epoch."""

    def __init__(self) -> None:
        self.weights: list[dict[str, torch.Tensor]] = []

    def on_epoch_end(self, args: Any, state: Any, control: Any, model: Any = None, **others: Any) -> None:
        self.weights.append({name: weight.clone() for name, weight in model.state_dict().items()})


def bound_by_the_model_alone(automaton: TokenAutomaton, hole_bits_K: np.ndarray, space_size: int) -> np.ndarray:
    """(K,) the bound on weights if only the model's own component, a quarter of the draws, is considered."""
    return 4.0 * np.minimum(1.0, np.exp2(hole_bits_K) / space_size)


@contextlib.contextmanager
def independent_draws() -> Iterator[None]:
    """Draws are independent, of one text each, and equally many of each component."""
    with (
        mock.patch.object(proposal, "OF_EIGHT", (2, 2, 2, 2)),
        mock.patch.object(proposal, "_LOG2_PARTS", np.full(4, -2.0)),
        mock.patch.object(proposal, "_BATCH_SIZE", 1),
        mock.patch.object(proposal, "_MOST_ENDINGS", 0),
        mock.patch.object(search_methods, "largest_weights", bound_by_the_model_alone),
    ):
        yield


def measured(model: torch.nn.Module, canaries: CanarySet, method: Importance, seed: int) -> dict[str, Any]:
    """The exposures with their intervals, and what they cost."""
    fed: list[int] = []
    drawn: list[int] = []
    draw = search_methods.draw_proposals

    def counted(*arguments: Any, **named: Any) -> Any:
        drawn.append(len((found := draw(*arguments, **named)).texts))
        return found

    hook = model.register_forward_pre_hook(
        lambda module, arguments, named: fed.append(named["input_ids"].numel()), with_kwargs=True
    )
    with mock.patch.object(search_methods, "draw_proposals", counted):
        report = ExposureMeter(canaries, TOKENIZER, method=method, seed=seed).measure(model)
    hook.remove()
    bits = np.array([(each.exposure_bits, each.low_bits, each.high_bits) for each in report.estimates])
    return {"bits": bits, "draws": drawn[-1], "tokens": sum(fed)}


def summary(runs: list[dict[str, Any]], truth_K: np.ndarray) -> dict[str, Any]:
    """Means over the seeds, for all canaries below 18 bits and for those between two bounds."""
    widths_K = np.mean([run["bits"][:, 2] - run["bits"][:, 1] for run in runs], axis=0)
    errors_RK = np.array([run["bits"][:, 0] for run in runs]) - truth_K
    covers_RK = np.array([(run["bits"][:, 1] <= truth_K) & (truth_K <= run["bits"][:, 2]) for run in runs])
    groups = {f"below {BELOW_BITS[-1]:g}": truth_K < BELOW_BITS[-1]}
    for low, high in zip((0.0, *BELOW_BITS), BELOW_BITS, strict=False):
        groups[f"{low:g} to {high:g}"] = (truth_K >= low) & (truth_K < high)
    return {
        "draws": float(np.mean([run["draws"] for run in runs])),
        "tokens": float(np.mean([run["tokens"] for run in runs])),
        "groups": {
            name: {
                "canaries": int(members.sum()),
                "mean_width_bits": float(widths_K[members].mean()),
                "root_mean_square_error_bits": float(np.sqrt((errors_RK[:, members] ** 2).mean())),
                "contain_the_truth": float(covers_RK[:, members].mean()),
            }
            for name, members in groups.items()
            if members.any()
        },
    }


def main() -> None:
    transformers.logging.set_verbosity_error()
    canaries, keeper = draw_overhead_canaries(), KeepWeights()
    train(canaries, [keeper])
    model = load_model("small-gpt2", TOKENIZER, 256)
    epochs: list[dict[str, Any]] = []
    exhaustive = {"precision_bits": 1e-9}
    for weights in keeper.weights:
        model.load_state_dict(weights)
        model.eval()
        by_many = Importance(references=TRUTH_DRAWS, **exhaustive)
        truth_K = np.mean([measured(model, canaries, by_many, seed)["bits"][:, 0] for seed in TRUTH_SEEDS], axis=0)
        now = [measured(model, canaries, Importance(references=REFERENCES), seed) for seed in range(SEEDS)]
        with independent_draws():
            before = [
                measured(model, canaries, Importance(references=REFERENCES, **exhaustive), seed)
                for seed in range(SEEDS)
            ]
        epochs.append({"independent": summary(before, truth_K), "spread": summary(now, truth_K)})
        for name, found in epochs[-1].items():
            of_all = found["groups"][f"below {BELOW_BITS[-1]:g}"]
            print(len(epochs), name, {key: round(value, 3) for key, value in of_all.items()}, found["draws"])
    print(write_result("draws", {"references": REFERENCES, "truth_draws": TRUTH_DRAWS, "epochs": epochs}))
    assert len(epochs) == EPOCHS


if __name__ == "__main__":
    main()
