"""Rollouts: a version becomes the champion step by step, watched by guards that take it back; and A/B comparisons.

`lifecycle` moves a rollout from its start to its end, `guards` decide from what `evidence` has counted, and
`always_valid` holds the tests, which may be looked at as often as one likes.
"""
