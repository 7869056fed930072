"""Files in and out: whole or not at all, names, text, prompts, captions, pictures. Nothing here starts Jittor."""
