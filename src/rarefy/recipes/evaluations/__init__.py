"""What a model is worth: functions of a model that give named numbers. Each can travel to another process."""
