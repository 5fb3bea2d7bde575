"""The program: `attcat`, and `python -m attcat`.

Importing takes a second or two, and Ctrl-C in the middle of an import is a traceback of other people's code. So the system's own
way to end a program is in force until a command is about to run, which then cleans up after itself.
"""

import signal
import threading


def main() -> None:
    """Entry point of the `attcat` command."""
    # A shell that runs this in the background lets it ignore Ctrl-C: that stands.
    if (
        threading.current_thread() is threading.main_thread()
        and signal.getsignal(signal.SIGINT) is signal.default_int_handler
    ):
        signal.signal(signal.SIGINT, signal.SIG_DFL)
    from .cli import main as run

    run()


if __name__ == "__main__":
    main()
