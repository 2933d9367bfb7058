"""Repair, replay and retract: who decided what, and the text that came back.

Revision 0003.
"""

from __future__ import annotations

from typing import Any

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None

MOMENT = sa.TIMESTAMP(timezone=True)
PARENT_BEFORE = (
    "The file whose quarantined rows this one brings back, repaired; null: it is a file of its own."
)
PARENT = (
    "The file whose quarantined rows this one brings back, repaired, or the refused file that it "
    "replaces; null: it is a file of its own."
)
ROWS_BEFORE = "Every row that was not loaded because it broke a rule, verbatim, with the reasons."
ROWS = f"{ROWS_BEFORE} A file's rows_quarantined are its rows here: open + repaired + discarded."


def optional(name: str, kind: sa.types.TypeEngine[Any], comment: str) -> sa.Column[Any]:
    return sa.Column(name, kind, nullable=True, comment=comment)


def upgrade() -> None:
    for column in (
        optional(
            "header",
            sa.Text(),
            "The header line as it stood in the file: what its quarantined rows are read by when "
            "they are judged again; null: none was recognised.",
        ),
        optional(
            "decided_at",
            MOMENT,
            "When somebody retracted the file, or discarded it or replaced it by a repaired one "
            "after it was refused, UTC; null: nobody did.",
        ),
        optional("decided_by", sa.Text(), "Who that was: the name of the user; null: nobody."),
        optional("note", sa.Text(), "What that person noted down; null: nothing."),
    ):
        op.add_column("source_file", column, schema="air")
    op.alter_column("source_file", "parent_file_id", comment=PARENT, schema="air")
    op.drop_index("source_file_sha256_once", table_name="source_file", schema="air")
    once("state <> 'retracted' AND decided_at IS NULL")
    op.create_index(
        op.f("source_file_parent_file_id_idx"),
        "source_file",
        ["parent_file_id"],
        schema="air",
        postgresql_where=sa.text("parent_file_id IS NOT NULL"),
    )

    for column in (
        optional(
            "replay_line",
            sa.Text(),
            "The line as somebody repaired it, and as it came back; kept when its replay is "
            "retracted. null: it never came back, or came back as it stood.",
        ),
        optional("decided_at", MOMENT, "When it was repaired or discarded, UTC; null: it is open."),
        optional(
            "decided_by",
            sa.Text(),
            "Who repaired or discarded it: the name of the user; null: it is open.",
        ),
        optional(
            "note", sa.Text(), "Why it was discarded, in that person's words; null: it was not."
        ),
    ):
        op.add_column("quarantined_row", column, schema="air")
    # Nobody could decide anything before; what was set by hand anyway is kept, and dated.
    op.execute(
        "UPDATE air.quarantined_row SET decided_at = now(), decided_by = current_user"
        " WHERE state <> 'open'"
    )
    op.execute(
        "UPDATE air.quarantined_row SET state = 'discarded'"
        " WHERE state = 'repaired' AND replay_file_id IS NULL"
    )
    op.execute(
        "UPDATE air.quarantined_row SET replay_file_id = NULL"
        " WHERE state <> 'repaired' AND replay_file_id IS NOT NULL"
    )
    op.create_check_constraint(
        op.f("quarantined_row_decided"),
        "quarantined_row",
        "(state = 'open') = (decided_at IS NULL)",
        schema="air",
    )
    op.create_check_constraint(
        op.f("quarantined_row_replayed"),
        "quarantined_row",
        "(state = 'repaired') = (replay_file_id IS NOT NULL)",
        schema="air",
    )
    op.create_table_comment("quarantined_row", ROWS, existing_comment=ROWS_BEFORE, schema="air")
    op.create_index(
        "quarantined_row_open",
        "quarantined_row",
        ["file_id"],
        schema="air",
        postgresql_where=sa.text("state = 'open'"),
    )
    op.create_index(
        op.f("quarantined_row_replay_file_id_idx"),
        "quarantined_row",
        ["replay_file_id"],
        schema="air",
        postgresql_where=sa.text("replay_file_id IS NOT NULL"),
    )


def once(where: str) -> None:
    op.create_index(
        "source_file_sha256_once",
        "source_file",
        ["sha256"],
        unique=True,
        schema="air",
        postgresql_where=sa.text(where),
    )


def downgrade() -> None:
    for name in ("quarantined_row_replay_file_id_idx", "quarantined_row_open"):
        op.drop_index(name, table_name="quarantined_row", schema="air")
    op.create_table_comment("quarantined_row", ROWS_BEFORE, existing_comment=ROWS, schema="air")
    for name in ("quarantined_row_replayed", "quarantined_row_decided"):
        op.drop_constraint(op.f(name), "quarantined_row", schema="air")
    for name in ("note", "decided_by", "decided_at", "replay_line"):
        op.drop_column("quarantined_row", name, schema="air")
    op.drop_index(op.f("source_file_parent_file_id_idx"), table_name="source_file", schema="air")
    op.drop_index("source_file_sha256_once", table_name="source_file", schema="air")
    # A settled refusal whose bytes came again gives way, as every refusal did before; what hung
    # on it becomes a file of its own.
    op.execute(
        "UPDATE air.source_file SET parent_file_id = NULL WHERE parent_file_id IN"
        " (SELECT file_id FROM air.source_file WHERE state = 'refused' AND decided_at IS NOT NULL)"
    )
    op.execute(
        "DELETE FROM air.source_file AS old USING air.source_file AS young"
        " WHERE old.sha256 = young.sha256 AND old.state = 'refused' AND young.state <> 'retracted'"
        " AND old.file_id < young.file_id"
    )
    once("state <> 'retracted'")
    op.alter_column("source_file", "parent_file_id", comment=PARENT_BEFORE, schema="air")
    for name in ("note", "decided_by", "decided_at", "header"):
        op.drop_column("source_file", name, schema="air")
