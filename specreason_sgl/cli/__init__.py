"""The command line: a file for each command. Nothing slow is imported before a command needs it."""

from specreason_sgl.cli.program import app, main

__all__ = ["app", "main"]
