"""The model that tests of defenses tune a little is used here, too."""

from tests.defenses.conftest import tuned

__all__ = ["tuned"]
