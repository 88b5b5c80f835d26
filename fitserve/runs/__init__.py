"""Runs: the only place that writes their state. Every transition is a conditional UPDATE of exactly one row.

Transitions (`fitserve.states.TRANSITIONS`): `create` T1, T10 · `lease` T2, T3 · `finish` T4 to T9 · `trial_runs` a
run's trials as runs of their own · `gangs` workers that train one network together · `cleanup` removal of what a lost
run wrote outside. Records: `history` events and epochs · `scores` the figures of lists · `blob_references` blobs and
what refers to them · `worker_registry` the rows of live workers. Reading: `queries` one run · `listing` many ·
`remaining` how far a run is · `quotas` what an owner or a key may have. `change`: name, tags, sharing, deletion ·
`bulk` the same change to many.
"""
