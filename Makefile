# Everything a newcomer needs: `make demo` and `make test`, each from nothing.
PYTHON ?= $(shell command -v python3.11 || command -v python3.12 || command -v python3.13 || command -v python3)
BIN := .venv/bin
DEMO := demo-out
# Of real-evaluation: real galaxies, laid out as docs/how-to/real-sky.md says, and where its pages go.
DATA := ../shared/data
REAL := real-out

.PHONY: venv demo real-evaluation test slow long lint clean

venv: .venv/installed

.venv/installed: pyproject.toml constraints.txt
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --no-compile --disable-pip-version-check --constraint constraints.txt --editable '.[dev]'
	# On all cores, in half of pip's time; some packages bring files of another Python's syntax.
	$(BIN)/python -m compileall -qq -j 0 -x '/tests/' .venv/lib gzsurvey || true
	touch $@

demo: venv
	rm -rf $(DEMO)
	$(BIN)/gzsurvey demo $(DEMO)

# Finetuning and evaluation on real galaxies, from nothing to the tables of docs/benchmarks/real-galaxies.md; repeated, it resumes.
real-evaluation: venv
	$(BIN)/python tests/benchmarks/bench_real.py $(DATA) $(REAL)
	$(BIN)/python tests/benchmarks/bench_outliers_real.py $(REAL)/pretrained $(REAL)/store $(DATA)

# A process of one thread for each core: threads of several processes would wait for one another.
PYTEST := OMP_NUM_THREADS=1 $(BIN)/python -m pytest --numprocesses auto --dist loadfile

test: venv
	$(PYTEST) --durations=10

slow: venv
	$(PYTEST) -m slow --durations=10

long: venv
	$(BIN)/python -m pytest -m 'long' --durations=0

lint: venv
	$(BIN)/ruff check gzsurvey tests docs
	$(BIN)/ruff format --check gzsurvey tests docs
	$(BIN)/mypy --num-workers auto
	$(BIN)/lint-imports
	$(BIN)/codespell gzsurvey tests docs pipelines catalogs README.md

clean:
	rm -rf .venv $(DEMO)
