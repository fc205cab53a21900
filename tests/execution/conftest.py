"""Makes the test programs importable, here and (as a user's modules are) in the workers."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))
