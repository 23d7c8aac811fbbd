# Servwatch from a clean clone: `make run`. Needs Python 3.11 or newer and GNU make.
# Every path here is relative, so the folder's own name may hold spaces.

PYTHON ?= python3
VENV := .venv/bin/python
TEST_ARGS ?=
# Each of the two has a database server of its own; the tests of one file stay together.
IN_PARALLEL := -n 2 --dist loadfile

.PHONY: help run setup test check format clean
.NOTPARALLEL:

help:
	@echo "make run      set up, start everything, print the console's address (Ctrl-C stops)"
	@echo "make test     set up and run all tests"
	@echo "make check    what has to pass before a change: format, lint, types, layers, migrations, tests"
	@echo "make format   format the code"
	@echo "make setup    only install what is needed"
	@echo "make clean    remove what set-up made; the data folder stays"

run: setup
	@exec $(VENV) manage.py run

setup:
	@"$(PYTHON)" servwatch_site/bootstrap.py

setup-dev:
	@"$(PYTHON)" servwatch_site/bootstrap.py --dev
.PHONY: setup-dev

test: setup-dev
	$(VENV) -m pytest $(IN_PARALLEL) $(TEST_ARGS)

check: setup-dev
	$(VENV) -m ruff format --check .
	$(VENV) -m ruff check .
	$(VENV) -m mypy .
	$(VENV) -c "from importlinter.cli import lint_imports_command; lint_imports_command()"
	$(VENV) -m servwatch_site.embedded.postgres run -- $(VENV) manage.py check --fail-level WARNING
	$(VENV) -m servwatch_site.embedded.postgres run -- $(VENV) manage.py makemigrations --check --dry-run
	$(VENV) -m pytest $(IN_PARALLEL) $(TEST_ARGS)

format: setup-dev
	$(VENV) -m ruff format .
	$(VENV) -m ruff check --fix .

clean:
	rm -rf .venv node_modules static/vendor staticfiles .mypy_cache .pytest_cache .ruff_cache .import_linter_cache
	find . -name __pycache__ -type d -prune -not -path './var/*' -exec rm -rf {} +
	find . -name '*.mo' -not -path './var/*' -delete
