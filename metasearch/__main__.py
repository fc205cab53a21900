"""``python -m metasearch`` is the command ``metasearch``."""

import sys

from metasearch.cli import main

if __name__ == "__main__":
    sys.exit(main())
