"""Insight into a run: figures of its layers during training, and an analysis of the trained network.

`recording` records layers between two epochs, by a compiled pass (`probe`) · `evaluation` computes scikit-learn's
figures on held-out rows, with bootstrap `intervals` · `references` fits simpler models on the same rows ·
`column_importance` permutes columns · `hardest_rows` finds rows that stay wrong · `epoch_graphs` writes the network
after several epochs · `analysis` does all of it for a trained network, within a time budget.
"""
