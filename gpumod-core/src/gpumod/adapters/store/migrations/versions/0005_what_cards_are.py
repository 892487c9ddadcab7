"""What kind of card each GPU is."""

import sqlalchemy as sa
from alembic import op

revision: str = "0005"
down_revision: str | None = "0004"
branch_labels: str | None = None
depends_on: str | None = None


def upgrade() -> None:
    for name in ("architecture", "compute_capability"):
        op.add_column("gpu_profiles", sa.Column(name, sa.String(), nullable=True))


def downgrade() -> None:
    op.drop_column("gpu_profiles", "compute_capability")
    op.drop_column("gpu_profiles", "architecture")
