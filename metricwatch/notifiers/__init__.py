"""Built-in notifiers, reached through entry points only."""
