"""The results of "The Secret Sharer" (Carlini et al. 2019), measured again with `hf_exposure`: one script a result.

`docs/reproduction.md` shows what came out. `python -m examples.secret_sharer.table_1 --text-file my.txt` runs one.
"""
