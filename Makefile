# make demo: repaint a real photograph.   make test: run every test.   make check: lint, format, types.
PYTHON ?= python3
BIN = .venv/bin

.PHONY: demo test check format clean

demo: .venv/.user
	$(BIN)/impasto transfer rocket starry-night -o demo.png
	@echo "The picture is there: $(CURDIR)/demo.png"

test: .venv/.dev
	$(BIN)/python -m pytest

check: .venv/.dev
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy

format: .venv/.dev
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

clean:
	rm -rf .venv

# What a user gets, and what a developer gets beside it.
.venv/.user: pyproject.toml constraints.txt
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[all]'
	@touch $@

.venv/.dev: .venv/.user
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[dev]'
	@touch $@
