"""Floor 6: named assemblies of what lies below."""
