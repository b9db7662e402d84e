"""`python -m streamlog`: the same as the command `streamlog`."""

from __future__ import annotations

import sys

from .cli import main

if __name__ == "__main__":
    sys.exit(main())
