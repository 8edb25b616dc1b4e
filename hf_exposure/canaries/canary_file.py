"""The canary file: JSON that holds the secrets, so only its owner may read it."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

from hf_exposure import __version__
from hf_exposure.canaries.canary_set import Canary, CanarySet
from hf_exposure.canaries.template import CanaryTemplate
from hf_exposure.checks import encodable_text, path_of, whole_number
from hf_exposure.errors import CanaryFileError, InputError, described
from hf_exposure.files import read_json, write_aside
from hf_exposure.limits import LARGEST_SEED

FORMAT, VERSION = "hf-exposure canaries", 1
_CANARY_FIELDS = ("id", "text", "repetitions", "coin")


def save(canaries: CanarySet, path: str | Path) -> None:
    """Write `canaries` to `path`, replacing it in one step; see `CanarySet.save`."""
    target = path_of("path", path)
    if not target.parent.is_dir():
        raise InputError("path", "must be in a folder that exists", str(path), f"Make it: mkdir -p {target.parent}")
    if target.is_dir():
        raise InputError("path", "must be a file, not a folder", str(path), f"Write {target / 'canaries.json'}.")
    write_aside(target, json.dumps(_to_dict(canaries), indent=1), private=True)


def load(path: str | Path) -> CanarySet:
    """Read the canaries at `path`; see `CanarySet.load`."""
    shown = str(path_of("path", path))
    values = _read(path)
    if values is _DAMAGED:
        rule = "must be whole JSON; this file is damaged or cut off"
        raise CanaryFileError("path", rule, shown, "Restore it from a copy.")
    if not isinstance(values, dict) or values.get("format") != FORMAT:
        raise CanaryFileError("path", f"must be a file of format {FORMAT!r}", shown, "Give what canaries.save wrote.")
    _check_version(values.get("version"))
    canaries = _restored(values)
    if canaries is None:
        rule = "must be as it was saved; this file is damaged or was edited by hand"
        raise CanaryFileError("path", rule, shown, "Restore it from a copy.")
    if canaries.manifest_hash != values.get("manifest_hash") or _file_hash(values) != values.get("file_hash"):
        rule = "must match its hashes; this file was edited by hand"
        raise CanaryFileError("path", rule, shown, "Restore it from a copy, or draw again and insert again.")
    return canaries


# The errors that these two catch may quote a secret: `load` raises its own outside of the handlers, without a context.
_DAMAGED = object()


def _read(path: str | Path) -> Any:
    try:
        return read_json(path)
    except OSError as error:
        rule = f"must be a canary file that can be read ({error.strerror})"
        raise InputError("path", rule, str(path), "Make one with canaries.save(path).") from None
    except ValueError:
        return _DAMAGED


def _restored(values: dict[str, Any]) -> CanarySet | None:
    try:
        canaries = _from_dict(values)
        return canaries if canaries.manifest_hash else None  # a hash needs a salt that is text
    except Exception:  # values of any kind may stand in a damaged file
        return None


def _check_version(version: object) -> None:
    if not isinstance(version, int) or isinstance(version, bool) or version < 1:
        raise CanaryFileError(
            "version", "must be a whole number of at least 1", described(version), "Restore it from a copy."
        )
    if version > VERSION:
        rule = f"must be at most {VERSION}, what hf-exposure {__version__} reads"
        raise CanaryFileError("version", rule, version, "Upgrade: pip install --upgrade hf-exposure")


def _file_hash(values: dict[str, Any]) -> str:
    """SHA-256 of all that the file says, ids and seed included: what the manifest hash leaves out."""
    content = {name: value for name, value in values.items() if name != "file_hash"}
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode("utf-8")).hexdigest()


def _to_dict(canaries: CanarySet) -> dict[str, Any]:
    values = {
        "format": FORMAT,
        "version": VERSION,
        "package_version": __version__,
        "seed": canaries.seed,
        "salt": canaries.salt,
        "manifest_hash": canaries.manifest_hash,
        "template": canaries.template.to_dict(),
        "canaries": [{name: getattr(canary, name) for name in _CANARY_FIELDS} for canary in canaries],
    }
    return {**values, "file_hash": _file_hash(values)}


def _from_dict(values: dict[str, Any]) -> CanarySet:
    template, seed = CanaryTemplate.from_dict(values["template"]), values["seed"]
    canaries = [
        Canary(
            id=encodable_text("id", item["id"]),
            text=item["text"],
            template=template,
            repetitions=whole_number("repetitions", item["repetitions"], 0),
            coin=item["coin"],
        )
        for item in values["canaries"]
    ]
    return CanarySet(
        inserted=tuple(canary for canary in canaries if not canary.is_control),
        controls=tuple(canary for canary in canaries if canary.is_control),
        template=template,
        seed=None if seed is None else whole_number("seed", seed, 0, LARGEST_SEED),
        salt=values["salt"],
    )
