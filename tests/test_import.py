"""`import hf_exposure` is fast, and every public name is loaded on first use."""

from __future__ import annotations

import ast
import json
import subprocess
import sys
from pathlib import Path

import pytest

import hf_exposure

# The contract, written out: a test that derived it from the package could not fail.
CONTRACT = [
    "CanaryTemplate",
    "Digits",
    "LuhnDigits",
    "Letters",
    "Words",
    "Choice",
    "VocabularyTokens",
    "Pattern",
    "presets",
    "draw_canaries",
    "CanarySet",
    "insert_canaries",
    "CanaryInserter",
    "remove_canaries",
    "log_perplexity",
    "measure_exposure",
    "ExposureMeter",
    "ExposureReport",
    "ExposureCallback",
    "extract",
    "rank_bounds",
]
FRAMEWORKS = ("torch", "transformers", "datasets", "accelerate", "scipy", "pyarrow", "matplotlib", "numpy")


def loaded_after(code: str) -> set[str]:
    report = f"import json, sys; print(json.dumps([m for m in {FRAMEWORKS!r} if m in sys.modules]))"
    done = subprocess.run([sys.executable, "-c", f"{code}\n{report}"], capture_output=True, text=True, check=True)
    return set(json.loads(done.stdout.splitlines()[-1]))


def test_importing_loads_no_framework() -> None:
    assert loaded_after("import hf_exposure; dir(hf_exposure); hf_exposure.__version__") == set()


def test_the_estimators_need_no_torch() -> None:
    code = "from hf_exposure.estimators import sampling_exposure, skew_normal_exposure, importance_exposure"
    loaded = loaded_after(code)
    assert not loaded & {"torch", "transformers", "datasets", "accelerate"}
    assert "scipy" in loaded  # the check finds a module that is loaded


@pytest.mark.parametrize("name", CONTRACT)
def test_every_name_of_the_contract_is_there(name: str) -> None:
    assert name in dir(hf_exposure)
    assert name in hf_exposure.__all__
    value = getattr(hf_exposure, name)
    assert getattr(value, "__name__", name).rsplit(".", 1)[-1] == name
    assert getattr(hf_exposure, name) is value


def test_a_star_import_imports_them_all() -> None:
    namespace: dict[str, object] = {}
    exec("from hf_exposure import *", namespace)
    assert not set(CONTRACT) - set(namespace)


def test_all_names_resolve() -> None:
    for name in hf_exposure.__all__:
        assert getattr(hf_exposure, name) is not None, name


def test_type_checkers_see_the_same_names() -> None:
    imported = [
        (alias.asname, alias.name, node.module)
        for block in ast.walk(ast.parse(Path(hf_exposure.__file__).read_text(encoding="utf-8")))
        if isinstance(block, ast.If) and isinstance(block.test, ast.Name) and block.test.id == "TYPE_CHECKING"
        for node in block.body
        if isinstance(node, ast.ImportFrom)
        for alias in node.names
    ]
    # With an alias, since a checker treats a plain import as private to the file.
    expected = [(name, name, f"hf_exposure.{home}") for name, home in hf_exposure._HOME_OF.items()]
    assert sorted(imported, key=str) == sorted(expected)


def test_an_unknown_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="^module 'hf_exposure' has no attribute 'exposure'$"):
        hf_exposure.exposure  # noqa: B018
    with pytest.raises(ImportError, match="exposure_of"):
        from hf_exposure import exposure_of  # type: ignore[attr-defined]  # noqa: F401


def test_the_version_is_that_of_the_installed_package() -> None:
    from importlib.metadata import version

    assert hf_exposure.__version__ == version("hf-exposure")
