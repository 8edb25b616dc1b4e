"""Canaries are for anyone with Python and NumPy: no framework is loaded."""

from __future__ import annotations

import subprocess
import sys


def test_canaries_load_no_framework() -> None:
    code = "import sys; from hf_exposure import VocabularyTokens, draw_canaries, presets; "
    code += "draw_canaries(presets.random_words(3), {1: 2}); "
    code += "print(sorted({'torch', 'transformers', 'datasets', 'scipy', 'pyarrow'} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
