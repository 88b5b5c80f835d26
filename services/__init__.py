"""The web processes: `control` (the API), `predict` (the data plane), `up` (everything on one machine)."""
