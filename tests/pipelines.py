"""Random training pipelines, and a count of canaries by brute force in what their trainers trained on.

The count takes another path than the package's: batches are recorded where `training_step` receives them, documents
are split and decoded to strings in plain Python, and a canary is found by its text.
"""

from __future__ import annotations

import json
import os
import random
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from chat_tokenizers import CHATML, chat_tokenizer
from datasets import Dataset
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import (
    DataCollatorForLanguageModeling,
    DataCollatorForSeq2Seq,
    DataCollatorWithFlattening,
    GPT2Config,
    GPT2LMHeadModel,
    PreTrainedTokenizerFast,
    Seq2SeqTrainer,
    Seq2SeqTrainingArguments,
    T5Config,
    T5ForConditionalGeneration,
    Trainer,
    TrainingArguments,
)

from hf_exposure import (
    CanaryContext,
    CanarySet,
    CanaryTemplate,
    Digits,
    ExposureCallback,
    Letters,
    draw_canaries,
    insert_canaries,
)

WORDS = [
    "the",
    "a",
    "pin",
    "is",
    "code",
    "my",
    "of",
    "and",
    "7",
    "12",
    "404",
    "It",
    "then",
    "was",
    "she",
    "he",
    "we.",
    "door,",
    "says",
    "number\nword",
]
KINDS = ("padded", "labeled", "flattened", "stream", "trl", "trl chat", "trl pairs", "seq2seq")


