"""Lets `python -m aegis_cli` run the command."""

from aegis_cli import main

main()
