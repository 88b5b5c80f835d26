"""Decisions: how a label is chosen from probabilities.

`apply` decides rows, `abstain` gives the reasons for rows without a label, `choose` tunes thresholds on held-out rows.
"""
