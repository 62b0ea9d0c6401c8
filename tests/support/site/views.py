"""The Django side: settings, urls, views, and the headers that every answer carries.

``/health`` is cheap and renders nothing: a process that answers it has booted, but is not warm. Pages are rendered one
at a time; ``POST /slow``, which only waits, delays no other request.
"""

# mypy: disable-error-code="import-untyped"

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Iterable
from typing import Any

import django
from django.conf import settings
from django.core.wsgi import get_wsgi_application
from django.http import HttpRequest, HttpResponse
from django.shortcuts import render
from django.urls import path
from django.views.decorators.http import require_POST
from jinja2 import DictLoader

from tests.support.site import PATHS
from tests.support.site.deploy import Deploy
from tests.support.site.templates import names_of_parts, sources

SLOW_SECONDS = 1.5
"""How long a POST takes: the post's longest requests, the ones that a restart must not cut off."""

HANG_SECONDS = 3600.0

ITEMS = [
    {"id": number, "name": f"pin_{number}", "price": 7 * number % 23, "hidden": number % 5 == 0} for number in range(6)
]

_one_page_at_a_time = threading.Lock()
"""As in the post, where a process is one thread. Without it, all who meet a cold process compile the same templates
beside each other, each the slower for it, and two such processes take a machine of two cores down."""

_rendered: set[str] = set()
"""The parts that this process has rendered, and so compiled."""

_deploy = Deploy(release="none")


def make_application(deploy: Deploy) -> Callable[..., Iterable[bytes]]:
    """The WSGI application of one deploy; once per process."""
    global _deploy
    _deploy = deploy
    settings.configure(
        SECRET_KEY="a demo has no secrets",
        ALLOWED_HOSTS=["*"],
        ROOT_URLCONF=__name__,
        MIDDLEWARE=[f"{__name__}.tell"],
        TEMPLATES=[{"BACKEND": "django.template.backends.jinja2.Jinja2", "OPTIONS": {"loader": DictLoader(sources())}}],
        USE_I18N=False,
    )
    django.setup()
    application: Callable[[dict[str, Any], Callable[..., Any]], Iterable[bytes]] = get_wsgi_application()
    return application


def tell(get_response: Callable[[HttpRequest], HttpResponse]) -> Callable[[HttpRequest], HttpResponse]:
    """The middleware that adds which process answered."""

    def answer(request: HttpRequest) -> HttpResponse:
        response = get_response(request)
        response["X-Pid"] = str(os.getpid())
        response["X-Release"] = _deploy.release
        response.setdefault("X-Cold", "0")
        return response

    return answer


def home(request: HttpRequest) -> HttpResponse:
    return _page(request, names_of_parts())


def page(request: HttpRequest, number: int) -> HttpResponse:
    return _page(request, names_of_parts()[number - 1 : number])


def health(request: HttpRequest) -> HttpResponse:
    return _broken(request) or HttpResponse("booted\n", content_type="text/plain")


@require_POST
def slow(_request: HttpRequest) -> HttpResponse:
    time.sleep(SLOW_SECONDS)
    return HttpResponse("done\n", content_type="text/plain")


def _page(request: HttpRequest, parts: list[str]) -> HttpResponse:
    """Cold is a request that came before this process had rendered all that the page is made of: it has to compile
    templates, or to wait for one that does."""
    broken = _broken(request)
    if broken:
        return broken
    if not parts:
        return HttpResponse("no such page\n", status=404)
    cold = not _rendered.issuperset(parts)
    with _one_page_at_a_time:
        context = {"title": request.path, "paths": PATHS, "parts": parts, "items": ITEMS}
        response = render(request, "page.html", context, content_type="text/html")
        _rendered.update(parts)
    response["X-Cold"] = "1" if cold else "0"
    return response


def _broken(request: HttpRequest) -> HttpResponse | None:
    """What a bad deploy answers, if it is one that strikes here."""
    if _deploy.strikes("hang", request.path):
        time.sleep(HANG_SECONDS)
    return HttpResponse("this release is broken\n", status=500) if _deploy.strikes("500", request.path) else None


urlpatterns = [path("", home), path("page/<int:number>", page), path("health", health), path("slow", slow)]
