"""`python -m workers.reaper`: expired leases (T6, T7, T9), undelivered runs (T10), gauges, garbage collection.

Every write is a compare-and-set, so none, one or several reapers differ only in how soon things happen.
"""
