"""The tests of the extension relations, with the bounded pool and the driver's sessions (conftest.py)."""

import pytest

pytest.importorskip("kernel.ext.relations.extension")

from tests.relations.test_relations import *  # noqa: F403  # once there are relations
