"""Writes the tables of measured figures into the pages: `python docs/make_tables.py`, after a benchmark was run.

A table is below its line `<!-- table: NAME -->`, where NAME is a function here. A test fails if a page does not agree
with `benchmarks/results/`.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from statistics import median
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
DOCS = ROOT / "docs"
PAGES = [ROOT / "README.md", *sorted(DOCS.glob("*.md")), *sorted((DOCS / "design").glob("*.md"))]
_TABLE = re.compile(r"(<!-- table: (\w+) -->\n)(?:\|.*\n)*")


def rewrite(text: str) -> str:
    """The page with its tables made from the stored results."""
    return _TABLE.sub(lambda found: f"{found[1]}{TABLES[found[2]]()}\n", text)


def _table(head: str, rows: list[list[str]]) -> str:
    rule = "|" + "---|" * (head.count("|") + 1)
    return "\n".join([f"| {head} |", rule, *(f"| {' | '.join(row)} |" for row in rows)])


def _measured(name: str) -> dict[str, Any]:
    values: dict[str, Any] = json.loads((ROOT / "benchmarks" / "results" / f"{name}.json").read_text(encoding="utf-8"))
    return values


def _seconds(value: float) -> str:
    return f"{value:,.0f}" if value >= 100 else f"{value:.1f}" if value >= 1 else f"{value:.2f}"


def speed() -> str:
    """The package's cost compared with plain batches of whole texts."""
    scoring, growth, insertion = _measured("scoring"), _measured("growth"), _measured("insertion")
    some, whole, six = scoring["candidates"], scoring["whole_space"], growth["rows"][-1]
    identity, inserted = (median(insertion[f"{name}_seconds"]) for name in ("identity", "insertion"))
    plain_six = growth["plain_seconds_per_text"] * six["texts"]
    return _table(
        "work | plain batches of whole texts | hf_exposure",
        [
            [
                f"{some['texts']:,} candidates of nine digits",
                f"{_seconds(some['seconds']['plain'])} s",
                f"{_seconds(some['seconds']['ours'])} s ({some['ratio']:.1f}x; "
                f"{some['ratio_without_tokenization']:.1f}x without tokenizing)",
            ],
            [
                "all 10^5 candidates of five digits",
                f"{_seconds(whole['seconds']['plain'])} s (scaled from {whole['plain_is_scaled_from']:,})",
                f"{_seconds(whole['seconds']['ours_from_template'])} s ({whole['ratio']:.0f}x; "
                f"{whole['ratio_without_tokenization']:.0f}x without preparing)",
            ],
            [
                "all 10^6 candidates of six digits",
                f"{_seconds(plain_six)} s (scaled from {growth['plain_texts']:,})",
                f"{_seconds(six['seconds'])} s ({six['ratio_to_plain']:.0f}x), from the template to the last figure",
            ],
            [
                f"{insertion['inserted_rows']:,} canary rows into 10^6 rows",
                f"{_seconds(identity)} s (an identity `map`)",
                f"{_seconds(inserted)} s",
            ],
        ],
    )


def estimators() -> str:
    """Error in bits of each method at five steps of a training."""
    rows = []
    for row in _measured("estimators")["rows"]:
        methods = row["methods"]
        search = methods["bounded"]
        seconds = [*(methods[name]["seconds_measuring"] for name in ("sample", "importance")), search["seconds"]]
        rows.append(
            [
                f"{row['truth_bits']:.2f}",
                *(f"{methods[name]['error_bits']:+.2f}" for name in ("sample", "skew_normal", "importance")),
                f"{'exact,' if search['certified'] else 'open after'} {search['expansions']:,} expansions",
                ", ".join(f"{value:.1f}" for value in seconds),
            ]
        )
    return _table("truth | sample | skew_normal | importance | bounded | seconds: sample, importance, bounded", rows)


