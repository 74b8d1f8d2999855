"""What to do without a program that a test needs."""

import os
from typing import NoReturn

import pytest


def absent(what: str) -> NoReturn:
    """Skips the test, and says so. In CI everything is to be had, so that there the test fails."""
    give_up = pytest.fail if os.environ.get("CI") == "true" else pytest.skip
    give_up(f"{what} is not to be had here")
