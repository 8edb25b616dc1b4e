"""Metadata that depend on where the package is built: the repository's addresses, and README with absolute links.

README links to files of the repository. PyPI shows it without the repository around it, so links there are absolute.
The address comes from the environment variable REPOSITORY_URL, which the release workflow sets to the repository in
which it runs: the package of a fork links to the fork. Without it the links stay as they are.
"""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Any

from hatchling.metadata.plugin.interface import MetadataHookInterface

_LINK = re.compile(r"(?P<image>!?)\[(?P<text>[^\]]*)\]\((?!https?:|#)(?P<path>[^)\s]+)\)")


class RepositoryMetadata(MetadataHookInterface):
    """Found by hatchling by the name of this file; `dynamic` in pyproject.toml says what it sets."""

    def update(self, metadata: dict[str, Any]) -> None:
        readme = (Path(self.root) / "README.md").read_text(encoding="utf-8")
        metadata["urls"] = {"The Secret Sharer (paper)": "https://arxiv.org/abs/1802.08232"}
        if repository := os.environ.get("REPOSITORY_URL", "").rstrip("/"):
            tag = f"v{metadata['version']}"
            readme = absolute(readme, repository, tag)
            metadata["urls"] |= {
                "Repository": repository,
                "Documentation": f"{repository}/blob/{tag}/docs/README.md",
                "Changelog": f"{repository}/blob/{tag}/CHANGELOG.md",
                "Issues": f"{repository}/issues",
            }
        metadata["readme"] = {"content-type": "text/markdown", "text": readme}


def absolute(page: str, repository: str, tag: str) -> str:
    """The page with links to files as they are at a tag: images as files, all else as the repository shows it."""

    def moved(link: re.Match[str]) -> str:
        kind = "raw" if link["image"] else "blob"
        return f"{link['image']}[{link['text']}]({repository}/{kind}/{tag}/{link['path']})"

    return _LINK.sub(moved, page)