def growth() -> str:
    """Whole spaces."""
    rows = [
        [
            f"{row['texts']:,}",
            f"{row['inner_nodes']:,}",
            _seconds(row["seconds"]),
            f"{row['microseconds_per_node']:.0f}",
            f"{row['ratio_to_plain']:.0f}x",
        ]
        for row in _measured("growth")["rows"]
    ]
    return _table("texts | tokens fed | seconds | microseconds per token | speed compared with plain batches", rows)


def search() -> str:
    """Exact ranks of nine digits: the most expensive search for each whole number of bits."""
    dearest: dict[int, dict[str, Any]] = {}
    for row in _measured("search")["rows"]:
        bits = int(row["bits_after_prefix"])
        if row["secret"] == "nine digits" and row["expansions"] > dearest.get(bits, {"expansions": 0})["expansions"]:
            dearest[bits] = row
    rows = [
        [
            f"{row['bits_after_prefix']:.1f}",
            f"{row['exposure_bits']:.1f}",
            f"{row['expansions']:,}",
            f"{row['most_expansions']:,.0f}",
            _seconds(row["seconds"]),
        ]
        for _, row in sorted(dearest.items())
    ]
    return _table("b, bits of the canary | exposure | expansions | upper bound | seconds", rows)


def overhead() -> str:
    """The time that measurements add to a training."""
    measured = _measured("overhead")
    names = {
        "sample": "`sample`, 4,096 references, each epoch",
        "importance": "`importance`, 4,096 references, each epoch",
        "auto": "`auto`, 4,096 references, each epoch",
        "every_step_256_references": "`sample`, 256 references, every step",
    }
    rows = []
    for name, said in names.items():
        run = measured[name]
        each = sum(run["measuring_seconds"]) / run["measurements"]
        rows.append([said, str(run["measurements"]), _seconds(each), f"{100 * run['share_of_training']:.0f} %"])
    return _table("method | measurements | seconds each | added to the training time", rows)


def draws() -> str:
    found = _measured("draws")
    groups = list(dict.fromkeys(name for epoch in found["epochs"] for name in epoch["spread"]["groups"]))

    def both(epoch: dict[str, Any], figure: Callable[[dict[str, Any]], str]) -> str:
        return " / ".join(figure(epoch[kind]) for kind in ("independent", "spread"))

    def width(group: str) -> Callable[[dict[str, Any]], str]:
        return lambda kind: f"{kind['groups'][group]['mean_width_bits']:.2f}"

    def error(kind: dict[str, Any]) -> str:
        return f"{kind['groups'][groups[0]]['root_mean_square_error_bits']:.3f}"

    def contain(kind: dict[str, Any]) -> str:
        return f"{100 * kind['groups'][groups[0]]['contain_the_truth']:.0f} %"

    rows = [
        [
            str(number),
            both(epoch, lambda kind: f"{kind['draws']:,.0f}"),
            both(epoch, lambda kind: f"{kind['tokens']:,.0f}"),
            *(both(epoch, width(group)) if group in epoch["spread"]["groups"] else "-" for group in groups),
            both(epoch, error),
            both(epoch, contain),
        ]
        for number, epoch in enumerate(found["epochs"], start=1)
    ]
    widths = [f"mean width, {name} bits" for name in groups]
    heads = ["epoch (independent / spread)", "draws", "tokens fed", *widths, "root mean square error", "cover"]
    return _table(" | ".join(heads), rows)


def doses() -> str:
    """The share of a training step's CPU time spent counting doses."""
    measured = _measured("doses")
    rows = []
    for name, said in {"demo": "the demo's", "gpt2": "GPT-2 small's configuration"}.items():
        run = measured[name]
        rows.append(
            [
                said,
                f"{run['parameters']:,}",
                f"{run['tokens_a_batch']:,}",
                _seconds(run["step_seconds"]),
                f"{100 * run['share_of_a_step']:.2g} %",
                f"{run['median_ratio']:.3f} ({run['median_ratio_low']:.3f} to {run['median_ratio_high']:.3f})",
            ]
        )
    heads = "model | parameters | tokens per step | CPU seconds per step | share of the count | time with / without it"
    return _table(heads, rows)


