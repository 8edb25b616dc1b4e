"""The metric's Space: paste log-perplexities, read exposures."""

from __future__ import annotations

import math
import re

from hf_exposure.errors import InputError
from hf_exposure.estimators import sampling_exposure

TITLE = "Exposure: has a language model memorized a secret?"
EXPLANATION = """
Exposure (Carlini et al., [The Secret Sharer](https://arxiv.org/abs/1802.08232)) is log2 of the number of possible
secrets minus log2 of the secret's rank among them under the model. Give the log-perplexity (the sum over tokens of
-log2 p, in bits) of each canary, and of random texts of the same form that were not in the training data.

A secret that the model never saw has 1.44 bits on average and exceeds x bits with probability 2^-x: one canary at 3
bits means nothing.
"""


def numbers(text: str, name: str) -> list[float]:
    """The numbers in a text, between white space, commas or semicolons.

    Raises:
        InputError: one that is no finite number, or none at all.

    Example:
        >>> numbers("12.5, 3\\n4", "canaries")
        [12.5, 3.0, 4.0]
    """
    found = []
    for word in re.split(r"[\s,;]+", text.strip()):
        try:
            found.append(float(word))
        except ValueError:
            raise InputError(name, "must be numbers", word, "Write them with spaces or commas between.") from None
        if not math.isfinite(found[-1]):
            raise InputError(name, "must be finite numbers", word, "Leave it out.")
    return found


def table(canaries: str, references: str) -> list[list[str]]:
    """One row for each canary: its log-perplexity, exposure, and 95 % interval, in bits.

    Example (of 9 texts, four are at or below the canary; log2(9 / 5)):
        >>> table("3", "1 2 3 3 4 5 6 7")
        [['3.00', '0.85', '0.25 to 2.67']]
    """
    costs = numbers(canaries, "canaries")
    estimates = sampling_exposure(costs, numbers(references, "references"))
    return [
        [f"{cost:.2f}", f"{e.exposure_bits:.2f}", f"{e.low_bits:.2f} to {e.high_bits:.2f}"]
        for cost, e in zip(costs, estimates, strict=True)
    ]


def main() -> None:
    """Serves the page."""
    import gradio

    def answer(canaries: str, references: str) -> list[list[str]]:
        try:
            return table(canaries, references)
        except InputError as error:
            raise gradio.Error(str(error)) from None

    gradio.Interface(
        answer,
        inputs=[
            gradio.Textbox(label="Log-perplexities of the canaries (bits)", lines=3, value="31.2, 44.0"),
            gradio.Textbox(label="Log-perplexities of random texts of the same form (bits)", lines=6),
        ],
        outputs=gradio.Dataframe(headers=["log-perplexity (bits)", "exposure (bits)", "95 % interval"]),
        title=TITLE,
        description=EXPLANATION,
    ).launch()


if __name__ == "__main__":
    main()
