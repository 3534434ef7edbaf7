"""`python -m sama`."""

import sys

from sama.cli import main

if __name__ == "__main__":
    sys.exit(main())
