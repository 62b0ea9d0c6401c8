"""The directive ``from-code``: a part of a page that is made from the code, so that the two cannot differ.

``.. from-code:: configuration`` is what the function ``PARTS["configuration"]`` returns: reStructuredText. Its
sections are one level below the one that the directive stands in. Each part is in the module of its name.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from docutils import nodes
from pygments.lexers.special import TextLexer
from sphinx.application import Sphinx
from sphinx.util.docutils import SphinxDirective

from from_code import (
    commands,
    configuration,
    diagrams,
    event_types,
    json_views,
    metrics,
    troubleshooting,
    xmlrpc_methods,
)

PARTS: Mapping[str, Callable[[], str]] = {
    "commands": commands.reference,
    "program-options": commands.program_options,
    "exit-statuses": commands.exit_statuses,
    "configuration": configuration.reference,
    "json": json_views.reference,
    "xmlrpc": xmlrpc_methods.reference,
    "faults": xmlrpc_methods.faults,
    "events": event_types.reference,
    "metrics": metrics.reference,
    "troubleshooting": troubleshooting.entries,
    "rollout-stages": diagrams.rollout_stages,
    "guard-stages": diagrams.guard_stages,
}


class FromCode(SphinxDirective):
    """``.. from-code:: PART``."""

    required_arguments = 1

    def run(self) -> list[nodes.Node]:
        """The nodes of the part."""
        self.env.note_reread()  # the code may have changed, which Sphinx does not see
        if self.arguments[0] not in PARTS:
            raise self.error(f"from-code has no part {self.arguments[0]!r} (it has: {', '.join(PARTS)})")
        return self.parse_text_to_nodes(PARTS[self.arguments[0]](), allow_section_headings=True)


def without_double_gaps(app: Sphinx, error: Exception | None) -> None:
    """Remove the gap that docutils puts below a heading of a man page, which has one already: mandoc warns of it."""
    if app.builder.name == "man" and not error:
        for page in Path(app.outdir).iterdir():
            text = page.read_text(encoding="utf-8")
            page.write_text(re.sub(r"^(\.S[HS] .*\n)\.sp\n", r"\1", text, flags=re.MULTILINE), encoding="utf-8")


def setup(app: Sphinx) -> Mapping[str, Any]:
    """What Sphinx calls."""
    app.add_directive("from-code", FromCode)
    app.add_lexer("haproxy", TextLexer)  # Pygments has none
    app.connect("build-finished", without_double_gaps)
    return {"parallel_read_safe": True}
