"""Has the figures of evaluations drawn, and hands them to the outbox as pictures."""
