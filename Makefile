# The GLEAM Book: `make reproduce` and `make test` both work as the first command in a fresh clone.
PYTHON ?= python3
JOBS   ?=
VENV   := .venv
BIN    := $(VENV)/bin
STAMP  := $(VENV)/.installed
PEERS  := $(VENV)/peers/.installed
# `make -j2` means JOBS=2
AT_ONCE = $(or $(JOBS),$(patsubst -j%,%,$(filter -j%,$(MAKEFLAGS))))
RUN     = $(BIN)/python notebooks/run.py --profile "$(PROFILE)" --seed "$(SEED)" --data "$(DATA)" --chapters "$(CHAPTERS)" --jobs "$(AT_ONCE)"
RECORDS = $(and $(PROFILE),--profile "$(PROFILE)") $(and $(SEED),--seed "$(SEED)") $(and $(ONLY),--only "$(ONLY)") $(and $(RESULTS),--results "$(RESULTS)") $(and $(OUT),--out "$(OUT)") $(and $(RESUME),--resume-from "$(RESUME)")
ANY_PYTHON = $(or $(wildcard $(BIN)/python),$(PYTHON))
SITE    := $(CURDIR)/_work/site
LINUX   := 17 27 28
PROSE   := *.md *.cff .github/*.md book notebooks gleam data/README.md results/README.md benchmarks
STRIPPED := metadata.papermill cell.metadata.papermill metadata.language_info
export PIP_DISABLE_PIP_VERSION_CHECK := 1

.DEFAULT_GOAL := help
.PHONY: reproduce test test-slow test-faults book check-book pdf student notebooks data archive claims edit benchmark peers records wheels lock lint clean help

reproduce: $(STAMP)  ## Data, chapters, book: redo what is stale, then say where the book is
	@$(RUN) all

test: $(STAMP)  ## The fast tests
	@OMP_NUM_THREADS=1 MKL_NUM_THREADS=1 $(BIN)/python -m pytest -q -n 2 --dist worksteal -m "not slow and not gpu and not faults"

test-slow: $(STAMP)  ## The slow tests: trainings, several processes, whole chapters
	@OMP_NUM_THREADS=1 MKL_NUM_THREADS=1 $(BIN)/python -m pytest -q -n 2 --dist worksteal -m "slow and not gpu and not faults"

test-faults: $(STAMP)  ## Damaged inputs, kills and full disks (slow); FAULTS=--sample takes a tenth
	@OMP_NUM_THREADS=1 MKL_NUM_THREADS=1 $(BIN)/python -m pytest -q -s -m faults tests/faults $(FAULTS)

book: $(STAMP)  ## Only the book, from the chapters that have been run
	@$(RUN) book

check-book: book  ## The pages in a browser (Debian's chromium): errors, links, small texts, phone, keyboard, spelling
	@$(BIN)/codespell $(PROSE)
	@$(BIN)/python book/_check/check.py _build/html

pdf: book  ## All pages as one file, _build/gleam-book.pdf (printed by Debian's chromium)
	@$(BIN)/python book/_check/pdf.py _build/html _build/gleam-book.pdf

notebooks: $(STAMP)  ## Only the chapters
	@$(RUN) notebooks

student: $(STAMP)  ## The chapters without solutions and checks, with gaps to fill, in student/
	@$(RUN) student

data: $(STAMP)  ## What is there of each data set and how to get the rest; phantoms where real data are not given
	@$(RUN) data

archive: $(STAMP)  ## Copy the records of a build, PROFILE=standard SEED=1, to results/
	@$(RUN) archive

claims: $(STAMP)  ## The paper's claims, ours with intervals, and verdicts, in the terminal
	@$(BIN)/python -m gleam.records.scoreboard results _work/$(or $(PROFILE),quick)/records

lint: $(STAMP)  ## Style, types, and notebooks without outputs
	@$(BIN)/ruff check .
	@$(BIN)/mypy
	@$(BIN)/nbstripout --keep-id --verify --extra-keys "$(STRIPPED)" $(wildcard notebooks/*.ipynb)

edit: $(VENV)/.teach  ## Open the chapters, or FOLDER=student, in JupyterLab, with small parameters and live controls
	@$(RUN) data
	@$(BIN)/jupyter lab --notebook-dir=$(or $(FOLDER),notebooks) $(LAB)

benchmark: $(STAMP) $(PEERS)  ## A training step beside plain PyTorch, deepinv and mrpro (eight minutes)
	@OMP_NUM_THREADS=1 MKL_NUM_THREADS=1 $(BIN)/python benchmarks/benchmark.py

peers: $(STAMP) $(PEERS)  ## The other packages whose networks gleam.adapt takes; without them their tests are skipped

records:  ## The full-scale run on a GPU, as far as SECONDS go; call it again to go on (installs nothing but WHEELS)
	@$(if $(WHEELS),$(ANY_PYTHON) -m pip install -qq --no-index --no-deps --upgrade --target $(SITE) $(WHEELS)/*.whl)
	@$(if $(WHEELS),PYTHONPATH="$(SITE)") $(ANY_PYTHON) benchmarks/full_scale/run.py --seconds $(or $(SECONDS),540) $(RECORDS)

# What a machine that holds torch may lack, for Python 3.12 or the version FOR.
wheels: $(STAMP)  ## Fetch what brains and compressed sensing need, into wheels/, for make records WHEELS=wheels
	@$(BIN)/python -m pip download -qq --no-deps --only-binary=:all: --python-version $(or $(FOR),3.12) $(LINUX:%=--platform manylinux_2_%_x86_64) -d wheels -c requirements.lock nilearn nibabel sigpy pywavelets joblib

lock: $(STAMP)  ## Write requirements.lock from what .venv holds (one without the packages of make edit)
	@{ sed -n '/^#/p' requirements.lock; $(BIN)/pip freeze --all --exclude-editable --exclude pip --exclude gleam-mri | sed 's/+[A-Za-z0-9.]*$$//'; } > requirements.lock.new
	@mv requirements.lock.new requirements.lock && touch $(STAMP)

clean:  ## Remove everything that was made, but not data/
	rm -rf $(VENV) _build _work book/chapters *.egg-info

help:  ## This list
	@echo "make TARGET [PROFILE=quick|standard|paper] [SEED=n] [DATA=dir] [CHAPTERS=\"01 04\"] [JOBS=n] [PYTHON=python3]"
	@awk -F ':.*##' '/^[a-z-]+:.*##/ {printf "  %-11s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

$(STAMP): pyproject.toml requirements.lock
	@command -v $(PYTHON) >/dev/null || { echo "No '$(PYTHON)' was found: install Python 3.11 to 3.14, or name one with PYTHON=/path/to/python3." >&2; exit 1; }
	@$(PYTHON) -c 'import sys; sys.exit(0 if (3, 11) <= sys.version_info < (3, 15) else "Python 3.11 to 3.14 is needed, and $(PYTHON) is %d.%d: name another one with PYTHON=/path/to/python3." % sys.version_info[:2])'
	@echo "Installing into $(VENV) (about 2 GB, several more where torch comes with CUDA; once, and again when the pinned versions change)"
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@$(BIN)/python -m pip install -qq --no-compile -c requirements.lock -e ".[book,test]"
	@touch $@

$(VENV)/.teach: pyproject.toml requirements.lock | $(STAMP)
	@$(BIN)/python -m pip install -qq --no-compile -c requirements.lock -e ".[book,test,teach]" && touch $@

# A folder of its own, without dependencies: nothing there can bring another torch or change a version in .venv.
$(PEERS): benchmarks/requirements.txt | $(STAMP)
	@rm -rf $(@D)
	@$(BIN)/python -m pip install -qq --no-deps --target $(@D) -r $< && touch $@ || echo "deepinv, fastmri, monai and mrpro could not be installed: the benchmark leaves them out, and tests skip them." >&2
