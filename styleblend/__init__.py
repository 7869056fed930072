"""Style methods for Stable Diffusion 2.1 in Jittor: learn a style from a few pictures, then draw any prompt in it."""

__version__ = "0.1.0"
PUBLIC = {"Pipeline": "styleblend.pipeline", "Picture": "styleblend.pipeline", "Progress": "styleblend.pipeline",
          "load_base": "styleblend.base.base", "from_jdiffusion": "styleblend.base.jdiffusion",
          "read_settings": "styleblend.settings"}


def __getattr__(name: str):
    """The public names, imported on first use: importing `styleblend` alone starts no Jittor."""
    if name in PUBLIC:
        import importlib
        return getattr(importlib.import_module(PUBLIC[name]), name)
    raise AttributeError(f"module 'styleblend' has no attribute {name!r}")
