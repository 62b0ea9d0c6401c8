# `make` tells what there is to make. Everything installs what it needs: Debian packages, and the rest into .venv.

PYTHON3 ?= python3
PYTHON = .venv/bin/python

# The firewall and network namespaces need root. It writes no bytecode: root would own the files, all over the tree. So
# the user compiles before: every command, listener and application of a test is a Python process.
SUDO := $(shell test "$$(id -u)" = 0 || command -v sudo)
AS_ROOT = $(SUDO) env PYTHONDONTWRITEBYTECODE=1
COMPILE = @$(PYTHON) -m compileall -q supervisor_rolling tests

# nginx, haproxy and iptables are in sbin: `su` leaves it out of the PATH. gcc and the headers build python-iptables.
export PATH := $(PATH):/usr/sbin:/sbin
PACKAGES = nginx libnginx-mod-http-upstream-fair haproxy iptables nftables libnftables1 iproute2 gcc python3-dev python3-venv

# What some tests need besides: @pytest.mark.needs("browser") installs it, if the test is selected. Node's own packages have
# npm in them, Debian's do not.
NEEDS = needs-balancers needs-browser needs-node needs-shells needs-uwsgi
NODE_CLIENT = .venv/node/node_modules/xmlrpc

SPHINX = $(PYTHON) -m sphinx -q -W --keep-going -n
PROSE = docs README.rst CHANGES.rst $(wildcard supervisor_rolling/help)
STRICT = supervisor_rolling/core supervisor_rolling/plugin supervisor_rolling/codec.py supervisor_rolling/packing.py

.PHONY: help demo test deb deb-check two-steps soak matrix faults pools middleware endurance lint docs site check bench clean packages $(NEEDS)
.NOTPARALLEL:

help:
	@echo 'make demo       a rolling restart under load, in about a minute'
	@echo 'make lint       ruff, mypy, and the documentation'
	@echo 'make docs       the documentation: build/docs/html/index.html, and the man pages in conf/man'
	@echo 'make test       all tests but the long ones; ARGS="-k name" for some'
	@echo 'make check      lint and test'
	@echo 'make matrix     the tests on each Python that this machine has, with supervisor 4.2.5 and 4.3.0;'
	@echo '                PAIRS="3.9/4.2.5 3.13" for some, ARGS as for the tests'
	@echo 'make two-steps  from apt to the first rollout, in a clean chroot; ARGS="--chroot DIR" for a copy of one'
	@echo 'make deb        the Debian package, in dist/'
	@echo 'make deb-check  the package installed, upgraded and removed under load, in a clean chroot;'
	@echo '                ARGS="--suite trixie", ARGS="--chroot DIR"'
	@echo 'make soak       the long tests, for hours: those of pytest, and the four below'
	@echo 'make faults     a hundred rollouts, the listener or the client killed in each; ARGS="--rollouts 20"'
	@echo 'make pools      servers restarted behind a keepalive pool of nginx; ARGS="tornado --restarts 20"'
	@echo 'make middleware the same with servers that answer Connection: close; ARGS="--restarts 8"'
	@echo 'make endurance  a thousand rollouts: does anything grow? ARGS="--rollouts 100"'
	@echo 'make bench      rolling_restart and other ways to restart, compared under load, in 45 minutes;'
	@echo '                ARGS="--sizes 8 --ways steady,uwsgi,ours-iptables" for some'
	@echo 'make clean      removes virtual environments and caches'

demo: .venv/has-demo
	$(COMPILE)
	@$(AS_ROOT) $(PYTHON) -m tests.support.demo

test: .venv/has-demo,test
	$(COMPILE)
	@needed=$$($(AS_ROOT) $(PYTHON) -m tests.support.needs $(ARGS)); \
	test -z "$$needed" || $(MAKE) --no-print-directory $$needed
	$(AS_ROOT) $(PYTHON) -m pytest $(ARGS)

two-steps: .venv/has-demo,test
	@sh tests/support/install.sh debootstrap
	$(AS_ROOT) $(PYTHON) -m tests.support.two_steps $(ARGS)

deb: .venv/has-demo
	sh conf/debian/build.sh $(PYTHON)

deb-check: .venv/has-demo,test
	@sh tests/support/install.sh debootstrap
	$(AS_ROOT) $(PYTHON) -m tests.support.deb $(ARGS)

soak: .venv/has-demo,test $(NEEDS)
	$(AS_ROOT) $(PYTHON) -m pytest -m soak
	$(MAKE) faults pools middleware endurance

matrix: packages $(NEEDS)
	@$(PYTHON3) -m tests.support.matrix --pairs '$(PAIRS)' --prefix '$(AS_ROOT)' -- $(ARGS)

lint: .venv/has-demo,test,lint site
	$(PYTHON) -m ruff check .
	$(PYTHON) -m ruff format --check .
	$(PYTHON) -m mypy supervisor_rolling tests docs/_ext/from_code
	$(PYTHON) -m mypy --strict $(STRICT)

docs: site
	$(SPHINX) -b man -c docs -d build/docs/man docs/man conf/man

# Without the man pages, which are committed: a test finds that they are out of date.
site: .venv/has-docs
	$(PYTHON) -m sphinxlint $(PROSE)
	$(SPHINX) docs build/docs/html

check: lint test

faults: .venv/has-demo,test
	$(AS_ROOT) $(PYTHON) -m tests.soak.kills --victim listener $(ARGS)
	$(AS_ROOT) $(PYTHON) -m tests.soak.kills --victim client $(ARGS)

pools: .venv/has-demo,test,pools
	$(AS_ROOT) $(PYTHON) -m tests.soak.pools $(ARGS)

middleware: .venv/has-demo,test
	$(AS_ROOT) $(PYTHON) -m tests.soak.middleware $(ARGS)

endurance: .venv/has-demo,test
	$(AS_ROOT) $(PYTHON) -m tests.soak.endurance $(ARGS)

bench: .venv/has-demo,bench
	$(AS_ROOT) $(PYTHON) -m tests.benchmarks.rollouts $(ARGS)

clean:
	$(SUDO) rm -rf .venv .venv-matrix build *.egg-info .hypothesis .mypy_cache .pytest_cache .ruff_cache
	find . -name __pycache__ -prune -exec rm -rf {} +

# .venv/has-demo,test is an empty file: the extras demo and test of pyproject.toml are installed.
.venv/has-%: pyproject.toml | packages
	@echo 'Installing the Python packages ($*) into .venv'
	@test -x $(PYTHON) || $(PYTHON3) -m venv .venv
	@$(PYTHON) -m pip --quiet --disable-pip-version-check install --use-pep517 --editable '.[$*]' || { \
	echo 'pip failed. It needs its package index and, for python-iptables, gcc and the headers of Python.' >&2; exit 1; }
	@touch '$@'

needs-balancers:
	@sh tests/support/install.sh caddy apache2 varnish

needs-browser:
	@sh tests/support/install.sh chromium chromium-driver

needs-shells:
	@sh tests/support/install.sh zsh

needs-uwsgi:
	@sh tests/support/install.sh uwsgi-core uwsgi-plugin-python3

needs-node: $(NODE_CLIENT)
	@:

$(NODE_CLIENT):
	@command -v npm >/dev/null || sh tests/support/install.sh nodejs npm
	@npm install --loglevel=error --no-audit --no-fund --no-save --prefix .venv/node xmlrpc@1.3.2 >/dev/null || { \
	echo 'npm failed: see above. It needs its registry.' >&2; exit 1; }

packages:
	@sh tests/support/install.sh $(PACKAGES)
