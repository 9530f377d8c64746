"""Alembic's revisions of the database's schema; `Database.migrate` runs them inside our process."""
