"""What the program does, for every front: functions that raise and yield; no command line, no printing."""
