"""Contract kits for plugin authors, and a clock that only moves when told."""
