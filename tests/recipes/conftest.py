"""What the recipes share with the tests of the engine."""

from engine.conftest import prefer as prefer
