"""What an encoder-decoder model reads before it writes a canary: one text for all, or one with the same secret."""

from __future__ import annotations

import string
from collections.abc import Callable
from dataclasses import dataclass

from hf_exposure.canaries.template import CanaryTemplate
from hf_exposure.checks import encodable_text, instance_of
from hf_exposure.errors import InputError, described

__all__ = ["Source", "SourceTemplate", "source_for"]

Source = str | Callable[[str], str]
"""One source for all targets, or a function from a target to its source."""


@dataclass(frozen=True, repr=False)
class SourceTemplate:
    """The source of each text of a template, with the same secret in its holes.

    Args:
        text: fixed text with holes that the target's template has too; any of them, each as often as wanted.
        template: of the targets.

    Raises:
        InputError: a hole that the template lacks, or with a format; braces that do not match.

    Example:
        >>> from hf_exposure import CanaryTemplate, Digits
        >>> target = CanaryTemplate("Ma carte : {pin}", pin=Digits(4))
        >>> SourceTemplate("My card: {pin}", target)("Ma carte : 0417")
        'My card: 0417'
    """

    text: str
    template: CanaryTemplate

    def __post_init__(self) -> None:
        instance_of("template", self.template, CanaryTemplate, "Pass canaries.template.")
        fields = _fields(encodable_text("source", self.text))
        known = self.template.spaces
        for _, name, form, conversion in fields:
            if name is not None and (name not in known or form or conversion):
                rule = f"may have only the template's holes, plain: {', '.join(known)}"
                raise InputError("source", rule, self.text, "Double a literal brace: {{ }}.")

    def __call__(self, text: str) -> str:
        """The source that belongs to the target `text`."""
        return self.text.format_map(self.template.parse(text))

    def __repr__(self) -> str:
        return repr(self.text)


def source_for(source: str | None, template: CanaryTemplate) -> Source | None:
    """What `source` means beside `template`: a fixed text, or with holes one text for each target.

    Raises:
        InputError: as `SourceTemplate`.

    Example:
        >>> from hf_exposure import CanaryTemplate, Digits
        >>> source_for("translate {{this}}", CanaryTemplate("pin {pin}", pin=Digits(4)))
        'translate {this}'
    """
    if source is None:
        return None
    if not isinstance(source, str):
        raise InputError("source", "must be a text", described(source), "Pass source='...'; holes are written {name}.")
    encodable_text("source", source)
    if any(name is not None for _, name, _, _ in _fields(source)):
        return SourceTemplate(source, template)
    return source.format()


def _fields(text: str) -> list[tuple[str, str | None, str | None, str | None]]:
    try:
        return list(string.Formatter().parse(text))
    except ValueError as error:
        rule = f"must have matching braces ({error})"
        raise InputError("source", rule, text, "Double a literal brace: {{ }}.") from None
