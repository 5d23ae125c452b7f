"""`python -m kernelwright.gen`, the same as the command `gen`."""

import sys

from kernelwright.gen.cli import main

if __name__ == "__main__":
    sys.exit(main())
