"""Runs: the only place that writes their state. Every transition is a conditional UPDATE of exactly one row.

`create` T1, T10 · `lease` T2, T3 · `finish` T4 to T9 · `trial_runs` a run's trials as runs of their own ·
`history` events and epochs · `blob_references` blobs and what refers to them · `queries` everything that only reads ·
`quotas` what an owner or a key may have · `worker_registry` the rows of live workers.
"""
