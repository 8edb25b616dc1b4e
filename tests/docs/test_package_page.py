"""README as PyPI shows it: its links and images lead to the repository that built the package."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import zipfile
from email import message_from_bytes
from email.message import Message
from pathlib import Path

import pytest
from doc_blocks import ROOT

pytest.importorskip("hatchling")
REPOSITORY = "https://git.example/owner/name"


def metadata_of(folder: Path, **variables: str) -> Message:
    environment = {name: value for name, value in os.environ.items() if name != "REPOSITORY_URL"} | variables
    code = f"from hatchling.build import build_wheel; build_wheel({str(folder)!r})"
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, env=environment, check=True, capture_output=True)
    (wheel,) = folder.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        (name,) = [name for name in archive.namelist() if name.endswith(".dist-info/METADATA")]
        return message_from_bytes(archive.read(name))


def test_links_lead_to_files_of_the_repository(tmp_path: Path) -> None:
    metadata = metadata_of(tmp_path, REPOSITORY_URL=REPOSITORY)
    tag = f"v{metadata['Version']}"
    page = metadata.get_payload()
    assert metadata["Description-Content-Type"] == "text/markdown" and isinstance(page, str)
    links = re.findall(r"(!?)\[[^\]]*\]\(([^)\s]+)\)", page)
    assert len(links) > 30
    for image, link in links:
        assert link.startswith(("https://", "#"))
        path = re.match(rf"{REPOSITORY}/{'raw' if image else 'blob'}/{tag}/([^#]+)", link)
        assert path is None or (ROOT / path[1]).exists()
        assert path is not None or REPOSITORY not in link
    urls = dict(url.split(", ") for url in metadata.get_all("Project-URL"))
    assert urls["Repository"] == REPOSITORY and urls["Changelog"] == f"{REPOSITORY}/blob/{tag}/CHANGELOG.md"


def test_a_build_that_knows_no_repository_names_none(tmp_path: Path) -> None:
    metadata = metadata_of(tmp_path)
    assert [url.split(", ")[1] for url in metadata.get_all("Project-URL")] == ["https://arxiv.org/abs/1802.08232"]
    assert metadata.get_payload() == (ROOT / "README.md").read_text(encoding="utf-8")