def group_intervals() -> str:
    """Coverage and width of the intervals of group means, by population and number of canaries."""
    rows: dict[str, list[str]] = {}
    shown = [("exact", 8), ("exact", 12), ("exact", 20), ("exact", 40), ("256 references", 8), ("256 references", 40)]
    shown += [("student", 8), ("student", 40)]
    for row in _measured("group_intervals")["rows"]:
        cells = rows.setdefault(row["population"], [row["population"], f"{row['mean_bits']:.2f}"])
        cells += [
            f"{100 * row[way]['coverage']:.1f} ({row[way]['width_bits']:.1f})"
            for way, size in shown
            if size == row["canaries"]
        ]
    # The file is ordered by size first, the table by way of measuring.
    order = sorted(range(len(shown)), key=lambda place: shown[place][1])
    heads = ["population", "mean", *(f"{'t' if way == 'student' else way}, {size}" for way, size in shown)]
    by_way = [[*cells[:2], *(cells[2 + order.index(place)] for place in range(len(shown)))] for cells in rows.values()]
    return _table(" | ".join(heads), by_way)


def cost_planner() -> str:
    """Ratios of planned to measured costs, and the measured figures."""
    rows = []
    for size, found in _measured("cost_planner")["sizes"].items():
        for row, said in (("auto_where_nothing_is_memorized", "`auto`"), ("bounded_to_its_budget", "`bounded`")):
            measured, ratio = found[row]["measured"], found[row]["predicted_by_measured"]
            rows.append(
                [
                    f"{size}, vocabulary of {found['vocabulary']:,}",
                    said,
                    f"{measured['tokens']:,} ({ratio['tokens']:.2f})",
                    f"{measured['passes']} ({ratio['passes']:.2f})",
                    f"{measured['tensor_bytes'] / 1e6:,.0f} MB ({ratio['tensor_bytes']:.2f})",
                    f"{_seconds(measured['seconds'])} s ({ratio['seconds']:.2f})",
                ]
            )
    return _table("parameters | method | tokens fed | passes | tensors beyond the weights | time", rows)


def own_time() -> str:
    """The package's own time with production vocabularies, in units of 300 short forward passes."""
    rows = _measured("own_time")["rows"]
    names = list(rows[0]["units"])
    lines = [[name, *(f"{row['units'][name]:.2f}" for row in rows)] for name in names]
    return _table(" | ".join(["work", *(f"{row['tokenizer']} ({row['entries']:,})" for row in rows)]), lines)


def gpt2_small() -> str:
    """A complete measurement of GPT-2 small compared with the model alone."""
    measured = _measured("gpt2_small")
    rows = [
        [
            f"{measured['parameters']:,}",
            f"{measured['calls']}",
            f"{measured['tokens']:,}",
            f"{run['bare_seconds']:.0f}",
            f"{run['measurement_seconds']:.0f}",
            f"{run['times']:.2f}",
            f"{measured['peak_bytes_beyond_the_weights'] / 1e6:.0f} MB",
        ]
        for run in measured["runs"]
    ]
    head = "parameters | calls | tokens fed | bare forwards, s | measurement, s | ratio | memory beyond the weights"
    return _table(head, rows)


def quantized() -> str:
    """Scores and searches of quantized models compared with every text alone."""
    rows = []
    for row in _measured("quantized")["rows"]:
        ranks = "not searched"
        if row["searched"]:
            low, true, high = row["ranks"][2]
            ranks = f"{low} to {high} ({true})"
        rows.append(
            [
                f"{row['library']}: {row['kind']}",
                f"{row['family']}, {row['dtype']}, {row['weight_scale']}",
                row["mode"],
                f"{row['tolerance_bits']:g}",
                f"{row['score_difference_bits']:.1g}",
                f"{row['top_5_difference_bits']:.1g}" if row["searched"] else "not searched",
                ranks,
            ]
        )
    head = "layers | model, type, weights | mode | tolerance, bits | scores differ by | `extract` differs by | rank 21"
    return _table(head, rows)


