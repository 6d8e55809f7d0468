"""`python -m fl.keys`: make keys and rosters."""

import sys

from fl.keys.folders import main

if __name__ == "__main__":
    sys.exit(main())
