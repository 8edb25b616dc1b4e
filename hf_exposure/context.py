"""The text around a canary in its training row, which is not secret: a prompt, the turns of a chat, or a source.

`CanaryContext` is for models that continue a text: the prompt, or the chat's turns before the canary. A *source* is
the input of an encoder-decoder model whose target is the canary: one text for all canaries, or a template that repeats
the canary's own secret. Context and source are used both to insert the canary and to score it, and must be the same
both times.
"""

from __future__ import annotations

import string
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from hf_exposure.canaries.template import CanaryTemplate
from hf_exposure.checks import encodable_text, instance_of
from hf_exposure.errors import InputError, RowInputError, described

Source = str | Callable[[str], str]
"""One source for all targets, or a function from a target to its source."""


@dataclass(frozen=True, repr=False)
class SourceTemplate:
    """The source of each text of a template, with the same secret in its holes.

    Args:
        text: fixed text with any holes of the target's template, each any number of times.
        template: the template of the targets.

    Raises:
        InputError: the template lacks a hole, a hole has a format, or braces do not match.

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
    """Interprets `source` together with `template`: a fixed text, or, if it has holes, one text for each target.

    Raises:
        InputError: `source` is no text, or `SourceTemplate` refuses it.

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


def check_context(context: object) -> None:
    """Raises an `InputError` if this is neither a context nor None."""
    if context is not None:
        instance_of("context", context, CanaryContext, "Write CanaryContext(prompt=...).")


# The placeholder has no whitespace at its ends, which templates may strip, and does not occur in a prompt by chance.
_PLACEHOLDER = "canary9f3a17"


@dataclass(frozen=True, kw_only=True)
class CanaryContext:
    """The context of a canary in its training row. The same object is used to insert the canary and to score it.

    With a text as `prompt`, the canary is the completion of that text. With messages, it is the assistant's next turn.
    Tokens of the prompt are context for the canary and are never scored. With `end_token=True`, the chat's end of turn
    is scored after the canary, instead of the tokenizer's end token as for a plain text.

    Args:
        prompt: a text, or messages (mappings with "role" and "content"); `()` is a chat that the assistant begins.
        chat_template: a chat template to use instead of the tokenizer's own.
        chat_template_kwargs: further arguments of the chat template, such as `{"enable_thinking": False}`.

    Raises:
        InputError: the prompt is neither text nor messages, or a message has no role or no text.

    Example:
        >>> context = CanaryContext(prompt=[{"role": "user", "content": "What is my PIN?"}])
        >>> context.messages("It is 0042.")[-1]
        {'role': 'assistant', 'content': 'It is 0042.'}
    """

    prompt: str | Sequence[Mapping[str, str]] = ""
    chat_template: str | None = None
    chat_template_kwargs: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.chat_template is not None:
            encodable_text("chat_template", self.chat_template)
        kwargs = self.chat_template_kwargs
        if not isinstance(kwargs, Mapping) or not all(isinstance(name, str) for name in kwargs):
            remedy = 'Write {"enable_thinking": False}.'
            raise InputError("chat_template_kwargs", "must be a mapping of names", type(kwargs).__name__, remedy)
        if isinstance(self.prompt, str):
            encodable_text("prompt", self.prompt)
            return
        remedy = 'Write prompt=[{"role": "user", "content": "..."}].'
        if not isinstance(self.prompt, Sequence) or isinstance(self.prompt, bytes):
            raise InputError("prompt", "must be a text or a list of messages", described(self.prompt), remedy)
        for message in self.prompt:
            texts = [message.get(name) for name in ("role", "content")] if isinstance(message, Mapping) else [None]
            if not all(isinstance(text, str) for text in texts):
                raise InputError("prompt", "must have messages with a role and a text", described(message), remedy)
            for text in texts:
                encodable_text("prompt", text)
        vars(self).update(prompt=tuple(dict(message) for message in self.prompt if isinstance(message, Mapping)))

    @property
    def is_chat(self) -> bool:
        """Whether the canary is a turn of a chat."""
        return not isinstance(self.prompt, str)

    def messages(self, text: str) -> list[dict[str, str]]:
        """The chat with `text` as the assistant's last turn."""
        return [*self.prompt_messages(), {"role": "assistant", "content": text}]

    def prompt_messages(self) -> list[dict[str, str]]:
        """The turns before the canary."""
        return [dict(message) for message in self.prompt if isinstance(message, Mapping)]

    def around(self, tokenizer: Any) -> tuple[str, str]:
        """The literal text before and after a canary, as the tokenizer's chat template writes it.

        Raises:
            InputError: there is no chat template, or it refuses these messages, or it does not write the assistant's
                text exactly once.
        """
        if isinstance(self.prompt, str):
            return self.prompt, ""
        if (self.chat_template or getattr(tokenizer, "chat_template", None)) is None:
            remedy = "Set tokenizer.chat_template, or pass CanaryContext(chat_template=...)."
            raise InputError("tokenizer", "must have a chat template", type(tokenizer).__name__, remedy)
        try:
            written = tokenizer.apply_chat_template(
                self.messages(_PLACEHOLDER),
                tokenize=False,
                chat_template=self.chat_template,  # None means the tokenizer's default, if it has several
                **self.chat_template_kwargs,
            )
        except Exception as error:  # a template may raise any exception
            rule = f"must be messages that the chat template accepts ({error})"
            raise InputError("prompt", rule, self.prompt, "Change the roles or their order.") from error
        if written.count(_PLACEHOLDER) != 1:
            rule = "must be written exactly once by the chat template: the assistant's last turn"
            remedy = "Check tokenizer.apply_chat_template(context.messages(text), tokenize=False)."
            raise InputError("context", rule, f"{written.count(_PLACEHOLDER)} times", remedy)
        before, after = written.split(_PLACEHOLDER)
        return before, after

    def check_end(self, tokenizer: Any, texts: Sequence[str]) -> None:
        """Raises an `InputError` if the chat template's text after a canary changes the canary's last tokens.

        The tokens trained on would then differ from those scored: for instance, the last full stop and the newline
        after it may be one token.
        """
        before, after = self.around(tokenizer)
        # A special token, with which most templates end a turn, merges with nothing.
        first = tokenizer(after, add_special_tokens=False)["input_ids"][:1] if after else []
        if not texts or not first or first[0] in getattr(tokenizer, "all_special_ids", ()):
            return
        alone = tokenizer([before + text for text in texts], add_special_tokens=False)["input_ids"]
        followed = tokenizer([before + text + after for text in texts], add_special_tokens=False)["input_ids"]
        for row, (ids, more) in enumerate(zip(alone, followed, strict=True)):
            if list(more[: len(ids)]) != list(ids):
                rule = "must not merge the end of a canary with what the chat template writes after it"
                remedy = "End the canary template with another suffix (a word), or the turn with a special token."
                raise RowInputError("context", rule, row, remedy)
