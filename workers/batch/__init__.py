"""Runs that need no trainer, beside the slots that train; first of all batch predictions."""
