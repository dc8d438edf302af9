<<<<<<< HEAD
"""Floor 6: named assemblies of the floors below. What users call."""
=======
"""Floor 6: named assemblies of what lies below."""
>>>>>>> cli
