"""Makes the fake Hub of tests/data importable."""

import sys
from pathlib import Path

sys.path.append(str(Path(__file__).parents[1] / "data"))
