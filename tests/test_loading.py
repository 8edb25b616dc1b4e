"""Loading data sets by name, for the command line and the demo."""

from __future__ import annotations

from pathlib import Path

import pytest
from datasets import Dataset

from hf_exposure.demo.inputs import load_rows
from hf_exposure.errors import InputError
from hf_exposure.loading import load_data_set, parts_of

CONFIGURATIONS = """\
---
configs:
- config_name: first
  data_files: first.txt
- config_name: second
  data_files: second.txt
---
"""


def folder_of_two(folder: Path) -> str:
    (folder / "README.md").write_text(CONFIGURATIONS)
    for name in ("first", "second"):
        (folder / f"{name}.txt").write_text(f"{name} line\n" * 3)
    return str(folder)


@pytest.mark.parametrize("stream", [False, True])
def test_a_local_folder_may_have_configurations(tmp_path: Path, stream: bool) -> None:
    loaded = parts_of(load_data_set(folder_of_two(tmp_path), "second", None, stream=stream))
    assert [row["text"] for row in loaded["train"]] == ["second line"] * 3
    with pytest.raises(InputError, match="--dataset: must be a data set that loads"):
        load_data_set(str(tmp_path), "third", None, stream=stream)


@pytest.mark.parametrize("form", ["jsonl", "parquet"])
def test_the_demo_reads_files_as_the_commands_do(tmp_path: Path, form: str) -> None:
    rows = Dataset.from_dict({"text": ["abcdefghij"] * 30})
    file = tmp_path / f"rows.{form}"
    rows.to_json(file) if form == "jsonl" else rows.to_parquet(file)
    assert "".join(load_rows(None, str(file), 100, 40)["text"]) == ("abcdefghij\n" * 10)[:100]


def test_the_demo_names_what_is_wrong_with_a_data_set(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="--dataset: must be a file or folder that exists"):
        load_rows(None, str(tmp_path / "rows.jsonl"), 100, 40)
    (tmp_path / "rows.csv").write_text("label\n1\n")
    with pytest.raises(InputError, match="--dataset: must have a column named 'text'"):
        load_rows(None, str(tmp_path / "rows.csv"), 100, 40)
