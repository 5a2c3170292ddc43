"""`python -m unmask VERB ...`: the same as `unmask VERB ...`."""

import sys

from unmask.cli.main import main

if __name__ == "__main__":
    sys.exit(main())
