"""Makes the pictures of validity.md: two trainings of one small model, with and without the canaries in the data.

    python docs/make_screenshots.py
    python docs/make_screenshots.py exposure-demo/report.html

If a page is given, it takes pictures of that page instead: as the README shows it, on a phone of 360 pixels, and in
dark mode. It needs Chromium. The canaries are drawn again each time, so the figures differ a little from run to run.
"""

from __future__ import annotations

import io
import sys
import tempfile
from pathlib import Path

import transformers
from datasets import Dataset, disable_progress_bars
from PIL import Image
from transformers import ByT5Tokenizer, DataCollatorForLanguageModeling, Trainer, TrainingArguments

from hf_exposure import CanarySet, ExposureCallback, draw_canaries, insert_canaries, presets
from hf_exposure.demo.inputs import load_model, load_rows

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "tests" / "report"))
from browser import browser  # noqa: E402

IMAGES = ROOT / "docs" / "images"
SIZE = {"width": 900, "height": 560}
TOKENIZER = ByT5Tokenizer()


def report_page(canaries: CanarySet, rows: Dataset, folder: Path) -> Path:
    """Trains for one epoch and returns the page of the report."""
    transformers.set_seed(0)
    encoded = rows.map(lambda batch: TOKENIZER(batch["text"]), batched=True, remove_columns=["text"])
    callback = ExposureCallback(canaries, strategy="end", require_delivery=False)
    trainer = Trainer(
        model=load_model("small-gpt2", TOKENIZER, 256),
        args=TrainingArguments(
            str(folder / "out"),
            num_train_epochs=1,
            per_device_train_batch_size=16,
            learning_rate=1e-3,
            report_to="none",
            save_strategy="no",
            logging_strategy="no",
            use_cpu=True,
            disable_tqdm=True,
        ),  # fmt: skip
        train_dataset=encoded,
        data_collator=DataCollatorForLanguageModeling(TOKENIZER, mlm=False),
        processing_class=TOKENIZER,
        callbacks=[callback],
    )
    trainer.train()
    assert callback.report is not None
    callback.report.save(folder)
    return folder / "report.html"


def save(picture: bytes, name: str) -> None:
    # For text on one color, 32 colors are enough and need a quarter of the bytes.
    small = Image.open(io.BytesIO(picture)).convert("RGB").quantize(32)
    small.save(IMAGES / f"{name}.png", optimize=True)
    print(IMAGES / f"{name}.png")


def show(page: Path) -> None:
    """Takes the pictures of one page."""
    views = {
        "report_desktop": {"width": 1000, "height": 1250},
        "report_phone": {"width": 360, "height": 1400},
        "report_dark": {"width": 1000, "height": 1250, "dark": True},
    }
    with tempfile.TemporaryDirectory() as folder, browser(Path(folder) / "profile") as one:
        for name, view in views.items():
            one.open(page, **view)
            assert one.value("document.documentElement.scrollWidth") == view["width"], name
            save(one.picture(), name)


def main() -> None:
    if sys.argv[1:]:
        show(Path(sys.argv[1]).absolute())
        return
    transformers.logging.set_verbosity_error()
    disable_progress_bars()
    rows = load_rows(None, None, 20_000, 200)
    canaries = draw_canaries(presets.random_number(9), {1: 4, 2: 4}, controls=32)
    runs = {"report_at_chance": insert_canaries(rows, canaries), "report_invalid": rows}
    with tempfile.TemporaryDirectory() as folder, browser(Path(folder) / "profile") as one:
        for name, data in runs.items():
            page = report_page(canaries, data, Path(folder) / name)
            one.open(page, **SIZE)
            save(one.picture(), name)


if __name__ == "__main__":
    main()
