"""`python -m matryo`."""

import sys

from matryo.cli import main

sys.exit(main())
