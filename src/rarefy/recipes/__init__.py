"""Floor 6: named assemblies of the floors below. What users call."""
