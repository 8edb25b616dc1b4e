"""No error, warning, log line or note contains a canary: every class of error is provoked, and all output is searched.

The search covers the message, arguments and notes of an error and of all its causes and contexts, even hidden ones,
the formatted traceback, warnings, log records, and both output streams.
"""

from __future__ import annotations

import inspect
import json
import logging
import traceback
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest.mock import patch

import numpy as np
import pytest
import torch
from callback_runs import make_trainer
from cli.cli_runs import run
from conftest import character_tokenizer, tiny_model
from datasets import Dataset, IterableDataset
from endpoint_server import serving
from report_samples import mixed
from torch import nn
from transformers import BertConfig, BertForMaskedLM, ByT5Tokenizer, T5Config, T5ForConditionalGeneration

import hf_exposure.errors
from hf_exposure import (
    CanaryContext,
    CanaryInserter,
    CanarySet,
    CanaryTemplate,
    Choice,
    Digits,
    Endpoint,
    ExposureCallback,
    ExposureMeter,
    ExposureReport,
    Words,
    check_delivery,
    discoverable_extraction,
    draw_canaries,
    extract,
    insert_canaries,
    log_perplexity,
    measure_exposure,
    near_extraction,
    rank_bounds,
    remove_canaries,
)
from hf_exposure.canaries import Canary
from hf_exposure.canaries.secrecy import message_of, without_secrets
from hf_exposure.data.delivery import check_dataloader
from hf_exposure.data.rows import CanaryRows, Placement
from hf_exposure.errors import (
    CanaryFileError,
    EndpointError,
    ExposureError,
    HubError,
    InputError,
    MissingDependencyError,
    NonFiniteScoreError,
    OutOfStepError,
    ProcessesDifferError,
    RowError,
    RowInputError,
    SecretFoundError,
)
from hf_exposure.hub import push_to_hub, refuse_secrets
from hf_exposure.hub.card import updated_card
from hf_exposure.report.plots import draw_plots
from hf_exposure.runtime.processes import Processes
from hf_exposure.scoring import Encoder, EndpointScorer
from hf_exposure.scoring.decoding import decode_greedily

TEMPLATE = CanaryTemplate("number {number}.", number=Digits(9))
CANARIES = draw_canaries(TEMPLATE, {1: 2, 2: 1}, controls=2, seed=555_000_555)
OWN = CANARIES.inserted[1]
TEXTS = [canary.text for canary in CANARIES]
DIGITS = [TEMPLATE.parse(text)["number"] for text in TEXTS]
TOKENIZER = ByT5Tokenizer()
IDS = [TOKENIZER(digits, add_special_tokens=False)["input_ids"] for digits in DIGITS]
ROWS = Dataset.from_dict({"text": [f"row {number}" for number in range(20)]})


def said_by(error: BaseException) -> Iterator[str]:
    """All text of an error and of its causes and contexts, whether Python would show them or not."""
    seen: set[int] = set()
    waiting = [error]
    while waiting:
        one = waiting.pop()
        if id(one) in seen:
            continue
        seen.add(id(one))
        yield f"{one!r} {one} {one.args!r} {getattr(one, '__notes__', '')}"
        yield "".join(f"{name}={value!r}" for name, value in vars(one).items())
        waiting += [behind for behind in (one.__cause__, one.__context__) if behind is not None]
    yield "".join(traceback.format_exception(error))


def refuse_leaks(said: str) -> None:
    for digits, ids in zip(DIGITS, IDS, strict=True):
        assert digits not in said, f"the digits of a canary are in: {said}"
        assert ", ".join(map(str, ids)) not in said, f"the token ids of a canary are in: {said}"
    assert str(CANARIES.seed) not in said, f"the seed of the draw is in: {said}"


