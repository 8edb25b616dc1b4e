"""Each example runs at its smallest size, and prints the output that it documents."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]


def run(folder: Path, *command: str) -> str:
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
    done = subprocess.run(
        [sys.executable, *command], cwd=folder, env=environment, capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout


def test_sft_chat(tmp_path: Path) -> None:
    said = run(tmp_path, str(ROOT / "examples" / "sft_chat.py"), "--rows", "60", "--steps", "8")
    # 60 chats and 36 canary rows: 8 steps of 16 rows are 1.33 epochs, and the rows that occur twice are random.
    (trained,) = re.findall(r"inserted 16 times +trained on +([\d.]+) times", said)
    assert 16.0 < float(trained) < 32.0 and "held-out controls    trained on    0.0" in said
    assert (tmp_path / "exposure-sft" / "report.json").exists()


def test_streaming(tmp_path: Path) -> None:
    said = run(tmp_path, str(ROOT / "examples" / "streaming.py"), "--rows", "200")
    assert "68 of 68 canary rows arrive in one pass of 268 rows" in said and "held-out controls" in said
    assert (tmp_path / "exposure-stream" / "report.json").exists()


def test_seq2seq(tmp_path: Path) -> None:
    said = run(tmp_path, str(ROOT / "examples" / "seq2seq.py"), "--rows", "188", "--steps", "8")
    # 188 pairs and 68 canary rows: 8 steps of 32 rows are one epoch.
    assert "inserted 32 times    trained on   32.0 times" in said and "held-out controls    trained on    0.0" in said
    assert (tmp_path / "exposure-seq2seq" / "report.json").exists()


def test_label_canaries(tmp_path: Path) -> None:
    said = run(tmp_path, str(ROOT / "examples" / "label_canaries.py"), "--epochs", "8", "--groups", "2")
    assert re.search(r"trained on   0 times an epoch: .*, 0 of 2 rank first", said)
    assert re.search(r"trained on  16 times an epoch:  26.6 bits of 26.6 on average, 2 of 2 rank first", said)


def test_own_measure(tmp_path: Path) -> None:
    said = run(tmp_path, str(ROOT / "examples" / "own_measure.py"), "--steps", "20")
    assert re.search(r"step 20: \d\.\d\d bits per token on rows that are not trained on\nexposure at the end: ", said)
    lines = (tmp_path / "own-measure" / "_probe.jsonl").read_text().splitlines()
    assert [json.loads(line)["step"] for line in lines] == [20]
