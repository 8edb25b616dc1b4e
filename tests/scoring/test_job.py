"""What is checked of a job before it trains."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from accelerate.state import AcceleratorState
from accelerate.utils import ParallelismConfig
from callback_runs import make_callback, make_trainer

from hf_exposure.errors import InputError
from hf_exposure.scoring.job import call_roll, check_parallelism


@pytest.mark.parametrize(("sizes", "message"), [({"cp_size": 2}, "context"), ({"sp_size": 4}, "sequence")])
def test_texts_that_are_split_over_processes_are_refused(
    sizes: dict[str, int], message: str, monkeypatch: Any
) -> None:
    config = SimpleNamespace(**{"cp_size": 1, "sp_size": 1, "tp_size": 1, **sizes})
    with pytest.raises(
        InputError, match=rf"^parallelism_config: must be without {message} parallelism, .*_size=.'?\. "
    ):
        check_parallelism(SimpleNamespace(parallelism_config=config))
    # As `accelerate launch` sets it.
    monkeypatch.setitem(AcceleratorState._shared_state, "parallelism_config", config)
    with pytest.raises(InputError, match=message):
        check_parallelism(SimpleNamespace(parallelism_config=None))


def test_data_and_tensor_parallelism_are_not(monkeypatch: Any) -> None:
    check_parallelism(SimpleNamespace(parallelism_config=ParallelismConfig(tp_size=2, dp_shard_size=2)))
    check_parallelism(SimpleNamespace())


def test_training_does_not_start(tmp_path: Path) -> None:
    trainer = make_trainer(tmp_path, [make_callback()])
    trainer.args.parallelism_config = SimpleNamespace(cp_size=2)
    with pytest.raises(InputError, match="context parallelism"):
        trainer.train()
    assert trainer.state.global_step == 0


def test_a_single_process_waits_for_nobody() -> None:
    call_roll("ExposureCallback")
