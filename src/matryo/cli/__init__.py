"""The command line: one file per verb, which reads the options, calls a job and prints.

Hides how errors are shown, which exit code they get (1, or 2 for wrong usage), and how progress
keeps out of what a machine reads.
"""

from matryo.cli.app import main

__all__ = ["main"]
