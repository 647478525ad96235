"""From alert states to messages that arrive once."""
