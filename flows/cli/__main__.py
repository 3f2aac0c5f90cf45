"""`python -m flows.cli`: the command `likeness`."""

from flows.cli import main

if __name__ == "__main__":  # worker processes import this file too
    main()
