"""Built-in metrics, reached through entry points only."""
