"""``python -m supervisor_rolling.listener`` runs the event listener."""

import sys

from supervisor_rolling.listener.main import main

if __name__ == "__main__":
    sys.exit(main())
