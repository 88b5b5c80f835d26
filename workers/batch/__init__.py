"""Runs that need no trainer: batch predictions, imports, their parts, and cleanups."""
