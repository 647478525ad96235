"""How often alert rules cry wolf, and how soon they see what happened, on synthetic curves of which the truth is known."""
