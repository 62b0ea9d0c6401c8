"""Sphinx's configuration of the documentation, and of the man pages in ``man/``, which are made apart: ``make docs``.

Nothing is fetched from the network, neither by the build nor by a reader's browser.
"""

import sys
from pathlib import Path

from supervisor_rolling import __version__

sys.path.insert(0, str(Path(__file__).parent / "_ext"))

project = "supervisor_rolling"
author = "the authors of supervisor_rolling"
version = release = __version__

extensions = ["from_code"]
exclude_patterns = ["man"]

highlight_language = "none"  # what programs print is no Python
html_theme = "furo"
html_title = "supervisor_rolling"
html_static_path = ["_static"]
html_css_files = ["site.css"]
html_use_index = False
html_copy_source = False
html_show_sphinx = False
html_show_copyright = False

# Made from the folder man/ alone, into conf/man: the package installs them from there.
today = "2026-12-01"  # the day of this version: a page changes with its text, not with the day on which it is made
man_pages = [
    ("supervisor_rolling.1", "supervisor_rolling", "rolling restarts for Supervisor", "", "1"),
    ("rolling.yaml.5", "rolling.yaml", "how supervisor_rolling restarts groups", "", "5"),
]
