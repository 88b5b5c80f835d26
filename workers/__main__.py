"""`python -m workers`: a worker."""

from workers.app import main

if __name__ == "__main__":
    main()
