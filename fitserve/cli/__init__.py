"""The `fitserve` command."""

from fitserve.cli.root import app

__all__ = ["app"]
