"""The demo application: Django and Jinja2 in tornado's WSGI container, one process to a port, as in Pinterest's post.

``python -m tests.support.site --port 8000`` serves it. What makes it a good subject: its first answer costs the better
part of a second (the templates are compiled then), later ones milliseconds, and every answer tells which process gave
it (``X-Pid``), of which deploy (``X-Release``), and whether it met a cold process (``X-Cold``)."""

PARTS = 10
"""Parts that the pages are made of: ``/page/N`` shows one, ``/`` shows all, and so warms all."""

PATHS = ("/", *(f"/page/{number}" for number in range(1, PARTS + 1)))
"""Every page."""

RELEASE_FILE = "LAB_RELEASE_FILE"
"""The environment variable that names the file with the deployed release, a word."""

LIFE_FILE = "LAB_LIFE_FILE"
"""The environment variable that names the file in which processes tell that they serve, see life.py."""

FAULT_FILE = "LAB_FAULT_FILE"
"""The environment variable that names the file with the deployed fault, see deploy.py."""
