"""The pages of docs/recipes, each run as it is: its program section, its code, its rolling.yaml; a rollout under load.

The applications behind the servers are those of tests/support/recipes.
"""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.support import plugin
from tests.support.look import assert_no_failures, pids, rules, users, wait_open, wait_running
from tests.support.pages import example
from tests.support.stack import GROUP, ROOT, Setup, Stack

APPLICATIONS = ROOT / "tests" / "support" / "recipes"

SERVED = "/srv/app"
"""Where the pages have the application and its virtual environment; a test has another directory."""

Files = dict[str, str]
"""By name, in that directory."""

POOL = {"upstream": "keepalive 32;", "server": 'proxy_http_version 1.1; proxy_set_header Connection "";'}
HTTPS = {"server": "proxy_set_header Host example.org; proxy_set_header X-Forwarded-Proto https;"}


def wsgi() -> Files:
    return {"app.py": "from tests.support.recipes.wsgi import application\n"}


def wrapped_wsgi() -> Files:
    return {"app.py": wsgi()["app.py"] + example("recipes/gunicorn.rst", "python", "CloseWhileDraining")}


def wrapped_asgi(page: str) -> Files:
    lines = example(f"recipes/{page}.rst", "python", "CloseWhileDraining")
    return {"app.py": "from tests.support.recipes.asgi import application\n" + lines}


def django() -> Files:
    settings = f"""\
SECRET_KEY = "a test has no secrets"
ROOT_URLCONF = "tests.support.recipes.django_site"
MIDDLEWARE = [
    "tests.support.recipes.django_site.health",
    "django.middleware.security.SecurityMiddleware",
    "django.middleware.common.CommonMiddleware",
]
{example("recipes/django.rst", "python", "ALLOWED_HOSTS")}"""
    wsgi = """\
import os
from django.core.wsgi import get_wsgi_application
os.environ["DJANGO_SETTINGS_MODULE"] = "mysite.settings"
application = get_wsgi_application()
"""
    return {"mysite/settings.py": settings, "mysite/wsgi.py": wsgi}


def node() -> Files:
    server = example("recipes/node.rst", "javascript", "createServer")
    return {"server.js": server, "app.js": (APPLICATIONS / "app.js").read_text(encoding="utf-8")}


def program(page: str) -> str:
    """Its program section, without the user: the virtual environment of the tests may be in a folder that no other user
    may enter."""
    lines = example(f"recipes/{page}.rst", "ini", f"[program:{GROUP}]").splitlines()
    return "\n".join(line for line in lines if not line.startswith("user = ")).replace(SERVED, "%(here)s/app")


def policy(page: str) -> str:
    """Its rolling.yaml, with what is found on a host without being named: the configuration of nginx, and a history."""
    found: dict[str, Any] = yaml.safe_load(example(f"recipes/{page}.rst", "yaml", "groups:"))
    found["groups"][GROUP]["balancer"] = {"nginx": "%(here)s/nginx.conf"}
    return yaml.safe_dump({**found, "history": False})


@contextlib.contextmanager
def running(directory: Path, page: str, files: Files, nginx: dict[str, str]) -> Iterator[Stack]:
    """The processes of a page, warm and open, behind nginx with these fields of ``Setup``."""
    served = directory / "app"
    for name in files:
        (served / name).parent.mkdir(parents=True, exist_ok=True)
    (served / "venv").symlink_to(sys.prefix)
    setup = Setup(
        processes=4,
        section=program(page),
        supervisor=plugin.sections(directory / "rolling.yaml"),
        files={"rolling.yaml": policy(page), **{f"app/{name}": text for name, text in files.items()}},
        balance="",
        **nginx,  # type: ignore[arg-type]
    )
    with Stack(directory, setup) as stack:
        wait_open(stack)
        wait_running(stack)
        yield stack
    assert rules() == [], "rules were left behind"


@pytest.mark.parametrize(
    ("page", "files", "nginx"),
    [
        ("gunicorn", wrapped_wsgi, {}),
        ("uvicorn", lambda: wrapped_asgi("uvicorn"), POOL),
        ("daphne", lambda: wrapped_asgi("daphne"), POOL),
        pytest.param("uwsgi", wsgi, {}, marks=pytest.mark.needs("uwsgi")),
        ("django", django, HTTPS),
        pytest.param("node", node, POOL, marks=pytest.mark.needs("node")),
    ],
    ids=lambda given: given if isinstance(given, str) else "",
)
def test_recipe_replaces_all_without_failure(
    tmp_path: Path, page: str, files: Callable[[], Files], nginx: dict[str, str]
) -> None:
    with running(tmp_path, page, files(), nginx) as stack:
        checked: Any = stack.rpc(timeout=30.0).rolling.check(GROUP)
        before = pids(stack)
        with users(stack, rate=30, around=0.3) as load:
            done = stack.ctl("rolling_restart", GROUP, "--max-unavailable", "3")  # the canary, and then the rest
        assert done.returncode == 0, done.stdout
        assert checked["findings"] == []
        assert_no_failures(load.report())
        assert not set(before) & set(pids(stack))
