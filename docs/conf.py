"""Sphinx's configuration of the documentation, and of the man pages in ``man/``, which are made apart: ``make docs``.

Nothing is fetched from the network, neither by the build nor by a reader's browser.
"""

from supervisor_rolling import __version__

project = "supervisor_rolling"
author = "the authors of supervisor_rolling"
version = release = __version__

exclude_patterns = ["man"]

html_theme = "furo"
html_title = "supervisor_rolling"
html_copy_source = False
html_show_sphinx = False
html_show_copyright = False