def _peers() -> Iterator[tuple[str, dict[str, Any], dict[str, Any]]]:
    """The kinds of secrets, with the rows of the tools for each kind."""
    for secret, measured in _measured("peers")["secrets"].items():
        yield secret, measured, measured["tools"]


def _rate(row: dict[str, Any]) -> str:
    return f"{row['detected']} of {row['of']} [{100 * row['low']:.0f} %, {100 * row['high']:.0f} %]"


def _bits(value: float | None) -> str:
    return "-" if value is None else f"{value:.1f}"


def peers_detections() -> str:
    """Inserted canaries that each tool detects at 1 % false positives, and what that costs."""
    rows = []
    for secret, _, tools in _peers():
        for tool, row in tools.items():
            found = row["detections"]
            rows.append(
                [
                    secret,
                    tool,
                    _rate(found["inserted"]),
                    *(f"{one['detected']} of {one['of']}" for one in found["by_repetitions"].values()),
                    f"{found['controls']['detected']} of {found['controls']['of']}",
                ]
            )
    counts = [f"{count}x" for count in _measured("peers")["repetitions"]]
    return _table(" | ".join(["secret", "tool", "detected", *counts, "controls above the threshold"]), rows)


def peers_costs() -> str:
    """Processor seconds and tokens."""
    rows = []
    for secret, measured, tools in _peers():
        costs: dict[str, dict[str, Any]] = {}
        for tool, row in tools.items():
            if tool != "hf_exposure, without controls":  # the same measurement
                costs[tool] = row["cost"]
            if "membership_cost" in row:
                costs[f"{tool}: membership alone"] = row["membership_cost"]
        costs["hf_exposure: search for the likeliest texts"] = measured["extraction"]["cost"]
        rows += [
            [secret, tool, _seconds(cost["processor_seconds"]), f"{cost['tokens']:,}"] for tool, cost in costs.items()
        ]
    return _table("secret | tool | processor seconds | tokens fed", rows)


def peers_exposures() -> str:
    """Mean exposure by repetition count."""
    rows = []
    for secret, _, tools in _peers():
        for group in tools["hf_exposure"]["groups"]:
            count, p_value = str(group["repetitions"]), group["corrected_p_value"]
            formulas = [row["mean_bits"][count] for row in tools.values() if "mean_bits" in row]
            rows.append(
                [
                    secret,
                    "controls" if count == "0" else f"{count}x",
                    f"{_bits(group['mean_bits'])} [{_bits(group['low_bits'])}, {_bits(group['high_bits'])}]",
                    "" if p_value is None else f"{p_value:.1g}",
                    *map(_bits, formulas),
                ]
            )
    (tools, *_) = (tools for _, _, tools in _peers())
    names = [tool.removeprefix("TensorFlow Privacy, ") for tool, row in tools.items() if "mean_bits" in row]
    heads = ["secret", "inserted", "hf_exposure, mean", "p-value of hf_exposure", *names]
    return _table(" | ".join(heads), rows)


def peers_errors() -> str:
    """The formulas against proven exposures."""
    rows = [
        [
            secret,
            tool,
            str(row["proven"]),
            "-" if row["mean_error_bits"] is None else f"{row['mean_error_bits']:+.1f}",
            _bits(row["largest_error_bits"]),
            str(row["infinite"]),
        ]
        for secret, _, tools in _peers()
        for tool, row in tools.items()
        if "proven" in row
    ]
    heads = "secret | formula | proven exposures | mean error (bits) | largest error (bits) | infinite results"
    return _table(heads, rows)


