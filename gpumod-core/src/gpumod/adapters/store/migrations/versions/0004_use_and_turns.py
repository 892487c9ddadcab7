"""Who uses services: turns with them, and when each was used last."""

import sqlalchemy as sa
from alembic import op

revision: str = "0004"
down_revision: str | None = "0003"
branch_labels: str | None = None
depends_on: str | None = None


def upgrade() -> None:
    op.create_table(
        "turns",
        sa.Column("number", sa.Integer(), nullable=False),
        sa.Column("id", sa.String(), nullable=False),
        sa.Column("service", sa.String(), nullable=False),
        sa.Column("holder", sa.String(), nullable=False),
        sa.Column("pid", sa.Integer(), nullable=False),
        sa.Column("identity", sa.String(), nullable=False),
        sa.Column("asked_at", sa.Float(), nullable=False),
        sa.Column("began_at", sa.Float(), nullable=True),
        sa.Column("before", sa.String(), nullable=True),
        sa.PrimaryKeyConstraint("number", name="pk_turns"),
        sa.UniqueConstraint("id", name="uq_turns_id"),
    )
    op.create_table(
        "uses",
        sa.Column("service", sa.String(), nullable=False),
        sa.Column("run", sa.String(), nullable=False),
        sa.Column("served", sa.Float(), nullable=True),
        sa.Column("used_at", sa.Float(), nullable=False),
        sa.Column("seen_at", sa.Float(), nullable=False),
        sa.PrimaryKeyConstraint("service", name="pk_uses"),
    )
    op.add_column("mode_services", sa.Column("idle_timeout", sa.Float(), nullable=True))


def downgrade() -> None:
    op.drop_column("mode_services", "idle_timeout")
    op.drop_table("uses")
    op.drop_table("turns")
