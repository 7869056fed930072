"""What can be an axis of a grid. The command line's help says it, so nothing is imported here."""

OF_BLEND = ("scale", "fine_scale", "negative_scale", "c2f_ratio", "f2c_ratio")
OF_SAMPLING = ("seed", "steps", "guidance")
AXES = ("preset", *OF_BLEND, *OF_SAMPLING, "checkpoint", "prompt")
