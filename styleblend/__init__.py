"""StyleBlend in Jittor: learn a style from a few pictures, then draw any prompt in it."""

__version__ = "0.1.0"


def __getattr__(name: str):
    """`styleblend.from_jdiffusion`, imported on first use: importing `styleblend` alone starts no Jittor."""
    if name == "from_jdiffusion":
        from styleblend.base.jdiffusion import from_jdiffusion
        return from_jdiffusion
    raise AttributeError(f"module 'styleblend' has no attribute {name!r}")
