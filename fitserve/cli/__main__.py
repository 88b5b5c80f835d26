"""`python -m fitserve.cli`."""

from fitserve.cli import app

if __name__ == "__main__":
    app(prog_name="fitserve")
