"""The variants of an end-to-end test: some in each run, the others with the long tests."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import pytest


def first(count: int, values: Iterable[Any]) -> list[Any]:
    """The values for ``parametrize``, those after the first ``count`` marked ``soak``. A tuple is one value for each
    argument."""
    every = list(values)
    soak = (one if isinstance(one, tuple) else (one,) for one in every[count:])
    return [*every[:count], *(pytest.param(*one, marks=pytest.mark.soak) for one in soak)]
