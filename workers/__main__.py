"""`python -m workers`: a worker."""

from __future__ import annotations

from fitserve.process_start import hide_unused_modules, permanent_objects


def main() -> None:
    """Run until SIGTERM or SIGINT."""
    hide_unused_modules()
    with permanent_objects():
        from workers.worker import run
    run()


if __name__ == "__main__":
    main()
