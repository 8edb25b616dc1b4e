"""The canary file is readable only by its owner, written completely or not at all, and detects changes."""

from __future__ import annotations

import hashlib
import json
import os
import stat
import traceback
from pathlib import Path

import pytest

from hf_exposure.canaries import CanarySet, CanaryTemplate, Choice, Digits, LuhnDigits, Words, draw_canaries
from hf_exposure.errors import CanaryFileError, InputError

TEMPLATE = CanaryTemplate(
    "{{ü}} {a} {b} {c} {d}.", a=Digits(4), b=LuhnDigits(4), c=Words(2), d=Choice(["naïve", "naïvely"])
)


@pytest.fixture
def canaries() -> CanarySet:
    return draw_canaries(TEMPLATE, repetitions={1: 3, 4: 2}, controls=4, seed=11)


@pytest.fixture
def path(tmp_path: Path, canaries: CanarySet) -> Path:
    canaries.save(tmp_path / "canaries.json")
    return tmp_path / "canaries.json"


def test_what_is_saved_is_loaded(path: Path, canaries: CanarySet) -> None:
    loaded = CanarySet.load(str(path))
    assert loaded == canaries
    assert [canary.id for canary in loaded] == [canary.id for canary in canaries]
    assert (loaded.seed, loaded.salt, loaded.manifest_hash) == (11, canaries.salt, canaries.manifest_hash)
    assert all(canary.template is loaded.template for canary in loaded)


def test_a_seed_of_128_bits_and_no_seed_survive(tmp_path: Path) -> None:
    drawn = draw_canaries(TEMPLATE, repetitions={1: 1})
    drawn.save(tmp_path / "drawn.json")
    assert CanarySet.load(tmp_path / "drawn.json").seed == drawn.seed
    known = CanarySet.from_secrets(TEMPLATE, [TEMPLATE.text_at(5)])
    known.save(tmp_path / "known.json")
    assert CanarySet.load(tmp_path / "known.json") == known


def test_only_the_owner_may_read_it_from_the_first_moment(
    tmp_path: Path, canaries: CanarySet, monkeypatch: pytest.MonkeyPatch
) -> None:
    modes, replace = [], os.replace

    def watched(source: str, target: Path) -> None:
        modes.append(stat.S_IMODE(os.stat(source).st_mode))
        replace(source, target)

    target = tmp_path / "canaries.json"
    target.write_text("old")
    target.chmod(0o666)
    monkeypatch.setattr(os, "replace", watched)
    previous = os.umask(0)
    try:
        canaries.save(target)
    finally:
        os.umask(previous)
    assert modes == [0o600] and stat.S_IMODE(target.stat().st_mode) == 0o600


