"""Built-in samplers, reached through entry points only."""
