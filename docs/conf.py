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

html_theme = "furo"
html_title = "supervisor_rolling"
html_copy_source = False
html_show_sphinx = False
html_show_copyright = False
