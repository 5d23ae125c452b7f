"""A second implementation of PTX instructions in NumPy, written from the PTX ISA's text alone, against the emulator."""