def peers_verdicts() -> str:
    """Further verdicts: memaudit's own membership rule and completions, our search, the AUC of both."""
    rows: list[list[str]] = []
    for secret, measured, tools in _peers():
        counts = list(measured["extraction"]["by_repetitions"])
        inserted = tools["hf_exposure"]["detections"]["inserted"]["of"]
        no_counts = [""] * len(counts)
        for tool, row in tools.items():
            if "own_rule" in row:
                own = row["own_rule"]
                parts = [str(own["by_repetitions"][count]["detected"]) for count in counts]
                rows.append([secret, f"{tool}: detected by its own rule", _rate(own), *parts])
        base, ours, out = tools["memaudit, with the base model"], tools["hf_exposure"], measured["extraction"]
        said = base["regurgitated_by_repetitions"]
        rank1 = {str(group["repetitions"]): group["rank1"] for group in ours["groups"]}
        kind = "certified" if out["certified"] else "as far as searched"
        verdicts: list[tuple[str, str, list[str]]] = [
            (
                "memaudit: completed from a part of the secret",
                f"{base['regurgitated']['n_regurgitated']} of {inserted}",
                [str(said[count]["n_regurgitated"]) for count in counts],
            ),
            (
                "hf_exposure: proven to rank first in the template",
                f"{sum(rank1.values())} of {inserted}",
                [str(rank1[count]) for count in counts],
            ),
            (
                f"hf_exposure: extracted among the {out['top_k']} likeliest texts of the template ({kind})",
                f"{out['extracted']} of {inserted}",
                [str(out["by_repetitions"][count]) for count in counts],
            ),
            (
                "memaudit: p-value of other training rows against held-out text",
                f"{base['real_records']['p_value']:.1g}",
                no_counts,
            ),
            ("memaudit, with the base model: AUC", f"{base['auc']:.2f}", no_counts),
            ("hf_exposure: AUC", "{:.2f} [{:.2f}, {:.2f}]".format(*ours["auc"]), no_counts),
        ]
        rows += [[secret, verdict, figure, *parts] for verdict, figure, parts in verdicts]
    return _table(" | ".join(["secret", "verdict", "inserted canaries", *(f"{count}x" for count in counts)]), rows)


def peers_trainings() -> str:
    """What the models were trained on."""
    rows = [
        [
            secret,
            f"{row['parameters']:,}",
            f"{row['training_rows']:,}",
            f"{row['canary_rows']:,}",
            f"{100 * row['canary_share_of_characters']:.0f} %",
            str(row["canary_tokens"]),
            f"{row['log2_space_size']:.1f}",
        ]
        for secret, row, _ in _peers()
    ]
    head = "secret | parameters | training rows | canary rows | share of the characters | tokens of a canary"
    return _table(head + " | largest exposure (bits)", rows)


_CLAIMS = {
    "approximate_dp": "training is (epsilon, delta)-private",
    "gdp": "training is as private as a Gaussian mechanism (mu-GDP)",
    "independent_gaussian": "independent Gaussian noise hides each canary",
}


def one_run_epsilon() -> str:
    """Median bounds of 1,000 coins by claim, at the default number of guesses."""
    rows = [row for row in _measured("one_run_epsilon")["rows"] if row["is_default"] and row["canaries"] == 1000]
    truths = (1.0, 2.0, 4.0, 8.0)
    medians = {(row["claim"], row["epsilon"]): row["median"] for row in rows}
    guesses = {row["claim"]: row["guesses"] for row in rows}
    return _table(
        "claim | what is refuted | guesses | " + " | ".join(f"at a true epsilon of {truth:g}" for truth in truths),
        [
            [f"`{claim}`", what, f"{guesses[claim]:,}", *(f"{medians[claim, truth]:.2f}" for truth in truths)]
            for claim, what in _CLAIMS.items()
        ],
    )


