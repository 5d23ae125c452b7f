"""`python -m kernelwright.tuner`."""

import sys

from kernelwright.tuner.cli import main

if __name__ == "__main__":
    sys.exit(main())
