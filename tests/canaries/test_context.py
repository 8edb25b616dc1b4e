"""A context writes the same text as the trainer."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
from chat_tokenizers import CHATML, chat_tokenizer

from hf_exposure import CanaryContext
from hf_exposure.errors import InputError

ASKED = CanaryContext(prompt=[{"role": "system", "content": "Be kind."}, {"role": "user", "content": "Your number?"}])


def test_a_chat_is_split_around_the_assistants_text() -> None:
    before, after = ASKED.around(chat_tokenizer())
    assert before == "<|start|>system\nBe kind.<|end|>\n<|start|>user\nYour number?<|end|>\n<|start|>assistant\n"
    assert after == "<|end|>\n"
    assert CanaryContext(prompt="Q: who? A: ").around(None) == ("Q: who? A: ", "")
    assert CanaryContext(prompt=()).around(chat_tokenizer()) == ("<|start|>assistant\n", "<|end|>\n")


def test_another_template_and_its_arguments() -> None:
    tokenizer = chat_tokenizer()
    context = CanaryContext(
        prompt=(), chat_template="{{ mood }}{{ messages[-1].content }}!", chat_template_kwargs={"mood": "hm "}
    )
    assert context.around(tokenizer) == ("hm ", "!")
    assert tokenizer.chat_template == CHATML


def test_of_several_chat_templates_the_default_is_taken() -> None:
    tokenizer = chat_tokenizer()
    expected = ASKED.around(tokenizer)
    tokenizer.chat_template = {"default": CHATML, "rag": "nothing"}
    assert ASKED.around(tokenizer) == expected
    own = CanaryContext(prompt=(), chat_template="{{ messages[-1].content }}!")
    assert own.around(tokenizer) == ("", "!")


@pytest.mark.parametrize(
    ("prompt", "message"),
    [
        (3, "prompt: must be a text or a list of messages, got 3"),
        (["hello"], "prompt: must have messages with a role and a text, got 'a text of 5 characters'"),
        ([{"role": "user"}], "prompt: must have messages with a role and a text"),
    ],
)
def test_a_wrong_prompt_is_refused(prompt: object, message: str) -> None:
    with pytest.raises(InputError) as caught:
        CanaryContext(prompt=prompt)  # type: ignore[arg-type]
    assert message in str(caught.value)


@pytest.mark.parametrize(
    ("template", "message"),
    [
        (None, "tokenizer: must have a chat template"),
        ("nothing", "must be written exactly once by the chat template: the assistant's last turn, got '0 times'"),
        ("{{ raise_exception('no system turn') }}", "messages that the chat template accepts (no system turn)"),
    ],
    ids=["none", "silent", "refuses"],
)
def test_a_template_that_does_not_fit_is_refused(template: str | None, message: str) -> None:
    tokenizer = chat_tokenizer(template) if template else SimpleNamespace(chat_template=None)
    with pytest.raises(InputError) as caught:
        ASKED.around(tokenizer)
    assert message in str(caught.value)
