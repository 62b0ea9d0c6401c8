"""Templates that are slow to compile and quick to render.

They are generated: ten parts, each with a library of macros of its own, of which a page calls a few. The work is
Jinja2's own (lexing, parsing, generating Python, compiling that), nothing sleeps.
"""

from __future__ import annotations

from tests.support.site import PARTS

MACROS = 8
"""Macros in a part's library: set so that ``/`` takes a cold process about 0.7 s on two cores of 2024."""

CALLED = 1
"""Macros of its library that a part calls."""

PAGE = """<!doctype html>
<html><head><title>{{ title }}</title></head><body>
<nav>{% for path in paths %}<a href="{{ path }}">{{ path }}</a>{% if not loop.last %} · {% endif %}{% endfor %}</nav>
{% for part in parts %}{% include part %}{% endfor %}
</body></html>
"""

MACRO = """
{% macro board_NUMBER(title, items, columns=3, footer=none) %}
<section class="board {{ 'wide' if columns > 3 else 'narrow' }}">
<h2>{{ title|title }} <small>{{ items|length }}</small></h2>
{% for row in items|batch(columns) %}
  <ul class="{{ loop.cycle('odd', 'even') }}">
  {% for item in row %}
    {% set price = item.price * NUMBER / 100 %}
    {% if item.price > NUMBER and not item.hidden %}
      <li class="dear" id="pin-{{ item.id }}"><a href="/pin/{{ item.id }}">{{ item.name|upper|truncate(40) }}</a>
      {{ '%.2f'|format(price) }}</li>
    {% elif item.price == NUMBER or item.hidden is none %}
      <li class="same">{{ item.name|default('nobody', true)|replace('_', ' ') }}
      {% if loop.first %}, the first{% endif %}</li>
    {% else %}
      <li title="{{ item.name|lower }} of board NUMBER">{{ item.name }}: {{ price|round(2) }}
      {{ 'hidden' if item.hidden else 'shown' }}</li>
    {% endif %}
  {% else %}
    <li>nothing in row {{ loop.index }} of {{ title }}</li>
  {% endfor %}
  </ul>
{% endfor %}
{% if footer %}<footer>{{ footer|capitalize }} {{ caller() if caller else '' }}</footer>{% endif %}
</section>
{% endmacro %}
"""

PART = """{% import 'macros_NUMBER.html' as boards %}
<article><h1>Part NUMBER</h1>
CALLS
</article>
"""


def names_of_parts() -> list[str]:
    return [f"part_{number}.html" for number in range(1, PARTS + 1)]


def sources() -> dict[str, str]:
    """Every template, by its name."""
    found = {"page.html": PAGE}
    for part in range(1, PARTS + 1):
        found[f"macros_{part}.html"] = "".join(MACRO.replace("NUMBER", str(number)) for number in range(1, MACROS + 1))
        found[f"part_{part}.html"] = PART.replace("CALLS", _calls()).replace("NUMBER", str(part))
    return found


def _calls() -> str:
    return "\n".join(f"{{{{ boards.board_{number}('board NUMBER', items) }}}}" for number in range(1, CALLED + 1))