class Spoilt(nn.Module):
    """Returns NaN logits after one canary's last digits, or raises an error that quotes its input."""

    def __init__(self, fault: str = "nan") -> None:
        super().__init__()
        self.inner, self.fault = tiny_model("gpt2"), fault
        self.config = self.inner.config
        self.tail = torch.tensor(TOKENIZER(OWN.text, add_special_tokens=False)["input_ids"][-5:-1])

    def forward(self, input_ids: torch.Tensor, **more: Any) -> Any:
        output = self.inner(input_ids=input_ids, **more)
        if self.fault == "nan":
            for row, ids in enumerate(input_ids):
                if len(ids) > 4 and (ids.unfold(0, 4, 1) == self.tail).all(dim=1).any():
                    output.logits[row] = float("nan")
        elif self.fault == "text":
            raise ValueError(f"cannot read {OWN.text}") from KeyError(OWN.text)
        elif self.fault == "all":
            output.logits[:] = float("nan")
        return output


class Quoting:
    """A tokenizer that quotes a text in its error."""

    all_special_ids: tuple[int, ...] = ()

    def __call__(self, text: Any, **more: Any) -> Any:
        texts = [text] if isinstance(text, str) else text
        if any(OWN.text in one for one in texts):
            raise TypeError(f"cannot encode {OWN.text!r}")
        return TOKENIZER(text, **more)

    def __getattr__(self, name: str) -> Any:
        return getattr(TOKENIZER, name)


def without_digit(lacking: str) -> Any:
    return character_tokenizer("number .0123456789".replace(lacking, ""))


def short_model(positions: int = 8) -> nn.Module:
    return tiny_model("gpt2", n_positions=positions)


def bert(positions: int = 64) -> nn.Module:
    config = BertConfig(
        vocab_size=384, hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=16,
        max_position_embeddings=positions,
    )  # fmt: skip
    return BertForMaskedLM(config).eval()


def translator(positions: int = 12) -> nn.Module:
    config = T5Config(
        vocab_size=384, d_model=16, d_kv=8, d_ff=16, num_layers=1, num_heads=2, decoder_start_token_id=0,
        max_position_embeddings=positions,
    )  # fmt: skip
    return T5ForConditionalGeneration(config).eval()


def masked_tokenizer() -> Any:
    tokenizer = ByT5Tokenizer(mask_token="<extra_id_0>")
    return tokenizer


def all_nan(model: nn.Module) -> nn.Module:
    def spoil(module: nn.Module, arguments: Any, output: Any) -> None:
        output.logits.fill_(float("nan"))

    model.register_forward_hook(spoil)
    return model


def edited_file(folder: Path, **changes: Any) -> Path:
    path = folder / "canaries.json"
    CANARIES.save(path)
    values = json.loads(path.read_text())
    for name, value in changes.items():
        if name == "text":
            values["canaries"][0]["text"] = value
        elif name == "cut":
            path.write_text(path.read_text()[:value])
            return path
        else:
            values[name] = value
    path.write_text(json.dumps(values))
    return path


def out_of_step(folder: Path) -> None:
    processes = Processes(0, 2, sharded=True)
    store = SimpleNamespace(add=lambda key, number: 1)
    with (
        patch("hf_exposure.runtime.processes.job_store", lambda: store),
        patch("hf_exposure.runtime.processes.SECONDS_FOR_ALL_TO_FAIL", -1.0),
        patch.object(Processes, "of_job", classmethod(lambda cls, model, **more: processes)),
    ):
        ExposureMeter(CANARIES, TOKENIZER, method="sample", references=8, across_processes=True).measure(
            Spoilt("text")
        )


