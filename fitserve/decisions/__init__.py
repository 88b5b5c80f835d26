"""Decisions: a label from probabilities.

`apply` decides rows, `abstain` says why one is given no label, `choose` finds thresholds on held-out rows.
"""
