"""A process in which a `Trainer` trains and pushes to the Hub that `HF_ENDPOINT` names."""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from callback_runs import CANARIES, make_callback, make_trainer


def main(folder: Path, trackers: list[str]) -> None:
    CANARIES.save(folder / "canaries.json")
    callback = make_callback(strategy="epoch", push_to_hub=True)
    trainer = make_trainer(
        folder / "run", [callback], push_to_hub=True, hub_model_id="me/model", hub_strategy="every_save", max_steps=6,
        save_strategy="steps", save_steps=3, report_to=trackers, logging_steps=1, project="the run",
        trackio_static_space_id=False,
    )  # fmt: skip
    callback.attach(trainer)
    callback.attach(trainer)
    trainer.train()
    trainer.push_to_hub()
    trainer.push_to_hub()


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2:])
