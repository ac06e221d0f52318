"""Which release of agentsilo this is. ``pyproject.toml`` says the same."""

from typing import Final

RELEASE: Final = "0.2.0.dev0"
