import sys
from pathlib import Path

sys.path.append(str(Path(__file__).parents[1] / "pages"))

from evaluated_home import study

__all__ = ["study"]
