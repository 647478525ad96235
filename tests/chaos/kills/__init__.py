"""A campaign of kills: the real daemon, killed wherever it hurts, must leave the history of one that was let be."""
