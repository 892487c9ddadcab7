"""Events that told of an edited service held its options as they are, secrets too: they are hidden."""

import json
from typing import Any

import sqlalchemy as sa
from alembic import op

from gpumod.domain.secrets import hidden

revision: str = "0003"
down_revision: str | None = "0002"
branch_labels: str | None = None
depends_on: str | None = None

_TOLD = sa.text("SELECT seq, data FROM events WHERE kind = 'service-edited' AND data LIKE '%\"unit_vars\"%'")
_TELL = sa.text("UPDATE events SET data = :data WHERE seq = :seq")


def upgrade() -> None:
    connection = op.get_bind()
    for seq, text in connection.execute(_TOLD).fetchall():
        try:
            data = json.loads(text)
            data["unit_vars"] = {side: hidden(value) for side, value in data["unit_vars"].items()}
        except (AttributeError, KeyError, RecursionError, TypeError, ValueError):
            continue  # edited by hand: it is no event, and is not shown
        _tell(connection, seq, data)


def _tell(connection: sa.Connection, seq: int, data: Any) -> None:
    connection.execute(_TELL, {"seq": seq, "data": json.dumps(data)})


def downgrade() -> None:
    """What is hidden stays so."""
