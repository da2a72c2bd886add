# The course by commands; `make` alone lists them. Works with GNU make 3.81 (macOS) and later.
# scripts/setup_env.py decides whether .venv needs anything: it compares the requirements' content, not their dates.

.DEFAULT_GOAL := help
.PHONY: help setup tutorial course model sync test proofs faults lab docker notebooks site lint format constraints clean

# The first Python that the course runs on; a name that is there may still not run (pyenv's shims).
PYTHON ?= $(shell for p in python3 python3.12 python3.11 python3.13; do \
	$$p -c 'import sys; sys.exit(sys.version_info[:2] not in [(3, 11), (3, 12), (3, 13)])' 2>/dev/null && echo $$p && break; done)
# The containers have theirs elsewhere, because the repository is mounted over the one in the image.
VENV ?= .venv
VENV_PYTHON := $(VENV)/bin/python
PORT ?= 8888
LISTEN ?= 127.0.0.1
FOLDER ?= .
LAB_OPTIONS ?=

help: ## List the commands
	@echo "make COMMAND, where COMMAND is one of"
	@sed -n 's/^\([a-z]*\):.*## \(.*\)/  \1|\2/p' $(firstword $(MAKEFILE_LIST)) | \
		while IFS='|' read -r name text; do printf '  %-14s%s\n' $$name "$$text"; done
	@echo
	@echo "Settings: EPOCHS=50 make tutorial   TORCH_BACKEND=cpu make setup (no GPU)   PYTHON=python3.12   PORT=8889"

setup: ## Make .venv with everything in it; does nothing if the requirements have not changed
	@test -n "$(PYTHON)" || { echo "error: no Python 3.11, 3.12 or 3.13 is found (tried python3, python3.12 ...)." \
		"Install one, or name it: make PYTHON=/path/to/python3.12 setup" >&2; exit 1; }
	@$(PYTHON) scripts/setup_env.py --venv $(VENV)

# What only tests and tools need waits for `make test`.
tutorial course model sync lab: export COURSE_ONLY ?= 1

tutorial: setup ## Run the core path: data, features, training, evaluation; ends in a table
	$(VENV_PYTHON) scripts/run_notebooks.py tutorial

course: setup ## Run every notebook there is
	$(VENV_PYTHON) scripts/run_notebooks.py course

model: setup ## Make the model that ships with the package again, from AN4; about an hour on two cores
	$(VENV_PYTHON) scripts/prepare_an4.py --source an4
	$(VENV_PYTHON) scripts/tools/make_an4_model.py
	$(VENV_PYTHON) scripts/tools/run_study.py shipped --again
	$(VENV_PYTHON) scripts/tools/make_results.py
	$(VENV_PYTHON) scripts/export.py an4 src/asr_with_nemo/assets/an4.onnx

sync: setup ## Send W&B the runs that were kept while it could not be reached
	$(VENV_PYTHON) scripts/sync.py

test: lint ## Lint, then run all tests
	$(VENV_PYTHON) -m pytest -n auto --maxprocesses 4 --dist loadfile --no-loadscope-reorder

proofs: setup ## Run the checks that take long: slow tests, then the containers; needs Docker or buildah
	$(VENV_PYTHON) -m pytest -m proof -n auto --maxprocesses 4 --dist loadfile --no-loadscope-reorder
	docker/prove.sh

faults: setup ## Run every stage under every fault (killed, full disk, damaged input ...), and print what held
	$(VENV_PYTHON) scripts/tools/faults.py

lab: setup ## Open JupyterLab on 127.0.0.1; the address with its token is printed
	$(VENV_PYTHON) -m jupyterlab --ServerApp.ip=$(LISTEN) --ServerApp.port=$(PORT) --ServerApp.allow_root=True \
		--ServerApp.root_dir=$(FOLDER) --LabApp.default_url=/lab/tree/notebooks \
		$(LAB_OPTIONS)

docker: ## Open JupyterLab in a container, with the GPU if there is one that fits; needs Docker
	@docker/start.sh

notebooks: setup ## Execute the committed notebooks again, so that their outputs are fresh
	$(VENV_PYTHON) scripts/run_notebooks.py update

site: setup ## Build the course as static pages, build/site, from the committed notebooks; executes none of them
	$(VENV_PYTHON) scripts/tools/make_site.py

lint: setup ## Check style, notebooks included
	$(VENV_PYTHON) -m ruff check
	$(VENV_PYTHON) -m ruff format --check

format: setup ## Mend style, notebooks included
	$(VENV_PYTHON) -m ruff check --fix
	$(VENV_PYTHON) -m ruff format

constraints: setup ## Write constraints.txt from what .venv has
	$(VENV_PYTHON) scripts/setup_env.py --venv $(VENV) --freeze

clean: ## Remove build/ and caches; keeps data/, runs/ and .venv
	rm -rf build .pytest_cache .ruff_cache src/*.egg-info
	find src scripts tests -name __pycache__ -type d -prune -exec rm -rf {} +
