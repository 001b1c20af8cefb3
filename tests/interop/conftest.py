"""The miniature hub lies with the tests of data."""

import sys
from pathlib import Path

sys.path.append(str(Path(__file__).parents[1] / "data"))
