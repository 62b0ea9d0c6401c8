"""A site: what its urls.py and its first middleware are."""

# mypy: disable-error-code="import-untyped"

from __future__ import annotations

import time
from collections.abc import Callable

from django.http import HttpRequest, HttpResponse
from django.urls import re_path

from tests.support.recipes import BODY, SLOW_SECONDS, Process

process = Process()


def page(request: HttpRequest) -> HttpResponse:
    if process.is_slow(request.method or "", request.path):
        time.sleep(SLOW_SECONDS)
    return HttpResponse(BODY, headers=dict(process.headers(request.path)))


def health(get_response: Callable[[HttpRequest], HttpResponse]) -> Callable[[HttpRequest], HttpResponse]:
    """The middleware that answers ``/health`` whatever host is asked for: the stack asks for 127.0.0.1."""
    return lambda request: page(request) if request.path == "/health" else get_response(request)


urlpatterns = [re_path("", page)]
