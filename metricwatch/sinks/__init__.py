"""Built-in sinks, reached through entry points only."""
