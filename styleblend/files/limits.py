"""How much is taken from files that are not to be trusted. Each is known before the rest of the file is read."""

MAX_PIXELS = 64_000_000  # of a picture: while it is decoded a pixel takes up to twelve bytes
# Bytes of a safetensors file's header. That of a whole Stable Diffusion checkpoint has some 300,000, and takes far more
# memory when it is read.
MAX_HEADER = 16 << 20
LARGEST_SEED = (1 << 63) - 1  # what Jittor's generator takes
MAX_CAPTIONS = 256 << 20  # bytes of a corpus's captions.json: two million entries
