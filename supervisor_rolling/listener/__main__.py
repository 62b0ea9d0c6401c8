"""``python -m supervisor_rolling.listener`` runs the event listener."""

from supervisor_rolling.listener.main import main

if __name__ == "__main__":
    main()
