# make demo    a virtual environment, the packages, and a few pictures in one of the shipped styles
# make check   the same environment and the tests
# make clean   takes away what these two made
#
# PYTHON=python3.11   which Python (3.9 to 3.12) makes the environment
# STYLE=name          a folder of data/mini (default: fxemoji)      PROMPTS="Fire,Anchor,Bread"   which prompts, or how many

VENV := .venv
BIN := $(VENV)/bin
ifndef PYTHON
PYTHON := $(firstword $(foreach name,python3 python3.12 python3.11 python3.10 python3.9,\
	$(shell $(name) -c 'import sys; (3, 9) <= sys.version_info < (3, 13) and print("$(name)")' 2>/dev/null)))
endif
VERSION := $(shell "$(PYTHON)" -c 'import sys; print("%d.%d" % sys.version_info[:2])' 2>/dev/null)
STYLE ?= fxemoji
PROMPTS ?= Fire,Anchor,Bread
OUTPUT ?= result
# Half of pip's time goes into compiling all modules of all packages, most of which no command imports. Python compiles a
# module when one does, and keeps it, unless it must not: then each command would compile anew.
NO_COMPILE := $(if $(PYTHONDONTWRITEBYTECODE),,--no-compile)
PIP = $(BIN)/python -m pip install --quiet $(NO_COMPILE) --disable-pip-version-check
FIRST := jittor|numpy|pillow|tqdm|astunparse

.PHONY: demo check clean tools packages jittor

demo: $(VENV)/installed
	$(BIN)/python test.py --styles "$(STYLE)" --prompts "$(PROMPTS)" --output "$(OUTPUT)"
	@echo
	@echo "The pictures are in $(OUTPUT)/$(STYLE)/ - all on one page: $(OUTPUT)/index.html"

check: $(VENV)/installed-dev
	$(BIN)/python -m pytest --numprocesses auto --maxprocesses 4 --dist loadfile --durations 25

clean:
	rm -rf $(VENV) $(OUTPUT) .pytest_cache .hypothesis build *.egg-info
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

# The stamp files are newer than the requirements once the packages are in.
# Jittor comes first: it compiles itself, which takes all cores minutes, while pip, which uses one core, installs the rest.
# pip would make an environment of its own for each of Jittor's two packages, to build them in: they are built in this one.
$(VENV)/installed: requirements.txt $(VENV)/python-$(VERSION)
	@echo "Installing the packages into $(VENV) ..."
	@grep -E '^($(FIRST))' requirements.txt | xargs -r sh -c '$(PIP) setuptools wheel && $(PIP) --no-build-isolation "$$@"' pip
	@$(MAKE) --no-print-directory --jobs 2 packages jittor
	@touch $@

$(VENV)/installed-dev: requirements-dev.txt requirements-context.txt $(VENV)/installed
	@$(PIP) -r requirements-dev.txt -r requirements-context.txt
	@touch $@

packages:
	@$(PIP) -r requirements.txt

# What goes wrong here is said by the first command that needs Jittor.
jittor:
	@$(BIN)/python -m styleblend.cli.first_start || true

# Packages are of one Python: an environment that was made here with another one is made anew, and one of somebody's own is left alone.
# bin/python can be newer than the environment: it is a link to the system's.
$(VENV)/python-$(VERSION): | tools
	@if [ -e $(VENV) ] && { ! [ -d $(VENV)/lib/python$(VERSION) ] || ! $(BIN)/python -c 'import pip'; } >/dev/null 2>&1; then \
	  ls -A $(VENV) | grep -qE '^(installed|python-)' || [ -z "$$(ls -A $(VENV))" ] || { \
	    echo "make: $(VENV) is no environment of Python $(VERSION), and was not made by make: remove it, or name its Python: make demo PYTHON=$(BIN)/python" >&2; exit 2; }; \
	  echo "Making $(VENV) anew, for Python $(VERSION) ..."; rm -rf $(VENV); fi
	@[ -e $(BIN)/python ] || "$(PYTHON)" -m venv $(VENV) || { rm -rf $(VENV); \
	  echo "make: $(PYTHON) cannot make a virtual environment: type 'sudo apt install python$(VERSION)-venv'." >&2; exit 2; }
	@rm -f $(VENV)/installed*; touch $@

# What pip cannot install. Jittor compiles C++ code against Python's headers while the program runs.
tools:
	@test -n "$(PYTHON)" || { echo "make: no Python 3.9 to 3.12 was found: type 'sudo apt install python3 python3-venv python3-dev', or name one: make demo PYTHON=/path/to/python3.11" >&2; exit 2; }
	@"$(PYTHON)" -c 'import sys; sys.exit(not (3, 9) <= sys.version_info < (3, 13))' || { \
	  echo "make: $(PYTHON) is not a Python 3.9 to 3.12: name another, such as make demo PYTHON=python3.11" >&2; exit 2; }
	@command -v "$${cc_path:-g++}" >/dev/null || { \
	  echo "make: the C++ compiler is missing: type 'sudo apt install g++'." >&2; exit 2; }
	@"$(PYTHON)" -c 'import os, sys, sysconfig; v = "%d.%d" % sys.version_info[:2]; \
	os.path.isfile(os.path.join(sysconfig.get_path("include"), "Python.h")) or \
	sys.exit("make: the headers of Python %s (Python.h) are missing: type \"sudo apt install python%s-dev\"." % (v, v))'
