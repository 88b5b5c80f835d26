"""Decisions: a label from probabilities. `apply` decides rows, `choose` finds thresholds on held-out rows."""
