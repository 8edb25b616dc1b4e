"""Checks of a job before training."""

from __future__ import annotations

import socket
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from accelerate.state import AcceleratorState
from accelerate.utils import ParallelismConfig
from callback_runs import make_callback, make_trainer

from hf_exposure import CanaryTemplate, Digits, draw_canaries
from hf_exposure.errors import InputError, ProcessesDifferError
from hf_exposure.runtime import job
from hf_exposure.runtime.job import check_alike, check_all_present, check_parallelism
from hf_exposure.runtime.processes import SINGLE_PROCESS


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
    check_all_present("ExposureCallback")
    check_alike(SINGLE_PROCESS, {"seed": 1}, {"": "Never said."})


class Told:
    """Processes that have published their values."""

    count = 4

    def __init__(self, *held: dict[str, object]) -> None:
        self.held = held

    def all_gather_texts(self, text: str) -> list[str]:
        texts = ["\n".join(f"{name}\t{value}" for name, value in values.items()) for values in self.held]
        assert text == texts[0]
        return texts


def test_the_first_value_that_differs_is_named_with_every_process() -> None:
    base = {"set": "a1", "seed": 3, "steps": None}
    remedies = {"": "Pass one value.", "set": "Draw once."}
    check_alike(Told(base, base, base, base), base, remedies)
    others = {**base, "set": "b2"}, {**base, "seed": 4}, {**base, "steps": 5, "seed": 4}
    with pytest.raises(ProcessesDifferError) as differs:
        check_alike(Told(base, base, others[0], base), base, remedies)
    assert str(differs.value) == (
        "set: must be the same on every process of the job, got 'a1 on processes 0, 1, 3; b2 on process 2'. Draw once."
    )
    with pytest.raises(ProcessesDifferError, match="^seed: .*'3 on processes 0, 3; 4 on processes 1, 2'. Pass one"):
        check_alike(Told(base, others[1], others[2], base), base, remedies)
    # One process has a value that the first does not have at all.
    with pytest.raises(ProcessesDifferError, match="^more: .*'nothing on processes 0, 2, 3; 1 on process 1'"):
        check_alike(Told(base, {**base, "more": 1}, base, base), base, remedies)


def test_a_store_that_nobody_opened_is_one_clear_error(monkeypatch: Any) -> None:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    for name, value in {"RANK": "1", "WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(job, "SECONDS_FOR_A_STORE", 0.5)
    template = CanaryTemplate("pin {pin}", pin=Digits(6))
    with pytest.raises(InputError, match=rf"^canaries: must be the same on every .*none at 127.0.0.1:{port} for"):
        draw_canaries(template, {1: 2})
    # Without all of a job's variables there is no job: a single process looks nothing up.
    monkeypatch.delenv("MASTER_PORT")
    assert draw_canaries(template, {1: 2}, seed=3) == draw_canaries(template, {1: 2}, seed=3)
