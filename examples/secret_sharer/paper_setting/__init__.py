"""The paper's experiments in the paper's own setting, as a queue that can be stopped and resumed.

`python -m examples.secret_sharer.paper_setting --text-file ptb.txt` trains the next models that are not there yet.
`experiments.toml` says which; their claims are in `results/*.toml`, under `[paper_setting]`.
"""
