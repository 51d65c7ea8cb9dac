"""What tests of the kernel share."""

import logging
from collections.abc import Iterator
from typing import Any

import pytest
import structlog


@pytest.fixture
def own_logging() -> Iterator[None]:
    """The test may configure logging: afterwards it is as it was."""
    before: dict[str, Any] = structlog.get_config()
    root = logging.getLogger()
    handlers, level = list(root.handlers), root.level
    yield
    root.handlers[:] = handlers
    root.setLevel(level)
    structlog.configure(**before)