def another_process(folder: Path) -> None:
    processes = Processes(0, 2)

    def failed_there(tensor: torch.Tensor, **more: Any) -> None:
        tensor.fill_(2)

    def say(all_of_them: list[torch.Tensor], mine: torch.Tensor) -> None:
        said = f"ValueError: cannot read {OWN.text}".encode()
        all_of_them[0][:] = mine
        all_of_them[1][:] = torch.tensor(list(said.ljust(len(mine))), dtype=torch.uint8)

    with (
        patch("torch.distributed.all_reduce", failed_there),
        patch("torch.distributed.all_gather", say),
        patch.object(Processes, "of_job", classmethod(lambda cls, model, **more: processes)),
    ):
        ExposureMeter(CANARIES, TOKENIZER, method="sample", references=8, across_processes=True).measure(
            tiny_model("gpt2")
        )


def processes_differ(folder: Path) -> None:
    processes = Processes(0, 2)

    def said(_: Processes, own: str) -> list[str]:
        return [own, own.replace("seed\t0", "seed\t1")]

    def say(all_of_them: list[torch.Tensor], mine: torch.Tensor) -> None:
        for one in all_of_them:
            one[:] = mine

    with (
        patch("torch.distributed.all_reduce", lambda tensor, **more: None),
        patch("torch.distributed.all_gather", say),
        patch.object(Processes, "all_gather_texts", said),
        patch.object(Processes, "of_job", classmethod(lambda cls, model, **more: processes)),
    ):
        ExposureMeter(CANARIES, TOKENIZER, method="sample", references=8, across_processes=True).measure(
            tiny_model("gpt2")
        )


def training(folder: Path, on_error: str, fault: str = "nan") -> None:
    callback = ExposureCallback(
        CANARIES,
        strategy="end",
        on_error=on_error,
        require_delivery=False,
        method="sample",
        references=8,  # type: ignore[arg-type]
    )
    trainer = make_trainer(
        folder, [callback], model=Spoilt(fault) if fault == "nan" else None, remove_unused_columns=False
    )
    if fault == "text":
        trainer.model.register_forward_hook(quote_in_evaluation)
    callback.attach(trainer)
    trainer.train()
    assert callback.report is None
    assert np.isnan([row["eval_exposure_mean"] for row in trainer.state.log_history if "eval_exposure_mean" in row][0])


def quote_in_evaluation(module: nn.Module, arguments: Any, output: Any) -> None:
    if not module.training:
        raise RuntimeError(f"cannot read {OWN.text}")


def unreachable_hub(folder: Path) -> None:
    with patch("huggingface_hub.constants.HF_HUB_OFFLINE", True), patch("hf_exposure.hub.push.WAITS", ()):
        push_to_hub(mixed(), "me/model", token="hf_x", canaries=CANARIES)


def refusing_endpoint(folder: Path) -> None:
    """A server that quotes its input in an error."""
    with serving(tiny_model("gpt2"), TOKENIZER) as server:
        scorer = EndpointScorer(Endpoint(server.url), TOKENIZER)
        server.failures = [(400, {"X-Prompt": OWN.text})]
        server.refusal = OWN.text
        scorer.sequence_bits(scorer.encode([OWN.text]))


def no_matplotlib(folder: Path) -> None:
    with patch("hf_exposure.report.plots.matplotlib_is_installed", lambda: False):
        draw_plots(mixed(), [], folder)


def card_with_a_secret(folder: Path) -> None:
    """The Hub refuses the card's metadata, and quotes them."""
    refusal = ValueError(f"invalid metadata: {OWN.text}")
    with (
        patch("hf_exposure.hub.push._read_card", lambda *arguments: None),
        patch("huggingface_hub.HfApi.model_info", lambda *arguments, **more: SimpleNamespace(sha="0" * 40)),
        patch("huggingface_hub.HfApi.create_commit", side_effect=refusal),
    ):
        push_to_hub(mixed(), "me/model", token="hf_x", canaries=CANARIES)


def mixed_types(folder: Path) -> None:
    """Chats in a column of numbers: Arrow quotes the value that it cannot convert."""
    context = CanaryContext(prompt=[{"role": "user", "content": "?"}])
    insert_canaries(Dataset.from_dict({"messages": [1] * 20}), CANARIES, context=context)


