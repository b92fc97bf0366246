# Every target does all it needs on a machine with only Python 3.11 or newer: it makes the virtual
# environment, installs what the target uses, and runs it.
PYTHON ?= python3
VENV ?= .venv
BIN = $(VENV)/bin
JOBS ?= 2

# The lowest versions of what the package depends on, as pip takes them.
OLDEST = import tomllib; project = tomllib.load(open("pyproject.toml", "rb"))["project"]; \
	print(*(each.replace(">=", "==") for each in project["dependencies"]))

.DEFAULT_GOAL := help
.PHONY: help demo test coverage test-oldest test-newest test-clients test-compiled lint types wheel docs docs-serve
.PHONY: fuzz long-runs mutants crashes benchmarks clean

help:  ## what there is
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 16

demo: $(VENV)/installed-examples  ## train a network on real handwritten digits, and draw its curves
	$(BIN)/python examples/train_digits.py

# All but those that have a target of their own.
TEST = $(BIN)/python -m pytest -n $(JOBS) --ignore=tests/clients --ignore=tests/compiled

test: $(VENV)/installed-test-torch  ## run the tests of the package, its documents and its examples
	$(TEST)

coverage: $(VENV)/installed-test-torch  ## run them, and see that at least 98 % of the lines ran
	$(TEST) --cov --cov-report=term

test-clients: $(VENV)/installed-test  ## train with every library that takes an optimizer of Optax
	$(BIN)/python -m pytest -n $(JOBS) tests/clients

test-oldest: $(VENV)-oldest/installed  ## run every test on the oldest JAX and Optax that pyproject.toml allows
	$(VENV)-oldest/bin/python -m pytest -n $(JOBS)

test-newest: $(VENV)-newest/installed  ## run the tests that need no torch on the newest JAX and Optax that there are
	$(VENV)-newest/bin/python -m pytest -n $(JOBS) -m "not torch"

test-compiled: $(VENV)-compiled/installed  ## compile steps for TPUs and GPUs, by their own compilers, which need none
	JAX_PLATFORMS=cpu $(VENV)-compiled/bin/python -m pytest -n $(JOBS) tests/compiled

lint: $(VENV)/installed-dev  ## check style and formatting
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: $(VENV)/installed-dev  ## check types
	$(BIN)/pyright

fuzz: $(VENV)/installed-test-torch  ## compare with torch on 20,000 random runs, match 20,000 random models, damage 200,000 inputs
	rm -f benchmarks/results/fuzz.jsonl
	ADADELTA_JAX_RESULTS=benchmarks/results ADADELTA_JAX_FUZZ=20000 ADADELTA_JAX_FUZZ_DAMAGE=200000 \
		ADADELTA_JAX_FUZZ_ARCHITECTURES=20000 \
		$(BIN)/python -m pytest -n $(JOBS) tests/fuzz

long-runs: $(VENV)/installed-test-torch  ## take a million steps, and nest Optax's wrappers in each other
	rm -f benchmarks/results/long_runs.jsonl
	ADADELTA_JAX_RESULTS=benchmarks/results ADADELTA_JAX_LONG_RUNS=1 \
		$(BIN)/python -m pytest -s tests/_core/test_long_runs.py tests/clients/test_optax_wrappers.py

mutants: $(VENV)/installed-dev  ## change one thing at a time in the source, and see that a test fails (an hour)
	nice $(BIN)/python -m tests.mutation.run --jobs $(JOBS) $(MODULES)

crashes: $(VENV)/installed-test-torch  ## end training processes at random moments, as often as a night allows
	ADADELTA_JAX_CRASHES=20 $(BIN)/python -m pytest -n $(JOBS) tests/distributed/test_crashes.py

benchmarks: $(VENV)/installed-benchmarks $(VENV)-compiled/installed  ## measure all that the documents say of speed, memory, state and training (hours)
	mkdir -p benchmarks/results
	for each in speed.step_time=step_time speed.train_step=train_step memory.step=memory \
			speed.compile_time=compile_time accumulators.compare=accumulators \
			paper.mnist=zeiler_mnist learning_rate_free.compare=learning_rate_free; do \
		name=$${each#*=}; \
		$(BIN)/python -m benchmarks.$${each%=*} --json benchmarks/results/$$name.json \
			--plot docs/images/$$name.png || exit 1; \
	done
	$(BIN)/python -m benchmarks.memory.state_bytes --json benchmarks/results/state_bytes.json
	$(BIN)/python -m benchmarks.memory.wrappers --json benchmarks/results/wrappers.json
	JAX_PLATFORMS=cpu $(VENV)-compiled/bin/python -m benchmarks.pods.step_bytes \
		--json benchmarks/results/pods_step.json --plot docs/images/pods_step.png
	JAX_PLATFORMS=cpu $(VENV)-compiled/bin/python -m benchmarks.pods.layouts \
		--json benchmarks/results/pods_layouts.json
	$(BIN)/python -m benchmarks.tables

wheel: $(VENV)/installed-dev  ## build the wheel, install it into an empty environment and import it
	rm -rf dist build/empty-environment
	$(BIN)/python -m build --wheel --outdir dist .
	$(PYTHON) -m venv build/empty-environment
	build/empty-environment/bin/pip install --quiet dist/*.whl
	cd build && empty-environment/bin/python -c "import adadelta_jax; print(adadelta_jax.__file__)"

docs: $(VENV)/installed-docs  ## build the documentation site into build/site; a warning is an error
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --quiet --strict

docs-serve: $(VENV)/installed-docs  ## show it on http://127.0.0.1:8000 while you write
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs serve --watch adadelta_jax

clean:  ## remove all that the other targets made
	rm -rf $(VENV) $(VENV)-oldest $(VENV)-newest $(VENV)-compiled build dist runs .pytest_cache .ruff_cache .coverage

$(VENV)-oldest/installed: pyproject.toml
	test -x $(VENV)-oldest/bin/python || $(PYTHON) -m venv $(VENV)-oldest
	$(VENV)-oldest/bin/python -m pip install --quiet --editable '.[test-torch]' \
		$$($(VENV)-oldest/bin/python -c '$(OLDEST)')
	touch $@

$(VENV)-compiled/installed: pyproject.toml
	test -x $(VENV)-compiled/bin/python || $(PYTHON) -m venv $(VENV)-compiled
	$(VENV)-compiled/bin/python -m pip install --quiet --editable '.[test-compiled]'
	touch $@
$(VENV)-newest/installed: pyproject.toml
	test -x $(VENV)-newest/bin/python || $(PYTHON) -m venv $(VENV)-newest
	$(VENV)-newest/bin/python -m pip install --quiet --upgrade --upgrade-strategy eager \
		--editable '.[test]'
	touch $@

$(VENV)/installed-%: pyproject.toml
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --editable '.[$*]'
	touch $@
