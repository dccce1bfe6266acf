"""`python -m snnconv`: the command line where the console command is not on the path."""

from snnconv.cli import main

if __name__ == "__main__":
    main()
