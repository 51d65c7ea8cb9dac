"""Support for tests and measurements: real databases, and applications of one module or of all.

`pytest_plugins = ["kernel.testing"]` in a project's tests/conftest.py loads the fixtures: see docs/testing.md.
"""

from kernel.testing.booting import Booted, booted, project_for, settings_for
from kernel.testing.callers import Callers
from kernel.testing.fakes import Fake, FakeMethod, FakeMisused, Fakes
from kernel.testing.postgresql import create_database, pgserver, postgresql_server, query

__all__ = [
    "Booted",
    "Callers",
    "Fake",
    "FakeMethod",
    "FakeMisused",
    "Fakes",
    "booted",
    "create_database",
    "pgserver",
    "postgresql_server",
    "project_for",
    "query",
    "settings_for",
]

# In a module of its own, so that a benchmark can use a database without pytest.
pytest_plugins = ["kernel.testing.plugin"]
