"""Speed, measured as ratios side by side in one run. `make bench-NAME` runs `benchmarks/NAME.py`."""
