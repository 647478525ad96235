"""Pure rules over series of scores, and the alert states that follow."""
