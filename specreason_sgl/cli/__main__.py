"""`python -m specreason_sgl.cli`."""

from specreason_sgl.cli import main

main()
