"""The web page of `styleblend page`: a thin front on `styleblend.jobs`. Gradio is imported only here, and late."""
