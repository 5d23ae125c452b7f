"""`gen verify`: run a module's kernels on the emulator against float64."""

HELP = "Check a module's kernels on the CPU emulator against a float64 reference."
