"""Size of the subword vocabulary, below the ceiling: the study `subwords` with more lines and only two epochs.

python -m examples.many_trainings.subwords_early --data TEXT_FILE --store FOLDER

With eight epochs over 150 lines, the loss attack identified all lines with any vocabulary. Here, batches have the same
amount of text with each vocabulary, so the numbers of steps are equal.
"""

from __future__ import annotations

from examples.many_trainings.study import Options, draw_lines, each_seed, parse_options, write_result
from examples.many_trainings.subwords import VOCABULARIES, Size, one_seed
from examples.secret_sharer.results import Stopwatch

SIZES = {
    "smallest": Size(lines=20, epochs=1, seeds=2, equal_steps=True),
    "small": Size(lines=400, epochs=2, seeds=6, equal_steps=True),
}


def run(options: Options) -> None:
    size, watch = SIZES[options.size], Stopwatch()
    lines, name = draw_lines(options.data, 2 * size.lines)
    runs = each_seed(options, size.seeds, lambda seed: one_seed(lines, size, seed))
    settings = {"lines": size.lines, "epochs": size.epochs, "seeds": size.seeds, "vocabularies": list(VOCABULARIES)}
    figures = {"runs": runs}
    write_result(options, "subwords_early", data=name, settings=settings, figures=figures, cost=watch.read())


if __name__ == "__main__":
    run(parse_options(__doc__ or ""))
