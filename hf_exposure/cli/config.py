"""`--config file.yaml`: the values in the file become the command's defaults."""

from __future__ import annotations

import difflib
from pathlib import Path
from typing import Annotated, Any

import typer

from hf_exposure.errors import InputError

__all__ = ["ConfigOption"]

# What runs code of a stranger's is for a person to type, not for a file that came with the code.
_TYPED_ONLY = ("config", "help", "trust_remote_code")


def _read_config(context: typer.Context, path: Path | None) -> Path | None:
    """Runs before the other options are looked at, which then find their defaults there."""
    if path is None:
        return None
    import yaml

    try:
        values = yaml.safe_load(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise InputError("--config", f"must be a readable file ({error.strerror})", str(path), "Check it.") from None
    except (yaml.YAMLError, UnicodeDecodeError):
        raise InputError("--config", "must be YAML", str(path), "Write one `option: value` a line.") from None
    values = {} if values is None else values
    if not isinstance(values, dict):
        raise InputError("--config", "must hold `option: value` lines", str(path), "Write `references: 4096`, say.")
    options = [parameter.name for parameter in context.command.params if parameter.name]
    context.default_map = {**(context.default_map or {}), **_checked(values, options, path)}
    return path


def _checked(values: dict[Any, Any], options: list[str], path: Path) -> dict[str, Any]:
    known = [name for name in options if name not in _TYPED_ONLY]
    checked = {}
    for key, value in values.items():
        name = str(key).replace("-", "_")
        if name == "trust_remote_code":
            rule = "must be typed: a file cannot switch it on"
            raise InputError(f"{path}: {key}", rule, value, "Remove it, and add --trust-remote-code.")
        if name not in known:
            near = difflib.get_close_matches(name, known, n=1)
            remedy = f"Did you mean {near[0]}?" if near else f"Use one of {', '.join(sorted(known))}."
            raise InputError(f"{path}: {key}", "must be an option of this command", value, remedy)
        checked[name] = _as_typed(value)
    return checked


def _as_typed(value: Any) -> Any:
    """YAML's values as they would be typed: `repetitions: {1: 4}` is 1:4, and lists are options given repeatedly."""
    if isinstance(value, dict):
        return ",".join(f"{key}:{item}" for key, item in value.items())
    return [str(item) for item in value] if isinstance(value, list) else value


ConfigOption = Annotated[
    Path | None,
    typer.Option(
        "--config",
        callback=_read_config,
        is_eager=True,
        metavar="FILE",
        help="YAML file of `option: value` lines that become defaults; what is typed wins.",
    ),
]
