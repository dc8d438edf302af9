"""Floor 6: named assemblies of the floors below. What users call."""

REGISTERS = ("sparse_pretraining",)  # the files that hold names; the others are imported when they are called
