"""Sections of joined files; the mark of readings that are not complete; saturated PM2.5.

Revision 0006. Nothing that was stored before is changed: `sofia-air doctor` names the files whose
values may be wrong, and `sofia-air retract` takes them back.
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0006"
down_revision = "0005"
branch_labels = None
depends_on = None

_NO_PLACE = "Marks on the row, a sum of: 1 = the file gave no coordinates; "
_TYPICAL = "{bit} = {name} is accepted but outside its typical range"
_QUANTITIES = {
    "raw_particulate": ("pm10", "pm25", "pm1"),
    "raw_climate": ("temperature", "humidity", "pressure"),
}
_PARTIAL = "; 16384 = a reading that this sensor model has is empty"
_QUANTITY = """
CREATE OR REPLACE VIEW air.quantity AS
SELECT *
  FROM (VALUES
    ('pm10', 'Particulate matter up to 10 µm', 'µg/m³', 0.0, 1999.9, 0.0, 999.9, 150.0, 600.0, 100.0),
    ('pm25', 'Particulate matter up to 2.5 µm', 'µg/m³', 0.0, 1999.9, 0.0, {high}, 100.0, 400.0, 70.0),
    ('pm1', 'Particulate matter up to 1 µm', 'µg/m³', 0.0, 1999.9, 0.0, 999.9, 100.0, 400.0, 70.0),
    ('temperature', 'Air temperature', '°C', -50.0, 50.0, -30.0, 45.0, 3.0, 10.0, 2.0),
    ('humidity', 'Relative humidity', '%RH', 0.0, 100.0, 1.01, 99.89, 10.0, 30.0, 6.0),
    ('pressure', 'Air pressure at the sensor', 'hPa', 300.0, 1100.0, 300.0, 1100.0, 2.0, 10.0, 1.0)
  ) AS declared (
    quantity, title, unit, accept_low, accept_high, typical_low, typical_high,
    spike_suspect, spike_fail, rate_suspect)
"""  # noqa: E501
_END = ". 0: nothing to remark."


def marks(table: str) -> str:
    """Return the words that both comments on a table's flags begin with."""
    names = enumerate(_QUANTITIES[table], start=1)
    return _NO_PLACE + "; ".join(_TYPICAL.format(bit=1 << at, name=name) for at, name in names)


def upgrade() -> None:
    op.create_table(
        "source_section",
        sa.Column(
            "file_id",
            sa.Integer(),
            autoincrement=False,
            nullable=False,
            comment="The file; see source_file.",
        ),
        sa.Column(
            "first_line",
            sa.BigInteger(),
            autoincrement=False,
            nullable=False,
            comment="Number of the first line of the file that is read by this header.",
        ),
        sa.Column(
            "header",
            sa.Text(),
            nullable=False,
            comment="The header line as it stands in the file.",
        ),
        sa.ForeignKeyConstraint(
            ["file_id"],
            ["air.source_file.file_id"],
            name=op.f("source_section_file_id_fkey"),
            ondelete="CASCADE",
        ),
        sa.PrimaryKeyConstraint("file_id", "first_line", name=op.f("source_section_pkey")),
        schema="air",
        comment="Files that were joined of several with different headers: which header each line "
        "is read by. Lines before the first of these are read by source_file.header.",
    )
    for table in _QUANTITIES:
        op.alter_column(table, "flags", comment=f"{marks(table)}{_PARTIAL}{_END}", schema="air")
    op.execute(_QUANTITY.format(high=999.89))


def downgrade() -> None:
    op.execute(_QUANTITY.format(high=999.9))
    for table in _QUANTITIES:
        op.alter_column(table, "flags", comment=f"{marks(table)}{_END}", schema="air")
    op.drop_table("source_section", schema="air")
