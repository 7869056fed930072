"""Other media become words: a picture, a voice, music and the weather in one prompt.

    from styleblend import context
    made = context.describe(image="cat.png", speech="note.wav", weather="Rome")
    print(made.prompt, made.sources)
"""


def __getattr__(name: str):
    """`describe` and `Context`, imported on first use: the listening process needs neither."""
    if name in ("describe", "Context"):
        import importlib
        return getattr(importlib.import_module("styleblend.context.prompt"), name)
    raise AttributeError(f"module 'styleblend.context' has no attribute {name!r}")
