"""StyleBlend in Jittor: learn a style from a few pictures, then draw any prompt in it."""

__version__ = "0.1.0"