def scored(model: nn.Module, tokenizer: Any = TOKENIZER, **more: Any) -> Callable[[Path], Any]:
    return lambda folder: log_perplexity(model, tokenizer, TEXTS, **more)


def measured(model: Callable[[], nn.Module], tokenizer: Any = TOKENIZER, **more: Any) -> Callable[[Path], Any]:
    return lambda folder: measure_exposure(model(), tokenizer, CANARIES, **{"references": 8, **more})


def translated(texts: list[str], sources: Any) -> Callable[[Path], Any]:
    return lambda folder: log_perplexity(translator(), TOKENIZER, texts, sources=sources)


def gpt2() -> nn.Module:
    return tiny_model("gpt2")


PROVOKED: dict[str, tuple[type[BaseException], Callable[[Path], Any]]] = {
    # texts of a call
    "context": (RowInputError, scored(short_model())),
    "unknown token": (RowInputError, scored(gpt2(), without_digit(DIGITS[0][0]))),
    "one text": (InputError, lambda folder: log_perplexity(gpt2(), TOKENIZER, OWN.text)),
    "a number": (InputError, lambda folder: log_perplexity(gpt2(), TOKENIZER, [int(DIGITS[0])])),  # type: ignore[list-item]
    "a row": (InputError, lambda folder: log_perplexity(gpt2(), TOKENIZER, [{"text": TEXTS[0]}])),  # type: ignore[list-item]
    "surrogate": (InputError, lambda folder: log_perplexity(gpt2(), TOKENIZER, [OWN.text + "\ud800"])),
    "nan": (NonFiniteScoreError, scored(Spoilt())),
    "nan, masked": (NonFiniteScoreError, scored(all_nan(bert()), masked_tokenizer())),
    "context, masked": (RowInputError, scored(bert(8), masked_tokenizer())),
    "nan, target": (NonFiniteScoreError, scored(all_nan(translator(64)), sources="a")),
    "source too long": (RowInputError, translated(["a"] * len(TEXTS), TEXTS)),
    "fixed source too long": (InputError, translated(["a"], OWN.text)),
    "sources, too few": (InputError, translated(["a"], TEXTS)),
    "target too long": (RowInputError, scored(translator(), sources=["a"] * len(TEXTS))),
    "nan in a search": (NonFiniteScoreError, lambda folder: rank_bounds(Spoilt("all"), TOKENIZER, OWN.text, TEMPLATE)),
    "nan in an extraction": (NonFiniteScoreError, lambda folder: extract(Spoilt("all"), TOKENIZER, TEMPLATE)),
    "nan after a prompt": (
        NonFiniteScoreError, lambda folder: decode_greedily(Spoilt("all"), IDS[0], 2),
    ),
    # canaries
    "meter, context": (RowInputError, measured(short_model, method="sample")),
    "meter, unknown token": (RowInputError, measured(gpt2, without_digit(DIGITS[0][0]), method="sample")),
    "meter, unknown token in a search": (RowInputError, measured(gpt2, without_digit(DIGITS[0][0]), method="bounded")),
    "meter, nan": (NonFiniteScoreError, measured(Spoilt, method="sample")),
    "meter, nan everywhere": (NonFiniteScoreError, measured(lambda: Spoilt("all"))),
    "meter, the model quotes": (ExposureError, measured(lambda: Spoilt("text"))),
    "meter, the tokenizer quotes": (ExposureError, measured(gpt2, Quoting(), method="sample")),
    "out of step": (OutOfStepError, out_of_step),
    "another process": (ExposureError, another_process),
    "processes differ": (ProcessesDifferError, processes_differ),
    "training, nan": (NonFiniteScoreError, lambda folder: training(folder, "raise")),
    "training, quoted": (ExposureError, lambda folder: training(folder, "raise", "text")),
    "asked for": (
        RowInputError,
        lambda folder: discoverable_extraction(gpt2(), TOKENIZER, TEMPLATE, [*TEXTS, OWN.text + DIGITS[0]]),
    ),
    "asked for nearly": (
        RowInputError,
        lambda folder: near_extraction(gpt2(), TOKENIZER, TEMPLATE, OWN.text + DIGITS[0]),
    ),
    # arguments in the wrong place
    "a text for a template": (InputError, lambda folder: extract(gpt2(), TOKENIZER, OWN.text)),  # type: ignore[arg-type]
    "no template": (InputError, lambda folder: rank_bounds(gpt2(), TOKENIZER, TEMPLATE, OWN.text)),  # type: ignore[arg-type]
    "another template's text": (InputError, lambda folder: rank_bounds(gpt2(), TOKENIZER, OWN.text + "!", TEMPLATE)),
    "a text for a set": (InputError, lambda folder: measure_exposure(gpt2(), TOKENIZER, OWN.text)),  # type: ignore[arg-type]
    "no hole": (InputError, lambda folder: CanaryTemplate(OWN.text)),
    "render": (InputError, lambda folder: TEMPLATE.render(number=DIGITS[0] + "0")),
    "render a number": (InputError, lambda folder: TEMPLATE.render(number=int(DIGITS[0]))),  # type: ignore[arg-type]
    "parse": (InputError, lambda folder: TEMPLATE.parse(OWN.text + ".")),
    "index": (InputError, lambda folder: Digits(8).index_of(DIGITS[0])),
    "options": (InputError, lambda folder: Choice([DIGITS[0], DIGITS[0]])),
    "options, one text": (InputError, lambda folder: Choice(OWN.text)),
    "options, numbers": (InputError, lambda folder: Choice([int(DIGITS[0])])),  # type: ignore[list-item]
    "words": (InputError, lambda folder: Words(2, words=[OWN.text, "b"])),
    "repetitions": (InputError, lambda folder: draw_canaries(TEMPLATE, TEXTS)),  # type: ignore[arg-type]
    "repetitions of each": (InputError, lambda folder: CanarySet.from_secrets(TEMPLATE, TEXTS, TEXTS)),  # type: ignore[arg-type]
    "seed": (InputError, lambda folder: draw_canaries(TEMPLATE, {1: 1}, seed=str(CANARIES.seed))),  # type: ignore[arg-type]
    "secrets of another template": (InputError, lambda folder: CanarySet.from_secrets(TEMPLATE, [OWN.text + "."])),
    "secrets twice": (InputError, lambda folder: CanarySet.from_secrets(TEMPLATE, [OWN.text, OWN.text])),
    "secrets that are numbers": (
        InputError, lambda folder: CanarySet.from_secrets(TEMPLATE, [int(DIGITS[0])]),  # type: ignore[list-item]
    ),
    "secrets, one text": (InputError, lambda folder: CanarySet.from_secrets(TEMPLATE, OWN.text)),
    "a canary of another template": (
        InputError,
        lambda folder: CanarySet(
            inserted=(Canary(text=OWN.text, template=CanaryTemplate("{n}", n=Digits(9)), repetitions=1),),
            template=CanaryTemplate("{n}", n=Digits(9)),
        ),
    ),
    "a prompt": (InputError, lambda folder: CanaryContext(prompt=[OWN.text])),  # type: ignore[list-item]
    "a context": (InputError, lambda folder: insert_canaries(ROWS, CANARIES, context=OWN.text)),  # type: ignore[arg-type]
    "a context to measure in": (InputError, measured(gpt2, context=OWN.text)),
    # files
    "file, cut": (CanaryFileError, lambda folder: CanarySet.load(edited_file(folder, cut=-20))),
    "file, text": (CanaryFileError, lambda folder: CanarySet.load(edited_file(folder, text=OWN.text + DIGITS[0]))),
    "file, text of a canary": (CanaryFileError, lambda folder: CanarySet.load(edited_file(folder, text=TEXTS[1]))),
    "file, version": (CanaryFileError, lambda folder: CanarySet.load(edited_file(folder, version=OWN.text))),
    "file, seed": (CanaryFileError, lambda folder: CanarySet.load(edited_file(folder, seed=OWN.text))),
    "report, secrets": (
        InputError,
        lambda folder: ExposureReport.from_dict({**mixed().to_dict(), "secrets": {"a": [OWN.text]}}),
    ),
    # data
    "insert, column": (InputError, lambda folder: insert_canaries(Dataset.from_dict({"text": [1] * 20}), CANARIES)),
    "insert, chats": (InputError, mixed_types),
    "insert, blocks": (
        RowInputError,
        lambda folder: insert_canaries(
            Dataset.from_dict({"input_ids": [[9] * 8] * 20}), CANARIES, tokenizer=TOKENIZER
        ),
    ),
    "insert, quoted": (
        ExposureError,
        lambda folder: insert_canaries(
            Dataset.from_dict({"input_ids": [[9] * 8, [9]] * 20}), CANARIES, tokenizer=Quoting()
        ),
    ),
    "insert, values": (
        InputError, lambda folder: insert_canaries(ROWS, CANARIES, other_columns={"label": OWN.text}),
    ),
    "insert, a value": (
        InputError,
        lambda folder: insert_canaries(
            ROWS.add_column("label", [1] * 20), CANARIES, other_columns={"label": OWN.text}
        ),
    ),
    "remove": (
        ExposureError,
        lambda folder: remove_canaries(Dataset.from_dict({"input_ids": [[9]]}), CANARIES, tokenizer=Quoting()),
    ),
    "stream": (
        InputError,
        lambda folder: insert_canaries(
            Dataset.from_dict({"text": [1] * 20}).to_iterable_dataset(), CANARIES, num_rows=20
        ),
    ),
    "map, plain": (
        InputError,
        lambda folder: Dataset.from_dict({"text": [1] * 20}).map(
            CanaryInserter(CANARIES, 20), batched=True, with_indices=True
        ),
    ),
    "stream without a schema": (
        InputError,
        lambda folder: insert_canaries(
            IterableDataset.from_generator(lambda: iter([{"text": 1}] * 20)), CANARIES, num_rows=20
        ),
    ),
    "delivery": (ExposureError, lambda folder: check_delivery(ROWS, CANARIES, Quoting())),
    # the Hub
    "upload": (SecretFoundError, lambda folder: refuse_secrets({"a.md": OWN.text.encode()}, CANARIES)),
    "hub": (HubError, unreachable_hub),
    "card": (ExposureError, card_with_a_secret),
    "endpoint": (EndpointError, refusing_endpoint),
    "plots": (MissingDependencyError, no_matplotlib),
}  # fmt: skip


