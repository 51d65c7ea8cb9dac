"""The name that identifies this database in the object storage."""

import sqlalchemy as sa
from alembic import op

revision = "0005"
down_revision = "0004"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "storage_identity",
        sa.Column("id", sa.Integer(), autoincrement=False, nullable=False),
        sa.Column("value", sa.String(length=32), nullable=False),
        sa.CheckConstraint("id = 1", name=op.f("ck_storage_identity_one_row")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_storage_identity")),
    )


def downgrade() -> None:
    op.drop_table("storage_identity")
