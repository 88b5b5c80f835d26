"""Runs: the one place that writes their state. Every transition is a conditional UPDATE of exactly one row.

`create` T1 · `lease` T2, T3 · `finish` T4 to T9 · `dispatch` T10 · `division` a run's trials as runs of their own ·
`journal` events and epochs · `garbage` blobs · `read` everything that only looks · `workers` the rows of live workers.
"""
