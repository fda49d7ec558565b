"""`python -m polydev`: the command, for where its script is not on the path."""

from polydev.cli import main

if __name__ == "__main__":
    main()
