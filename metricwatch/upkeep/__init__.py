"""What keeps the ledger small, and a copy of it at hand."""
