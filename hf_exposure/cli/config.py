"""`--config file.yaml`: the values in the file become the command's defaults, and options that are typed override
them.

The file may come from someone else. It is read with YAML's safe loader, its size is checked before any value is built,
and it cannot enable options that run code.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from pathlib import Path
from types import NoneType
from typing import Annotated, Any

import typer

from hf_exposure.errors import InputError
from hf_exposure.files import read_bytes
from hf_exposure.limits import DEEPEST_CONFIG, LARGEST_CONFIG_BYTES, MOST_CONFIG_NODES

# Options that run foreign code must be typed by a person, and never read from a file that came with that code.
_TYPED_ONLY = ("config", "help", "trust_remote_code")


def _read_config(context: typer.Context, path: Path | None) -> Path | None:
    """Reads the file before the other options are parsed, so that they find their defaults in it."""
    if path is None:
        return None
    import yaml

    remedy = "Write one `option: value` a line."
    try:
        text = read_bytes(path, LARGEST_CONFIG_BYTES).decode("utf-8")
        _check_size(yaml.parse(text, Loader=yaml.SafeLoader), path)
        values = yaml.safe_load(text)
    except OSError as error:
        raise InputError("--config", f"must be a readable file ({error.strerror})", str(path), "Check it.") from None
    except InputError:
        raise
    except (yaml.YAMLError, ValueError, RecursionError):  # an invalid date, an integer that is too long, or bytes
        raise InputError("--config", "must be YAML", str(path), remedy) from None
    values = {} if values is None else values
    if not isinstance(values, dict):
        raise InputError("--config", "must hold `option: value` lines", str(path), "Write `references: 4096`, say.")
    options = [parameter.name for parameter in context.command.params if parameter.name]
    context.default_map = {**(context.default_map or {}), **_checked(values, options, path)}
    return path


def _check_size(events: Iterable[Any], path: Path) -> None:
    """Refuses a file that would grow when it is read: each alias is a copy, and copies of copies would fill the
    memory.
    """
    import yaml

    nodes = depth = 0
    for event in events:
        nodes += isinstance(event, yaml.NodeEvent)
        depth += isinstance(event, yaml.CollectionStartEvent) - isinstance(event, yaml.CollectionEndEvent)
        if isinstance(event, yaml.AliasEvent):
            raise InputError("--config", "must have no aliases", str(path), f"Write *{event.anchor} out.")
        if nodes > MOST_CONFIG_NODES or depth > DEEPEST_CONFIG:
            rule = f"must have at most {MOST_CONFIG_NODES} values, and {DEEPEST_CONFIG} levels of them"
            raise InputError("--config", rule, str(path), "Write one `option: value` a line.")


def _checked(values: dict[Any, Any], options: list[str], path: Path) -> dict[str, Any]:
    known = [name for name in options if name not in _TYPED_ONLY]
    checked = {}
    for key, value in values.items():
        if not isinstance(key, str):
            raise InputError(f"{path}", "must have words as option names", key, "Write `references: 4096`, say.")
        name = key.replace("-", "_")
        if name == "trust_remote_code":
            rule = "must be typed: a file cannot switch it on"
            raise InputError(f"{path}: {key}", rule, value, "Remove it, and add --trust-remote-code.")
        if name not in known:
            near = difflib.get_close_matches(name, known, n=1)
            remedy = f"Did you mean {near[0]}?" if near else f"Use one of {', '.join(sorted(known))}."
            raise InputError(f"{path}: {key}", "must be an option of this command", value, remedy)
        if value is not None:  # `seed:` without a value leaves the option unset
            checked[name] = _as_typed(f"{path}: {key}", value)
    return checked


def _as_typed(option: str, value: Any) -> Any:
    """Converts a YAML value to the words that would be typed: `repetitions: {1: 4}` is 1:4, and a list repeats the
    option.
    """
    if isinstance(value, dict):
        return ",".join(f"{_word(option, key)}:{_word(option, item)}" for key, item in value.items())
    if isinstance(value, list):
        return [_word(option, item) for item in value]
    return value if isinstance(value, bool) else _word(option, value)


def _word(option: str, value: Any) -> str:
    if isinstance(value, (list, dict, set, bytes, NoneType)):
        raise InputError(option, "must be a word or number, or a list of them", value, "Write it as it is typed.")
    if "\0" in str(value):
        raise InputError(option, "must have no null character", value, "Remove it.")
    return str(value)


ConfigOption = Annotated[
    Path | None,
    typer.Option(
        "--config",
        callback=_read_config,
        is_eager=True,
        metavar="FILE",
        help="YAML file of `option: value` lines that become defaults; typed options override them.",
    ),
]
