"""The secrets: spaces, templates with holes filled from spaces, and canaries drawn from a template."""

from __future__ import annotations

from hf_exposure.canaries import presets
from hf_exposure.canaries.canary_set import Canary, CanarySet
from hf_exposure.canaries.character_spaces import Digits, Letters, LuhnDigits
from hf_exposure.canaries.draw import draw_canaries, is_uniform_draw
from hf_exposure.canaries.natural_secrets import NaturalSecret, NaturalSecrets, SecretKind
from hf_exposure.canaries.pattern import Pattern
from hf_exposure.canaries.space import Space
from hf_exposure.canaries.spaces import parse_space, space_from_dict
from hf_exposure.canaries.template import CanaryTemplate
from hf_exposure.canaries.word_spaces import Choice, VocabularyTokens, Words

__all__ = [
    "Canary",
    "CanarySet",
    "CanaryTemplate",
    "Choice",
    "Digits",
    "Letters",
    "LuhnDigits",
    "NaturalSecret",
    "NaturalSecrets",
    "Pattern",
    "SecretKind",
    "Space",
    "VocabularyTokens",
    "Words",
    "draw_canaries",
    "is_uniform_draw",
    "parse_space",
    "presets",
    "space_from_dict",
]