@pytest.mark.parametrize("name", PROVOKED)
def test_no_error_holds_a_secret(
    name: str, tmp_path: Path, caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str]
) -> None:
    kind, provoke = PROVOKED[name]
    caplog.set_level(logging.DEBUG)
    with (
        warnings.catch_warnings(record=True) as warned,
        patch("hf_exposure.report.plots.matplotlib_is_installed", lambda: False),
    ):
        warnings.simplefilter("always")
        with pytest.raises(ExposureError) as caught:
            provoke(tmp_path)
    assert type(caught.value) is kind, repr(caught.value)
    for said in (*said_by(caught.value), *(str(one.message) for one in warned), caplog.text, *capfd.readouterr()):
        refuse_leaks(said)


def test_every_class_of_error_is_provoked() -> None:
    known = {
        kind for _, kind in inspect.getmembers(hf_exposure.errors, inspect.isclass) if issubclass(kind, Exception)
    }
    assert known - {RowError} == {kind for kind, _ in PROVOKED.values()}


@pytest.mark.parametrize("name", ["meter, context", "meter, unknown token", "meter, nan"])
def test_canaries_are_named_by_their_ids(name: str, tmp_path: Path) -> None:
    with pytest.raises(ExposureError, match=r"canary [0-9a-f]{8}\b") as caught:
        PROVOKED[name][1](tmp_path)
    assert any(canary.id in str(caught.value) for canary in CANARIES)


