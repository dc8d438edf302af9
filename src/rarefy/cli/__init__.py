"""Floor 7: the command line. Nothing heavy is imported until a command needs it."""
