"""A first migration that creates the tables of the module's models."""

from importlib import import_module
from pathlib import Path

from alembic import op

revision = "0001"
down_revision = branch_labels = depends_on = None

metadata = import_module(f"modules.{Path(__file__).parent.name}.models").Base.metadata


def upgrade() -> None:
    metadata.create_all(op.get_bind())


def downgrade() -> None:
    metadata.drop_all(op.get_bind())
