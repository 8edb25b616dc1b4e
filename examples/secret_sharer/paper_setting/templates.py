"""The secrets of the experiments, by the name that `experiments.toml` gives them."""

from __future__ import annotations

from hf_exposure import CanaryTemplate, Pattern, presets

__all__ = ["TEMPLATES"]

# Five letters that can be spoken, 65,536 of them: the words of proquints (Wilkerson 2009), which write 16 bits each.
_WORD = "[bdfghjklmnprstvz][aiou][bdfghjklmnprstvz][aiou][bdfghjklmnprstvz]"
# Half of them: 15 bits each.
_HALF = "[bdfghjklmnprstvz][aiou][bdfghjklmnprstvz][aiou][bdfghjkl]"

TEMPLATES = {
    "number": presets.random_number(9),
    "two words": CanaryTemplate("The random words are {first} {second}", first=Pattern(_WORD), second=Pattern(_WORD)),
    "four words": CanaryTemplate("The random words are {a} {b} {c} {d}", **{name: Pattern(_HALF) for name in "abcd"}),
}
