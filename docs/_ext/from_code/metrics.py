"""The metrics, from the table in ``listener/prometheus.py``."""

from __future__ import annotations

from from_code.rst import definitions
from supervisor_rolling.listener.prometheus import METRICS, PREFIX, Metric


def reference() -> str:
    """Each metric."""
    return definitions({f"``{_full_name(one)}`` ({one.kind.lower()}, by {_labels(one)})": one.text for one in METRICS})


def _full_name(metric: Metric) -> str:
    return f"{PREFIX}_{metric.name}{'_total' if metric.kind == 'Counter' else ''}"


def _labels(metric: Metric) -> str:
    return " and ".join(f"``{label}``" for label in ("group", *metric.labels))
