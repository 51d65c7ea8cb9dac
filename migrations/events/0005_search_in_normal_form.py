"""Search in Unicode's normal form."""

from alembic import op

revision = "0005"
down_revision = "0004"
branch_labels = None
depends_on = None

_TEXT = "title || ' ' || description || ' ' || location"


def upgrade() -> None:
    if op.get_bind().dialect.name == "postgresql":
        op.execute("DROP INDEX ix_events_search")
        op.execute(f"CREATE INDEX ix_events_search ON events USING gin (to_tsvector('simple', normalize({_TEXT})))")


def downgrade() -> None:
    if op.get_bind().dialect.name == "postgresql":
        op.execute("DROP INDEX ix_events_search")
        op.execute(f"CREATE INDEX ix_events_search ON events USING gin (to_tsvector('simple', {_TEXT}))")