def test_the_canary_named_is_the_one(tmp_path: Path) -> None:
    """NaN for one canary only, and in one reference only."""
    with pytest.raises(NonFiniteScoreError, match=f"^the model returned NaN logits for canary {OWN.id}$"):
        PROVOKED["meter, nan"][1](tmp_path)
    with pytest.raises(NonFiniteScoreError, match="^the model returned NaN logits for text 1$"):
        PROVOKED["nan"][1](tmp_path)
    with pytest.raises(RowInputError, match=f"got canary {CANARIES.inserted[0].id}\\."):
        PROVOKED["insert, blocks"][1](tmp_path)


def test_a_reference_is_not_identified_by_its_number() -> None:
    """In an enumerated space, the number of a text gives the text away."""
    canaries = CanarySet.from_secrets(CanaryTemplate("{d}", d=Digits(2)), ["17"])
    tokenizer = character_tokenizer("01234567")
    with pytest.raises(RowInputError, match="got a text of the template") as caught:
        measure_exposure(tiny_model("gpt2"), tokenizer, canaries, method="enumerate")
    assert not any(character.isdigit() for character in str(caught.value))


@pytest.mark.filterwarnings("ignore:INVALID. 0 of 3 inserted canaries:UserWarning")  # its rows contain none
@pytest.mark.parametrize("fault", ["nan", "text"])
def test_a_training_run_that_continues_logs_no_secret(
    fault: str, tmp_path: Path, caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str]
) -> None:
    caplog.set_level(logging.DEBUG)
    with pytest.warns(UserWarning, match="could not be measured and is logged as NaN") as warned:
        training(tmp_path, "warn", fault)
    for said in (*(str(one.message) for one in warned), caplog.text, *capfd.readouterr()):
        refuse_leaks(said)
    for path in tmp_path.rglob("*"):
        if path.suffix in (".json", ".jsonl", ".md"):
            refuse_leaks(path.read_text())


