"""Leases jobs to worker processes and records what they answer."""
