# make demo: repaint a photograph.   make test: run all tests.   make check: format, lint, types.
# make docs: the API reference, into site/.   make package: wheel and sdist, into dist/, tested.
# make image: the Docker image `impasto`.   make fuzz: many more hostile inputs than in the tests.
PYTHON ?= python3
BIN = .venv/bin

.PHONY: demo test fuzz check format docs package image clean

demo: .venv/.user
	$(BIN)/impasto transfer chelsea composition-vii -o demo.png
	@echo "The picture is there: $(CURDIR)/demo.png"

test: .venv/.dev
	$(BIN)/python -m pytest -n 2 --dist loadfile

fuzz: .venv/.dev
	FUZZ_EXAMPLES=5000 $(BIN)/python -m pytest tests/fuzz

check: .venv/.dev
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy

format: .venv/.dev
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

docs: .venv/.dev
	$(BIN)/mkdocs build --clean

package: .venv/.dev
	rm -rf build dist
	$(BIN)/python -m build
	.ci/package $(PYTHON) dist

image:
	docker build --tag impasto $(if $(PIP_EXTRA_INDEX_URL),--build-arg PIP_EXTRA_INDEX_URL) .

clean:
	rm -rf .venv build dist site

# What a user installs, and what a developer installs in addition.
.venv/.user: pyproject.toml constraints.txt
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[all]'
	@touch $@

.venv/.dev: .venv/.user
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[dev]'
	@touch $@