def test_the_notes_of_a_report_hold_no_secret() -> None:
    """The notes say why a search is impossible, and why delivery could not be checked."""
    lowercased = character_tokenizer("number .0123456789abcdef", lowercase=True)
    template = CanaryTemplate("number {n}.", n=Choice(["0A", "0a", *DIGITS]))
    canaries = CanarySet.from_secrets(template, [f"number {DIGITS[0]}."], controls=2, seed=0)
    report = measure_exposure(tiny_model("gpt2"), lowercased, canaries, references=3)
    assert "uniform references instead" in report.notes[0]
    refuse_leaks(json.dumps(report.to_dict()["notes"]))

    def collate(rows: list[dict[str, Any]]) -> Any:
        raise ValueError(f"no ids in {OWN.text}")

    rows = [{"text": OWN.text}] * 4
    delivery = check_dataloader(SimpleNamespace(dataset=rows, collate_fn=collate), CANARIES, TOKENIZER)
    assert "its collator fails" in delivery.note or "withheld" in delivery.note
    refuse_leaks(delivery.note)

    class Failing(list[Any]):
        def __getitem__(self, place: Any) -> Any:
            raise LookupError(OWN.text)

    delivery = check_dataloader(SimpleNamespace(dataset=Failing(rows), collate_fn=None), CANARIES, TOKENIZER)
    assert "ExposureError: LookupError: its message is withheld" in delivery.note
    refuse_leaks(delivery.note)


