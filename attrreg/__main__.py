"""Run the command line with ``python -m attrreg``."""

from attrreg.cli import main

main()
