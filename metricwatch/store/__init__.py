"""The ledger: one SQLite file, ordered migrations, one writer a table."""
