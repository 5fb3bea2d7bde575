"""`python -m attcat` is `attcat`."""

from .cli import main

main()
