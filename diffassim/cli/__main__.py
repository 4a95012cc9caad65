"""`python -m diffassim.cli`."""

from diffassim.cli import main

main()