def merging_tokenizer() -> PreTrainedTokenizerFast:
    """A byte-level BPE whose tokens join spaces, words and digits, trained on the spot."""
    backend = Tokenizer(models.BPE())
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    generator = random.Random(0)
    lines = [" ".join(generator.choices([*WORDS, "It is 12", "my pin: 40", "99", "07"], k=12)) for _ in range(300)]
    trainer = trainers.BpeTrainer(
        vocab_size=360,
        special_tokens=["<pad>", "<s>", "</s>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    backend.train_from_iterator(lines, trainer)
    return PreTrainedTokenizerFast(tokenizer_object=backend, pad_token="<pad>", bos_token="<s>", eos_token="</s>")


@dataclass
class Counted:
    """How often each canary's text occurred, by whether its labels were trained on, in the canaries' order."""

    whole: list[int]
    partly: list[int]
    masked: list[int]

    def __add__(self, other: Counted) -> Counted:
        both = zip(vars(self).values(), vars(other).values(), strict=True)
        return Counted(*([a + b for a, b in zip(*pair, strict=True)] for pair in both))


@dataclass
class Pipeline:
    """One random training run, which can be repeated from the start or from a checkpoint."""

    kind: str
    canaries: CanarySet
    tokenizer: Any
    data: Any
    settings: dict[str, Any]
    context: CanaryContext | None
    source: str | None
    label: str
    merges: bool
    recorded: list[tuple[int, dict[str, Any]]] = field(default_factory=list)

    def trainer(self, folder: Path, callbacks: list[Any], **changes: Any) -> Any:
        settings = {**self.settings, "output_dir": str(folder), **changes}
        torch.manual_seed(0)
        if self.kind == "seq2seq":
            model = T5ForConditionalGeneration(
                T5Config(vocab_size=len(self.tokenizer), d_model=8, d_kv=4, d_ff=16, num_layers=1, num_heads=2,
                         decoder_start_token_id=0, pad_token_id=0, eos_token_id=2)
            )  # fmt: skip
            collator = DataCollatorForSeq2Seq(self.tokenizer, model=model)
            made = Seq2SeqTrainer(
                model, Seq2SeqTrainingArguments(**settings), collator, self.data, processing_class=self.tokenizer,
                callbacks=callbacks,
            )  # fmt: skip
        else:
            config = GPT2Config(vocab_size=len(self.tokenizer), n_layer=1, n_head=2, n_embd=8, n_positions=512,
                                pad_token_id=0, bos_token_id=1, eos_token_id=2)  # fmt: skip
            model = GPT2LMHeadModel(config)
            if self.kind.startswith("trl"):
                import trl

                made = trl.SFTTrainer(
                    model, trl.SFTConfig(**settings), train_dataset=self.data, processing_class=self.tokenizer,
                    callbacks=callbacks,
                )  # fmt: skip
            else:
                collator = {
                    "flattened": DataCollatorWithFlattening(),
                    "labeled": DataCollatorForSeq2Seq(self.tokenizer),
                }.get(self.kind, DataCollatorForLanguageModeling(self.tokenizer, mlm=False))
                made = Trainer(
                    model, TrainingArguments(**settings), collator, self.data, processing_class=self.tokenizer,
                    callbacks=callbacks,
                )  # fmt: skip
        self._record(made)
        return made

    def callback(self, **arguments: Any) -> ExposureCallback:
        settings = {"strategy": "end", "method": "sample", "references": 16, "require_delivery": False}
        return ExposureCallback(self.canaries, context=self.context, source=self.source, **{**settings, **arguments})

    def _record(self, trainer: Any) -> None:
        step = trainer.training_step

        def recording(model: Any, inputs: dict[str, Any], *args: Any, **named: Any) -> Any:
            batch = {name: value.tolist() for name, value in inputs.items() if isinstance(value, torch.Tensor)}
            self.recorded.append((trainer.state.global_step, batch))
            return step(model, inputs, *args, **named)

        trainer.training_step = recording

    def counted(self, before: float = float("inf")) -> Counted:
        """Counts by brute force in the batches recorded at steps below `before`."""
        nothing = [0] * len(self.canaries)
        total = Counted(nothing, nothing, nothing)
        texts = [canary.text for canary in self.canaries]
        for step, batch in self.recorded:
            for document in documents(batch, self.kind == "seq2seq") if step < before else []:
                total = total + count_in(document, texts, self.tokenizer)
        return total


def documents(batch: dict[str, Any], of_labels: bool) -> list[list[tuple[int, bool]]]:
    """(token, whether it counts in the loss) of each document; a decoder does not predict its first token."""
    found: list[list[tuple[int, bool]]] = []
    for number, labels in enumerate(batch["labels"]):
        if of_labels:
            found.append([(label, label != -100) for label in labels])
            continue
        ids = batch["input_ids"][number]
        masks = batch["attention_mask"][number] if "attention_mask" in batch else [1] * len(ids)
        positions = batch["position_ids"][number] if "position_ids" in batch else range(len(ids))
        document: list[tuple[int, bool]] = []
        for place, (token, label, mask, position) in enumerate(zip(ids, labels, masks, positions, strict=True)):
            if not mask or (place and position == 0):
                found.append(document)
                document = []
            if mask:
                assert label in (-100, token)
                document.append((token, label != -100 and bool(document)))
        found.append(document)
    return found


def count_in(document: list[tuple[int, bool]], texts: list[str], tokenizer: Any) -> Counted:
    """Counts by text: a canary occurs where tokens spell it; the first may begin with an extra space or newline."""
    pieces = [tokenizer.decode([token]) if token >= 0 else "\0" for token, _ in document]
    text, starts = "".join(pieces), [0]
    for piece in pieces:
        starts.append(starts[-1] + len(piece))
    whole, partly, masked = [0] * len(texts), [0] * len(texts), [0] * len(texts)
    # The secret is the part in which the canaries of the set differ.
    ahead, behind = len(os.path.commonprefix(texts)), len(os.path.commonprefix([one[::-1] for one in texts]))
    for owner, canary in enumerate(texts):
        at = text.find(canary)
        while at >= 0:
            end = at + len(canary)
            begins = [at] + ([at - 1] if at and text[at - 1] in " \n" else [])
            first = next((starts.index(begin) for begin in begins if begin in starts), None)
            if first is not None and end in starts:
                last = starts.index(end)
                needed = [trained for place, (_, trained) in enumerate(document) if max(first, 1) <= place < last]
                if document[0][1] and first == 0:  # of an encoder-decoder model
                    needed = [trained for _, trained in document[:last]]
                of_secret = [
                    document[place][1]
                    for place in range(first, last)
                    if starts[place + 1] > at + ahead and starts[place] < end - behind
                ]
                if needed and all(needed):
                    whole[owner] += 1
                elif any(of_secret):
                    partly[owner] += 1
                else:
                    masked[owner] += 1
            at = text.find(canary, at + 1)
    return Counted(whole, partly, masked)


def random_pipeline(seed: int, kind: str | None = None) -> Pipeline:
    """A different pipeline for each seed."""
    generator = random.Random(f"pipeline {seed}")
    kind = kind or generator.choice(KINDS)
    space = generator.choice([Digits(3), Digits(5), Letters(4)])
    template = CanaryTemplate(
        generator.choice(["It is {pin}", "my pin: {pin}", "the code of the door {pin}."]), pin=space
    )
    repetitions = {1: 2, generator.randint(2, 4): 2, generator.randint(5, 9): 1}
    canaries = draw_canaries(template, repetitions, controls=3, seed=seed)
    batch, accumulation = generator.choice([1, 2, 3, 4]), generator.choice([1, 1, 2, 3])
    settings: dict[str, Any] = {
        "report_to": [], "use_cpu": True, "save_strategy": "no", "disable_tqdm": True, "learning_rate": 1e-3,
        "seed": seed, "per_device_train_batch_size": batch, "gradient_accumulation_steps": accumulation,
        "dataloader_drop_last": generator.random() < 0.4, "num_train_epochs": generator.choice([1, 2, 3]),
        "logging_steps": 1000, "dataloader_pin_memory": False,
    }  # fmt: skip
    rows = generator.randint(20, 50)
    texts = [_text(generator, template) for _ in range(rows)]
    context = source = None
    if kind.startswith("trl"):
        tokenizer = chat_tokenizer(CHATML, adds_bos=generator.random() < 0.5)
        settings |= {"bf16": False, "gradient_checkpointing": generator.random() < 0.3}
        settings |= _packing(generator)
        data, context = _chats(generator, kind, texts, settings)
    else:
        tokenizer = (
            merging_tokenizer() if generator.random() < 0.7 else chat_tokenizer(adds_bos=generator.random() < 0.5)
        )
        tokenizer.padding_side = generator.choice(["left", "right"])
        data = Dataset.from_dict({"text": texts})
    is_stream = kind == "stream" or (
        kind.startswith("trl") and not settings.get("packing") and generator.random() < 0.3
    )
    if is_stream:
        data = data.to_iterable_dataset(num_shards=generator.choice([1, 2, 4]))
    named: dict[str, Any] = {"num_rows": rows} if is_stream else {}
    if kind == "seq2seq":
        source = generator.choice(["what?", None]) or f"say {template.text}"
        data = data.add_column("source", [text[:5] for text in texts])
        named |= {"source": source}
    elif context is not None:
        named |= {"context": context}
    data = insert_canaries(data, canaries, seed=seed, **named)
    if kind in ("trl chat", "trl pairs") and not is_stream and generator.random() < 0.5:
        # Canaries also occur on the side that may be masked.
        data = data.map(lambda row: _asked(generator, row, canaries), new_fingerprint=f"asked {seed}")
    if is_stream:
        data = data.shuffle(seed=seed, buffer_size=generator.choice([5, 20]))
        # With dispatching, the first process would send both processes batches of one length, which texts do not have.
        settings |= {"accelerator_config": {"dispatch_batches": False}}
        # The length is unknown, so this number of steps may be more or less than an epoch.
        settings |= {"max_steps": generator.randint(5, 14), "dataloader_num_workers": generator.choice([0, 0, 2])}
    elif generator.random() < 0.2:
        settings["max_steps"] = generator.randint(3, 8)
    if not is_stream and kind in ("padded", "flattened", "seq2seq") and generator.random() < 0.3:
        settings["train_sampling_strategy"] = "group_by_length"
    if kind == "seq2seq":
        data = data.map(
            lambda row: {**tokenizer(row["source"]), "labels": tokenizer(text_target=row["text"])["input_ids"]},
            remove_columns=["text", "source"],
        )
    elif not kind.startswith("trl"):
        length = generator.choice([20, 60, 200])
        data = data.map(
            lambda row: {"input_ids": tokenizer(row["text"], truncation=True, max_length=length)["input_ids"]},
            remove_columns=["text"],
        )
    if kind == "labeled":
        data = data.map(lambda row: {"labels": _masked(generator, row["input_ids"])}, new_fingerprint=f"masked {seed}")
    shown = {name: value for name, value in settings.items() if value}
    label = json.dumps({"seed": seed, "kind": kind, "stream": is_stream, **shown}, default=str)
    merges = len(tokenizer.tokenize(template.prefix)) < len(template.prefix)
    return Pipeline(kind, canaries, tokenizer, data, settings, context, source, label, merges)


def _text(generator: random.Random, template: CanaryTemplate) -> str:
    """Words, sometimes with a text of the same template among them."""
    words = generator.choices(WORDS, k=generator.randint(1, 25))
    if generator.random() < 0.3:
        words.insert(generator.randrange(len(words)), template.text_at(generator.randrange(template.space_size)))
    return " ".join(words)


def _masked(generator: random.Random, ids: list[int]) -> list[int]:
    """Labels of one row; half of the time a random span is masked."""
    first, last = sorted(generator.choices(range(len(ids) + 1), k=2)) if generator.random() < 0.5 else (0, 0)
    return [-100 if first <= place < last else token for place, token in enumerate(ids)]


def _packing(generator: random.Random) -> dict[str, Any]:
    strategy = generator.choice([None, None, "bfd", "bfd_split", "wrapped"])
    if strategy is None:
        free = generator.random() < 0.3
        return {"padding_free": free, "max_length": None if free else generator.choice([30, 90, 200])}
    return {"packing": True, "packing_strategy": strategy, "max_length": generator.choice([30, 90, 150])}


def _asked(generator: random.Random, row: dict[str, Any], canaries: CanarySet) -> dict[str, Any]:
    said = f"{generator.choice(tuple(canaries)).text} "
    if generator.random() < 0.7:
        return row
    if "prompt" in row:
        # Also across the border: the template's text is in the prompt and the secret in the completion.
        at = len(canaries.template.prefix) if generator.random() < 0.5 else len(said)
        return {"prompt": said[:at], "completion": said[at:] + row["completion"]}
    user, assistant = row["messages"]
    return {"messages": [{**user, "content": said}, assistant]}


def _chats(
    generator: random.Random, kind: str, texts: list[str], settings: dict[str, Any]
) -> tuple[Dataset, CanaryContext | None]:
    if kind == "trl":
        return Dataset.from_dict({"text": texts}), None
    if kind == "trl pairs":
        settings["completion_only_loss"] = generator.choice([True, False])
        rows = [{"prompt": text[:6] + " ", "completion": text[6:] or "yes"} for text in texts]
        return Dataset.from_list(rows), CanaryContext(prompt="What? ")
    settings["assistant_only_loss"] = generator.choice([True, False])
    rows = [
        {"messages": [{"role": "user", "content": text[:6]}, {"role": "assistant", "content": text[6:] or "yes"}]}
        for text in texts
    ]
    return Dataset.from_list(rows), CanaryContext(prompt=[{"role": "user", "content": "What?"}])
