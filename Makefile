# One-liners over real commands. `make help` lists them; set-up is idempotent and called by all.
SHELL = /bin/sh
BIN = .venv/bin
K =
CORPUS =
EML =
RELEASES =
# The rings that need programs from outside, which tools/test-setup.sh brings.
RINGS = neighbours or postfix or exim or postgresql or crash or corpus or browser or tools
# What `make run` installs; numpy is for who wants it.
EXTRAS = --extra libmilter --extra postgresql --extra web
LOCK = uv pip compile --universal --generate-hashes --no-emit-index-url --no-header --no-annotate --quiet

.DEFAULT_GOAL := check
.PHONY: help check setup dev rings run demo lint ruff mypy pyright imports inner portable test corpus neighbours crash cluster soak bench bench-check replay docs lock deb wheel release test-matrix test-lowest clean

help:        ## this list
	@sed -n 's/^\([a-z-]*\):[^#]*## */\1: /p' Makefile

check: dev   ## the inner ring: lint, types, imports, tests that need no root, network or MTA (80 s on two cores)
	$(MAKE) --no-print-directory -j2 lint inner

setup:       ## system libraries, .venv, pinned packages
	@tools/setup.sh run

dev:         # the same, with linters and test tools
	@tools/setup.sh dev

rings: dev   # what the outer rings need: MTAs, PostgreSQL, a browser
	@tools/test-setup.sh

run: setup   ## milter and policy service in the foreground, on loopback
	@exec $(BIN)/milterctl run

demo: setup  ## a story of our own: a scrub before and after, and a sender's history
	@exec $(BIN)/python tests/demo/demo.py

lint: ruff mypy pyright imports

ruff:
	$(BIN)/ruff check .
	$(BIN)/ruff format --check --quiet .

mypy:
	$(BIN)/mypy

pyright:
	$(BIN)/pyright

imports:
	$(BIN)/lint-imports

inner:
	$(BIN)/pytest -q -n 2 --dist loadfile -m "not ($(RINGS) or slow)" -k "$(K)"

portable:    # all that needs nothing beside what set-up brings: the inner ring and the slow one
	$(BIN)/pytest -q -n 2 --dist loadfile -m "not ($(RINGS))" -k "$(K)"

test: rings  ## every ring; K=trap for one topic
	$(if $(K),,$(MAKE) --no-print-directory lint)
	PATH="$$PATH:$(CURDIR)/.venv/debs/bin" $(BIN)/pytest -n 2 --dist loadfile $(if $(K),-k "$(K)")

corpus: dev  ## the tests that read a corpus: make corpus CORPUS=DIR
	GATEPOST_REQUIRE=corpus GATEPOST_CORPUS="$(abspath $(CORPUS))" $(BIN)/pytest -m corpus -s

neighbours: rings ## amavis, rspamd, mlmmj, Sieve, Sendmail for real (root; unpacks Debian's packages)
	GATEPOST_REQUIRE=neighbours,postfix $(BIN)/pytest -m neighbours

crash: rings ## kill -9, 200 rounds on each database
	GATEPOST_REQUIRE=crash,postgresql GATEPOST_CRASH_ROUNDS=200 $(BIN)/pytest -m crash -s --timeout=0

cluster: dev ## two PostgreSQL nodes under Patroni, two hosts; the leader is killed 20 times
	$(BIN)/python tools/cluster.py

soak: dev    ## half an hour of mixed traffic, aborts, reloads and killed workers
	$(BIN)/python bench/soak.py

bench: dev   ## side by side with other milters; writes bench/RESULTS.md
	$(BIN)/python bench/run.py --write bench/RESULTS.md

bench-check: dev ## instructions per message against the committed baseline
	$(BIN)/python bench/check.py

replay: setup ## one saved message through the real milter: make replay EML=tests/mail/x.eml
	$(BIN)/milterctl replay $(EML)

docs: dev    ## write the generated pages, and run the README's session again
	$(BIN)/python tools/manpages.py
	$(BIN)/python tools/operator_pages.py
	$(BIN)/python tools/rooms.py
	$(BIN)/python tools/readme.py

lock:        ## pin the dependencies again (needs uv); `make lock LOCK_FLAGS=--upgrade` for newer ones
	$(LOCK) $(LOCK_FLAGS) --group pyproject.toml:build -o requirements-build.lock
	$(LOCK) $(LOCK_FLAGS) -c requirements-build.lock $(EXTRAS) pyproject.toml -o requirements.lock
	$(LOCK) $(LOCK_FLAGS) -c requirements-build.lock -c requirements.lock --all-extras pyproject.toml --group pyproject.toml:dev -o requirements-dev.lock
	$(LOCK) $(LOCK_FLAGS) -c requirements-build.lock -c requirements-dev.lock --group pyproject.toml:compile -o requirements-compile.lock

deb:         ## the Debian package for the release this machine runs, into dist/; COMPILE=no: all of it Python
	@$(if $(filter no,$(COMPILE)),DEB_BUILD_OPTIONS="$(DEB_BUILD_OPTIONS) nocompile") tools/deb.sh

wheel: dev   ## a wheel with compiled modules for this Python and machine, into dist/
	@tools/wheel.sh

release: dev ## sdist, wheel and Debian package, built twice and compared, with checksums
	@tools/release.sh

test-matrix: ## the inner and the slow ring on Debian 12, 13 and the next one, in chroots (root, debootstrap)
	@tools/test-matrix.sh $(RELEASES)

test-lowest: dev ## the inner and the slow ring with the lowest versions that pyproject.toml allows (needs uv)
	@tools/test-lowest.sh

clean:       ## everything that set-up and tests made here
	rm -rf .venv setup.log deb.log build dist .pytest_cache .mypy_cache .ruff_cache .hypothesis .import_linter_cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