def test_a_failed_save_leaves_the_old_file_and_no_other(
    path: Path, canaries: CanarySet, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = path.read_bytes()

    def fail(*_: object, **__: object) -> None:
        raise OSError("disk full")

    monkeypatch.setattr(os, "replace", fail)
    with pytest.raises(OSError, match="disk full"):
        canaries.save(path)
    assert path.read_bytes() == before and [file.name for file in path.parent.iterdir()] == ["canaries.json"]


def test_the_hash_is_salted_and_covers_the_content(canaries: CanarySet) -> None:
    changed = CanarySet(
        inserted=canaries.inserted[1:], controls=canaries.controls, template=TEMPLATE, seed=11, salt=canaries.salt
    )
    resalted = CanarySet(
        inserted=canaries.inserted, controls=canaries.controls, template=TEMPLATE, seed=11, salt="0" * 32
    )
    same = CanarySet(
        inserted=canaries.inserted, controls=canaries.controls, template=TEMPLATE, seed=None, salt=canaries.salt
    )
    assert len({canaries.manifest_hash, changed.manifest_hash, resalted.manifest_hash}) == 3
    assert same.manifest_hash == canaries.manifest_hash
    # By hand, for the smallest set: anyone can recompute a published commitment from the file.
    known = CanarySet.from_secrets(CanaryTemplate("{n}", n=Digits(1)), ["7"])
    content = '{"canaries":[["7",1,null]],"template":{"spaces":{"n":{"length":1,"type":"digits"}},"text":"{n}"}}'
    assert known.manifest_hash == hashlib.sha256((known.salt + content).encode()).hexdigest()


def edited(path: Path, **changes: object) -> None:
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def test_a_newer_file_says_upgrade(path: Path) -> None:
    edited(path, version=2, template={"unknown": "future"})
    with pytest.raises(CanaryFileError, match=r"version: must be at most 1, .* got 2. Upgrade: pip install --upgrade"):
        CanarySet.load(path)


@pytest.mark.parametrize("version", [None, "1", 0, True])
def test_a_file_without_a_version(path: Path, version: object) -> None:
    edited(path, version=version)
    with pytest.raises(CanaryFileError, match="version: must be a whole number of at least 1"):
        CanarySet.load(path)


@pytest.mark.parametrize("content", [b"", b"{", b"\xff\xfe", b'{"format": "hf-exposure canaries", "ver'])
def test_a_file_that_is_cut_off(path: Path, content: bytes) -> None:
    path.write_bytes(content)
    with pytest.raises(CanaryFileError, match="path: must be complete JSON; this file is damaged or cut off"):
        CanarySet.load(path)


@pytest.mark.parametrize("content", ["[]", "{}", '{"format": "other"}', "3"])
def test_another_format(path: Path, content: str) -> None:
    path.write_text(content)
    with pytest.raises(CanaryFileError, match="path: must be a file of format 'hf-exposure canaries'"):
        CanarySet.load(path)


def test_an_edited_text_or_count(path: Path) -> None:
    items = json.loads(path.read_text())["canaries"]
    for change in ({"repetitions": 2}, {"text": TEMPLATE.text_at(77)}):
        edited(path, canaries=[items[0] | change, *items[1:]])
        with pytest.raises(CanaryFileError, match="path: must match its hashes; this file was edited by hand"):
            CanarySet.load(path)


def test_an_edited_id_or_seed(path: Path) -> None:
    """Neither is in the manifest hash, but an edited id would give a canary another's figures."""
    items = json.loads(path.read_text())["canaries"]
    for changes in ({"canaries": [items[0] | {"id": "00000000"}, *items[1:]]}, {"seed": 12}):
        edited(path, **changes)
        with pytest.raises(CanaryFileError, match="path: must match its hashes; this file was edited by hand"):
            CanarySet.load(path)


@pytest.mark.parametrize(
    "changes",
    [
        {"canaries": [{"id": "a", "text": "not of the template", "repetitions": 1}]},
        {"canaries": [{"id": "a"}]},
        {"canaries": "text"},
        {"canaries": []},
        {"template": {"text": "{a}", "spaces": {}}},
        {"template": None},
        {"seed": "text"},
        {"salt": 3},
        {"manifest_hash": None},
    ],
)
def test_an_edited_file_is_reported_without_quoting_it(path: Path, changes: dict[str, object]) -> None:
    edited(path, **changes)
    with pytest.raises(CanaryFileError, match="path: must .*edited by hand, got '") as caught:
        CanarySet.load(path)
    assert "not of the template" not in "".join(traceback.format_exception(caught.value))


def test_missing_files_and_folders(tmp_path: Path, canaries: CanarySet) -> None:
    with pytest.raises(
        InputError, match=r"path: must be a canary file that can be read \(No such file or directory\)"
    ):
        CanarySet.load(tmp_path / "none.json")
    with pytest.raises(InputError, match=r"path: must be a canary file that can be read \(Is a directory\)"):
        CanarySet.load(tmp_path)
    with pytest.raises(InputError, match=r"path: must be in a folder that exists, .* Make it: mkdir -p .*missing"):
        canaries.save(tmp_path / "missing" / "canaries.json")
    with pytest.raises(InputError, match="path: must be a file, not a folder"):
        canaries.save(tmp_path)