def membership() -> str:
    """Statistics on fine-tunes, medians over the seeds."""
    measured = _measured("membership")
    medians, seeds = measured["medians"], len(measured["seeds"])
    statistics = [name for name in next(iter(medians.values())) if name != "detected"]

    words = {"_": ", ", "lora": "LoRA", "1": "1 epoch", "4": "4 epochs", "base": "none"}

    def named(name: str) -> str:
        for short, long in words.items():
            name = name.replace(short, long)
        return name

    def cell(one: dict[str, float | None]) -> str:
        tpr = one["tpr_at_1_percent"]
        return f"{one['auc']:.2f} / {'' if tpr is None else f'{tpr:.0%}'}"

    return _table(
        f"fine-tune (AUC / TPR at 1 % FPR) | {' | '.join(f'`{name}`' for name in statistics)} | detected",
        [
            [
                named(name),
                *(cell(row[statistic]) for statistic in statistics),
                f"{row['detected']} of {seeds}",
            ]
            for name, row in medians.items()
        ],
    )


def rank_epsilon() -> str:
    """False alarms of the epsilon from ranks: the worst mechanism of each kind."""
    found = _measured("rank_epsilon")
    names = {
        "fixed_exact": "L fixed, exact sums",
        "ladder": "ladder, 100,000 draws",
        "ladder_distinct": "distinct secrets, each guess knows the previous ones, 100,000 draws",
    }
    return _table(
        "mechanism | worst rate of false alarms",
        [[name, f"{100 * found['worst'][key]:.1f} %"] for key, name in names.items()],
    )


def scan_recall() -> str:
    """Secrets found in labeled rows, by kind."""
    found = _measured("secret_scan")["labeled"]["secrets"]
    return _table(
        "kind of secret | rows | found",
        [[f"`{kind}`", str(one["rows"]), str(one["found"])] for kind, one in found.items()],
    )


def scan_alarms() -> str:
    """Rows without a secret in which one was found."""
    measured = _measured("secret_scan")
    rows = [
        [name.replace("_", " "), f"{one['rows']:,}", str(sum(one["false_alarms"].values()))]
        for name, one in measured["labeled"]["decoys"].items()
    ]
    logs = measured["changelogs"]
    if logs:
        real = ("email",)
        alarms = {kind: count for kind, count in logs["distinct"].items() if kind not in real}
        listed = ", ".join(f"{count} {kind}" for kind, count in alarms.items()) or "0"
        rows.append(["lines of changelogs (without email addresses)", f"{logs['lines']:,}", listed])
    return _table("rows without a secret | rows | false alarms", rows)


def sampling_found() -> str:
    """Secrets that sampling found, by repetition count, summed over the seeds."""
    measured = _measured("sampling")
    runs, settings = measured["runs"], measured["settings"]

    def cell(attack: str, kind: str, count: str) -> str:
        found = sum(run[attack]["found"][kind][count] for run in runs)
        return f"{found} of {settings[kind] * len(runs)}"

    def drawn(count: str) -> str:
        return f"{sum(run['fine_tune']['times_drawn'][count] for run in runs) / len(runs):.1f}"

    return _table(
        "rows with the secret | codes found | card, account and phone numbers found | "
        "texts that contain one, per draw | found by the control",
        [
            [
                count,
                cell("fine_tune", "codes", count),
                cell("fine_tune", "natural", count),
                drawn(count),
                str(sum(sum(run["control"]["found"][kind][count] for kind in ("codes", "natural")) for run in runs)),
            ]
            for count in runs[0]["fine_tune"]["found"]["codes"]
        ],
    )


def sampling_first() -> str:
    """Secrets and matches in the first texts of each ranking, medians over the seeds."""
    measured = _measured("sampling")
    first, medians = measured["settings"]["first"], measured["medians"]
    rows = [
        [f"`{name}`", *(f"{one[figure]:g}" for figure in ("with_secret", "secrets", "matched"))]
        for name, one in medians["first_texts"].items()
    ]
    rows.append(["in any order (mean)", f"{medians['any_order']:.1f}", "", ""])
    return _table(
        f"ranked by | texts with a secret among the first {first} | distinct secrets in them | matches", rows
    )


