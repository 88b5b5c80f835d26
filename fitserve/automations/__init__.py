"""Models that look after themselves: when to train again, on what, and what to do with the result."""
