"""`python -m instep` is the command `instep`."""

import sys

from instep.commands.cli import main

if __name__ == "__main__":
    sys.exit(main())
