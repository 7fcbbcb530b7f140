"""`python -m sdc` is the command `sdc`."""

from sdc.cli import main

main()