@pytest.mark.parametrize(
    "shown",
    [
        CANARIES,
        OWN,
        TEMPLATE,
        Encoder.of(TOKENIZER).encode(TEXTS),
        CanaryRows.of(CANARIES, Placement(tokenizer=TOKENIZER)),
    ],
    ids=lambda value: type(value).__name__,
)
def test_no_repr_holds_a_secret(shown: Any) -> None:
    refuse_leaks(f"{shown!r} {shown}")


def test_the_command_line_says_no_secret(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    CANARIES.save(tmp_path / "c.json")
    model = tmp_path / "model"
    short_model().save_pretrained(model)  # type: ignore[operator]
    TOKENIZER.save_pretrained(model)
    (tmp_path / "bad.csv").write_text(f'text\n"{OWN.text}\na,b,c\n')
    (tmp_path / "bad.jsonl").write_text(json.dumps({"text": OWN.text}) + "\n" + OWN.text + "\n")
    edited_file(tmp_path, text=OWN.text + "9")
    for arguments in (
        ["measure", "--model", model, "--canaries", tmp_path / "c.json"],
        ["measure", "--model", model, "--canaries", tmp_path / "canaries.json"],
        ["extract", "--model", model, "--canaries", tmp_path / "c.json"],
        ["insert", "--dataset", tmp_path / "bad.csv", "--canaries", tmp_path / "c.json", "--out", tmp_path / "o"],
        ["insert", "--dataset", tmp_path / "bad.jsonl", "--canaries", tmp_path / "c.json", "--out", tmp_path / "o"],
    ):
        done = run(capsys, *arguments)
        assert done.status >= 2, done
        refuse_leaks(done.out + done.err)


def test_an_error_that_quotes_is_replaced_and_others_are_not() -> None:
    def fail(error: BaseException) -> Callable[[], None]:
        def work() -> None:
            raise error

        return work

    harmless = KeyError("nothing of it")
    with pytest.raises(KeyError) as caught:
        without_secrets(CANARIES, fail(harmless))
    assert caught.value is harmless
    with pytest.raises(ExposureError, match=f"^KeyError: its message is withheld because it quotes canary {OWN.id}$"):
        without_secrets(CANARIES, fail(KeyError(OWN.text)))
    noted = ValueError("harmless")
    noted.add_note(f"while reading {DIGITS[1]}")
    with pytest.raises(ExposureError, match="ValueError: its message is withheld"):
        without_secrets(CANARIES, fail(noted))
    caused = RuntimeError("harmless")
    caused.__cause__, caused.__context__ = ValueError("harmless too"), KeyError(OWN.text)
    caused.__cause__.__cause__ = KeyError(DIGITS[0])
    with pytest.raises(RuntimeError) as kept:
        without_secrets(CANARIES, fail(caused))
    assert kept.value is caused and isinstance(caused.__cause__, ValueError)
    assert caused.__cause__.__cause__ is None and caused.__context__ is None
    # Digits within a longer number are a different number.
    longer = f"{DIGITS[0]}0"
    with pytest.raises(KeyError):
        without_secrets(CANARIES, fail(KeyError(longer)))
    assert message_of(KeyError(longer), CANARIES) == repr(longer)


def test_errors_travel_between_processes_unchanged() -> None:
    import pickle

    for error in (
        RowInputError("texts", "must fit", 3, "Cut it."),
        RowInputError("texts", "must fit", 3, "Cut it.").named("canary ab12"),
        NonFiniteScoreError(2),
        NonFiniteScoreError(2).named("canary ab12"),
        NonFiniteScoreError(where="after 7 tokens"),
    ):
        copy = pickle.loads(pickle.dumps(error))
        assert (type(copy), str(copy), copy.row) == (type(error), str(error), error.row)


def test_a_card_that_is_no_yaml_names_its_error_without_canaries() -> None:
    with pytest.raises(InputError, match=r"^README.md: must have YAML metadata"):
        updated_card("---\n[: {\n---\n", mixed(), name="m", files=[])
