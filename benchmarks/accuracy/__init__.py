"""Accuracy of the default network beside linear models and boosted trees, on tables that it was and was not chosen by."""
