"""The study `texts_transformer` with twice the epochs, so that rows of random characters are learned too.

python -m examples.many_trainings.texts_transformer_longer --data TEXT_FILE --store FOLDER
"""

from __future__ import annotations

from dataclasses import replace

from examples.many_trainings import texts_transformer
from examples.many_trainings.study import Options, parse_options

SIZES = {
    "smallest": replace(texts_transformer.SIZES["smallest"], epochs=2),
    "small": replace(texts_transformer.SIZES["small"], epochs=120, models=10),
}


def run(options: Options) -> None:
    texts_transformer.run_named(options, "texts_transformer_longer", SIZES[options.size])


if __name__ == "__main__":
    run(parse_options(__doc__ or ""))
