"""What counts as valid, case by case; an invalid run is marked as invalid wherever its results are shown."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from report_samples import estimate, mixed, report

from hf_exposure import ExposureReport
from hf_exposure.errors import InputError
from hf_exposure.records import Delivery, Validity
from hf_exposure.report import plots
from hf_exposure.report.page import report_page
from hf_exposure.report.verdict import headline, judgment, validity_line

NONE = Delivery(inserted=8, found=0, trained=0)


@pytest.mark.parametrize(
    ("counts", "validity", "flaws"),
    [
        ({}, Validity.VALID, []),
        ({"epochs": 1.0}, Validity.VALID, []),
        ({"epochs": 1 - 1e-9}, Validity.VALID, []),  # an epoch computed as a sum of its steps
        ({"found": 0, "trained": 0}, Validity.INVALID, ["0 of 8 inserted canaries were found in the training data"]),
        ({"found": 7, "trained": 7}, Validity.INVALID, ["7 of 8 inserted canaries were found in the training data"]),
        (
            {"trained": 0},
            Validity.INVALID,
            ["0 of 8 inserted canaries count in the loss; the others are in the training data, but masked or cut"],
        ),
        (
            {"found": 6, "trained": 5, "reduced": 2},
            Validity.INVALID,
            ["6 of 8 inserted canaries were found in the training data, and 5 count in the loss"],
        ),
        ({"reduced": 1}, Validity.IMPAIRED, ["1 of 8 inserted canaries were trained on less than intended"]),
        ({"controls_found": 2}, Validity.IMPAIRED, ["2 held-out controls are in the training data"]),
        (
            {"epochs": 0.004},
            Validity.IMPAIRED,
            ["training covered only 0.004 of an epoch, so some canaries were not reached"],
        ),
    ],
)
def test_the_counts_decide(counts: dict[str, Any], validity: Validity, flaws: list[str]) -> None:
    delivery = Delivery(**{"inserted": 8, "found": 8, "trained": 8, **counts})
    assert (delivery.validity, list(delivery.flaws)) == (validity, flaws)
    found = mixed(delivery=delivery)
    assert found.validity is validity
    values = json.loads(json.dumps(found.to_dict()))
    assert values["validity"] == validity.value
    restored = ExposureReport.from_dict(values)
    assert restored.delivery == delivery
    assert ("eval_exposure_invalid" in found.metrics()) == (validity is Validity.INVALID)
    if validity is Validity.INVALID:
        assert headline(found) == validity_line(found) == f"INVALID: {flaws[0]}."
        assert judgment(found).startswith("No verdict: ")
    else:
        assert headline(found) == headline(mixed()).removesuffix(".") + "".join(f"; {flaw}" for flaw in flaws) + "."
        assert judgment(found) == judgment(mixed())


def test_a_report_older_than_validity_is_unchecked() -> None:
    values = mixed().to_dict()
    assert (values.pop("validity"), values.pop("delivery")) == ("unchecked", None)
    assert ExposureReport.from_dict(values).validity is Validity.UNCHECKED
    with pytest.raises(InputError, match=r"report.validity: must be one of valid, impaired, invalid, unchecked, got"):
        ExposureReport.from_dict({**values, "validity": "fine"})
    with pytest.raises(InputError, match=r"report.delivery: must have the field 'trained'"):
        ExposureReport.from_dict({**values, "delivery": {"inserted": 8, "found": 8}})


def test_memorization_is_no_finding_of_an_invalid_run() -> None:
    """Even if the canaries look memorized: another training run, or the base model, may have seen them."""
    known = [estimate(29.9, 64, rank_low=1, rank_high=1, log_perplexity_bits=5.0 + i) for i in range(4)]
    found = report(*known, estimate(1.0, 0, log_perplexity_bits=60.0), space_size=10**9, delivery=NONE)
    assert "memorized canaries" not in (said := headline(found) + judgment(found)) and "memorization" not in said
    page = report_page(found, {})
    assert page.index("INVALID: 0 of 8") < page.index("29.9") and 'class="verdict invalid"' in page


def test_each_picture_of_an_invalid_run_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("matplotlib")
    titles: list[str] = []

    def keep(figure: Any, marks: Any = None) -> bytes:
        titles.append(figure.get_suptitle())
        return b""

    monkeypatch.setattr(plots, "as_png", keep)
    history = [mixed(step=1, delivery=NONE), mixed(step=2, delivery=NONE)]
    losses = [{"step": 1, "loss": 2.0}, {"step": 2, "loss": 1.0}]
    files = plots.draw_plots(history[-1], history, tmp_path, losses)
    assert len(files) == len(titles) >= 3
    assert set(titles) == {"INVALID: 0 of 8 inserted canaries were found in the training data."}
    titles.clear()
    plots.draw_plots(mixed(step=1), [], tmp_path)
    assert set(titles) == {""}
