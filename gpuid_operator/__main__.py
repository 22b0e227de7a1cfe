"""`python -m gpuid_operator`."""

from gpuid_operator.cli.main import main

main()
