# Two commands do everything on a fresh machine: `make train` and `make test`.
# PYTHON names another interpreter than the first of python3.11 to python3.13.
export PYTHON
BIN := .venv/bin

.PHONY: help install ffcv packages train check test measure mutants lint docs house format lock clean

help:
	@echo "make train   install, get the pictures, train the quick start (or go on where it was); other recipes: configs/"
	@echo "make check   install, check style, types and imports, run the tests that are not slow"
	@echo "make test    the same, with the whole suite"
	@echo "make measure write tests/durations.txt, which says what is slow, anew"
	@echo "make ffcv    build FFCV, for data.format=ffcv"
	@echo "make mutants plant mistakes, one at a time, and see that tests fail; ONLY=WORD for some of them"
	@echo "make lint    the checks without the suite"
	@echo "make docs    the pages of docs/ as a site in build/site; warnings are errors"
	@echo "make house   the rooms of the code, and what each uses"
	@echo "make format  rewrite the code in the project's style"
	@echo "make lock    write .ci/constraints.txt anew for the requirements in pyproject.toml"
	@echo "make clean   remove .venv and caches; data and runs stay"

# The stamp is the last thing that the script writes, so a broken install is made again.
install: .venv/.installed
.venv/.installed: pyproject.toml .ci/constraints.txt .ci/install.sh
	@.ci/install.sh

ffcv: install
	@.ci/ffcv.sh

train: install
	@.ci/quickstart.sh

check: lint
	$(BIN)/python -m pytest -n logical --maxprocesses 8 --dist worksteal --ignore=tests/slurm -m "not slow and not network"

# Debian's packages come while the style and the pages are checked.
test: install
	@$(MAKE) --no-print-directory -j 3 --output-sync lint docs packages
	@.ci/tests.sh

packages: ffcv
	@.ci/packages.sh

# Alone, on a machine that does nothing else.
measure: lint ffcv
	$(BIN)/python -m pytest -n logical --maxprocesses 8 --dist worksteal --ignore=tests/slurm --measure

mutants: install
	$(BIN)/python tests/mutants/run.py $(ONLY)

lint: install
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

# The variable silences a notice that every build prints.
docs: install
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict --config-file .ci/docs/mkdocs.yml

house: install
	@$(BIN)/python .ci/house.py

format: install
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

lock: install
	@.ci/lock.sh

clean:
	rm -rf .venv build *.egg-info .hypothesis .import_linter_cache .mypy_cache .pytest_cache .ruff_cache
