"""Accuracy of the default network beside linear models and boosted trees, on development and confirm tables."""