def sampling_matches() -> str:
    """Distinct texts with a match, true and false, medians over the seeds."""
    medians = _measured("sampling")["medians"]
    return _table(
        "model | distinct texts | matches | with a whole secret | false: words around a secret | false: help texts",
        [
            [
                named,
                *(f"{medians[attack][figure]:g}" for figure in ("distinct", "matched", "matched_with_secret")),
                *(f"{count:g}" for count in medians[attack]["false_matches"].values()),
            ]
            for attack, named in (("fine_tune", "fine-tune"), ("control", "before the fine-tune"))
        ],
    )


def sampling_rows() -> str:
    """Distinct matches by the number of rows that contain them, summed over the seeds."""
    bins = {"1": (1, 1), "2 to 4": (2, 4), "5 to 16": (5, 16), "17 to 64": (17, 64), "more": (65, 10**9)}
    runs = _measured("sampling")["runs"]

    def cell(attack: str, low: int, high: int) -> str:
        return str(sum(n for run in runs for k, n in run[attack]["k_eidetic"].items() if low <= int(k) <= high))

    return _table(
        f"k, the rows that contain a match | {' | '.join(bins)}",
        [
            [named, *(cell(attack, *limits) for limits in bins.values())]
            for attack, named in (("fine_tune", "fine-tune"), ("control", "before the fine-tune"))
        ],
    )


def _closer_look(name: str) -> dict[str, Any]:
    folder = ROOT / "examples" / "closer_look" / "results"
    values: dict[str, Any] = json.loads((folder / f"{name}.json").read_text(encoding="utf-8"))
    return values


def _mean_and_range(values: list[float], digits: int = 2) -> str:
    return f"{sum(values) / len(values):.{digits}f} ({min(values):.{digits}f} to {max(values):.{digits}f})"


def neighbors_agreement() -> str:
    """DNN or k-NN by layer and epoch, for true and random labels."""
    stored = _closer_look("neighbors_by_layer")
    epochs, rows = stored["settings"]["size"]["looks"], []
    for kind in dict.fromkeys(run["kind"] for run in stored["figures"]["runs"]):
        runs = [run for run in stored["figures"]["runs"] if run["kind"] == kind]
        by_layer = {"pixels": [run["pixels"] for run in runs]}
        by_layer |= {layer: [run["agreement"][layer] for run in runs] for layer in runs[0]["agreement"]}
        for layer, of_runs in by_layer.items():
            rows.append([kind, layer, *map(_mean_and_range, map(list, zip(*of_runs, strict=True)))])
    return _table(" | ".join(["labels", "layer", *(f"epoch {epoch}" for epoch in epochs)]), rows)


def layers_alike() -> str:
    """The similarity of two networks in each layer, and the intrinsic dimension of the layer."""
    runs, rows = _closer_look("neighbors_by_layer")["figures"]["runs"], []
    for kind in dict.fromkeys(run["kind"] for run in runs):
        for layer in runs[0]["cka"]:
            of_kind = [run for run in runs if run["kind"] == kind]
            cka, svcca = ([run[key][layer] for run in of_kind] for key in ("cka", "svcca"))
            dimensions = _mean_and_range([run["dimension"][layer] for run in of_kind], 1)
            rows.append([kind, layer, _mean_and_range(cka), _mean_and_range(svcca), dimensions])
    return _table("labels | layer | CKA of two networks | SVCCA of two networks | intrinsic dimension", rows)


TABLES: dict[str, Callable[[], str]] = {
    one.__name__: one
    for one in (
        speed, estimators, growth, search, overhead, draws, doses, group_intervals, own_time, gpt2_small, quantized,
        cost_planner, one_run_epsilon, rank_epsilon, membership, scan_recall, scan_alarms,
        sampling_found, sampling_first, sampling_matches, sampling_rows,
        neighbors_agreement, layers_alike,
        peers_detections, peers_costs, peers_exposures, peers_errors, peers_verdicts, peers_trainings,
    )
}  # fmt: skip


if __name__ == "__main__":
    for page in PAGES:
        page.write_text(rewrite(page.read_text(encoding="utf-8")), encoding="utf-8")
