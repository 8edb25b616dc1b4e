"""Makes the pictures of gallery.md from the reports that the commands of that page wrote.

    python docs/make_gallery.py FOLDER

FOLDER is where the commands were run. Chromium takes the pictures of pages, and pdftoppm (of poppler) those of
report.pdf. Missing files are skipped, and their stored pictures stay.
"""

from __future__ import annotations

import io
import subprocess
import sys
import tempfile
from pathlib import Path

from PIL import Image

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "tests" / "report"))
from browser import browser  # noqa: E402

IMAGES = ROOT / "docs" / "images" / "gallery"
PLOTS = ("exposure_by_repetitions", "exposure_by_step", "references", "roc")
PAGES = {
    "comparison": "side-by-side/report.html",
    "membership": "membership/membership.html",
    "audit": "audit/audit.html",
    "dynamics": "dynamics/dynamics.html",
}
WIDTH = 760


def save(picture: bytes, name: str) -> None:
    """Makes a picture small, with 128 colors, chosen so that a single mark keeps its color."""
    image = Image.open(io.BytesIO(picture)).convert("RGB")
    image.thumbnail((WIDTH, 2 * WIDTH))
    image.quantize(128, Image.Quantize.FASTOCTREE).save(IMAGES / f"{name}.png", optimize=True)
    print(IMAGES / f"{name}.png")


def main() -> None:
    folder = Path(sys.argv[1]).absolute()
    IMAGES.mkdir(parents=True, exist_ok=True)
    for name in PLOTS:
        place = folder / "exposure-demo" / f"{name}.png"
        if place.exists():
            save(place.read_bytes(), name)
    document = folder / "paper" / "report.pdf"
    if document.exists():
        typed = ["pdftoppm", "-r", "80", "-f", "1", "-l", "1", "-png", str(document)]
        save(subprocess.run(typed, check=True, capture_output=True).stdout, "document")
    with tempfile.TemporaryDirectory() as profile, browser(Path(profile) / "profile") as one:
        for name, page in PAGES.items():
            if (folder / page).exists():
                one.open(folder / page, width=1000, height=900)
                save(one.picture(), name)


if __name__ == "__main__":
    main()
