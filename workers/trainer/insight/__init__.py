"""What a run teaches: layers looked at while they train, and the trained network questioned afterwards.

`recording` norms, saturation, dead units and histograms of each layer between two epochs ·
`evaluation` scikit-learn's figures on rows that nobody trained on · `references` what simpler models reach on the
same split · `importance` permuted columns · `hardest` rows that stay wrong · `study` all of it, within a budget.
"""
