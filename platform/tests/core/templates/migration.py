import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None
branch_labels = depends_on = None


def upgrade() -> None:
    name = sa.Column("name", sa.String, nullable=False, unique=True)
    op.create_table("things", sa.Column("id", sa.Integer, primary_key=True), name)


def downgrade() -> None:
    op.drop_table("things")
