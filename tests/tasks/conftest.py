"""Makers of small picture data sets are found beside the tests."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))
