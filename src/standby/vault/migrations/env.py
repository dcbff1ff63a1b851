"""Run by alembic, within the transaction of `Database.migrate`."""

from __future__ import annotations

from alembic import context

from standby.vault.schema import Base

context.configure(
    connection=context.config.attributes["connection"],
    target_metadata=Base.metadata,
    # SQLite alters tables by making them anew.
    render_as_batch=True,
)
with context.begin_transaction():
    context.run_migrations()
