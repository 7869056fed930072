"""Looks that no set of the art has: each treatment is a family, its parameters are drawn anew for every picture.

A treatment is a function (layer, rng) -> (picture (H, W, 3) in 0..1, words): the words name what can be seen of the
parameters, so that they can be asked for. None of them comes near a held-out style: no black outline on white, no
black silhouette with white lines, no glossy model, no flat drawing in its own colours on white (README.md says how
that was checked).
"""
import numpy as np
from PIL import Image

from layer import SCALE, blur, dots, grid, grown, lightness, moved, noise, over, saturated, stripes, to_bytes, warped

WHITE = np.ones(3, np.float32)
INKS = {"red": (0.83, 0.16, 0.16), "orange": (0.93, 0.47, 0.08), "green": (0.13, 0.58, 0.25), "teal": (0.0, 0.55, 0.56),
        "blue": (0.13, 0.36, 0.85), "purple": (0.47, 0.2, 0.72), "pink": (0.9, 0.25, 0.56), "brown": (0.5, 0.3, 0.15)}
TINTS = {"yellow": (1.0, 0.84, 0.3), "pink": (1.0, 0.72, 0.8), "sky blue": (0.6, 0.82, 0.98), "grey": (0.78, 0.8, 0.82),
         "mint": (0.65, 0.92, 0.76), "lilac": (0.8, 0.73, 0.96), "peach": (1.0, 0.8, 0.62)}
PAIRS = [("teal", "orange"), ("blue", "pink"), ("red", "blue"), ("purple", "green"), ("brown", "teal"),
         ("green", "pink")]
DUOTONES = {"purple and yellow": ((0.3, 0.1, 0.5), (1, 0.9, 0.35)),
            "navy and peach": ((0.08, 0.12, 0.35), (1, 0.78, 0.62)),
            "red and sky blue": ((0.75, 0.1, 0.18), (0.68, 0.9, 1)),
            "green and pink": ((0.02, 0.33, 0.26), (1, 0.76, 0.84))}
BOARDS = {"blackboard": (0.13, 0.14, 0.15), "green board": (0.1, 0.27, 0.2), "blue board": (0.1, 0.17, 0.33)}
CLOTHS = {"linen": (0.9, 0.85, 0.75), "denim": (0.25, 0.36, 0.55), "felt": (0.55, 0.2, 0.25)}
CELL = 8  # pixels of a latent: a texture of this period on a fixed grid survives the autoencoder, any other is lost


def pick(rng, table):
    name = list(table)[rng.integers(len(table))]
    return name, np.array(table[name], np.float32)


def ramp(t, *colours):
    """Colours along 0..1 for an array (H, W)."""
    at = np.linspace(0, 1, len(colours))
    return np.stack([np.interp(t, at, [c[i] for c in colours]) for i in range(3)], -1).astype(np.float32)


def diagonal(layer, share, steep):
    """(H, W) 0..1: parallel lines at 45 degrees, up or down."""
    return stripes(layer, CELL / np.sqrt(2), np.pi / 4 if steep else -np.pi / 4, share)


def one_ink(layer, rng):
    name, ink = pick(rng, INKS)
    return ramp(layer.tone() ** rng.uniform(0.8, 1.2), ink * 0.8, ink * 0.6 + 0.4, WHITE), f"one ink, {name}"


def two_inks(layer, rng):
    dark, light = PAIRS[rng.integers(len(PAIRS))]
    flat = layer.flat()
    tone, cut = blur(flat.tone(), 0.4), flat.levels(0)[0]
    inks = np.where((tone < cut + 0.01)[..., None], np.array(INKS[dark], np.float32) * 0.85,
                    np.array(INKS[light], np.float32) * 0.75 + 0.25)
    bare = blur(lightness(flat.on(WHITE)), 0.4) > 0.93  # what is white stays paper
    return over(inks, ~bare * layer.alpha, WHITE), f"two inks, {dark} and {light}"


def duotone(layer, rng):
    name = list(DUOTONES)[rng.integers(len(DUOTONES))]
    dark, light = (np.array(c, np.float32) for c in DUOTONES[name])
    return ramp(layer.tone(), dark, light), f"duotone, {name}"


def pastel(layer, rng):
    name, ground = pick(rng, TINTS)
    keep = rng.uniform(0.32, 0.45)
    pale = saturated(layer.rgb, 0.9) * keep + 1 - keep
    return over(pale, layer.alpha, ground * 0.4 + 0.6), f"pale pastel colours on {name}"


def sepia(layer, rng):
    x, y = grid(layer)
    paper, old = np.array([0.96, 0.9, 0.76], np.float32), noise(rng, layer, 24) * 0.02
    fade = 1 - rng.uniform(0.15, 0.3) * (np.hypot(x - layer.size / 2, y - layer.size / 2) / layer.size) ** 2 * 2 + old
    return ramp(layer.tone(), (0.26, 0.15, 0.07), (0.66, 0.48, 0.3), paper) * fade[..., None], "old sepia photo"


def neon(layer, rng):
    flat, single = layer.flat(), rng.random() < 0.5
    name, colour = pick(rng, INKS)
    hue = saturated(blur(flat.rgb * flat.alpha[..., None], 1), 3) + 0.15
    hue = np.broadcast_to(colour * 1.25, hue.shape) if single else hue / hue.max(2, keepdims=True)
    lines = flat.edges(1.4)
    light = (lines[..., None] * hue * 0.75 + lines[..., None] * 0.25 + blur(lines[..., None] * hue, 2) * 0.9
             + blur(lines[..., None] * hue, 6) * 0.8)
    return np.clip(light + np.array([0.04, 0.03, 0.08]), 0, 1), f"{name} neon lights" if single else "neon lights"


def outlines(layer, rng):
    name, ink = pick(rng, INKS)
    thick = rng.random() < 0.5
    lines = layer.flat().edges(rng.uniform(2.2, 3) if thick else rng.uniform(1.0, 1.4))
    return over(ink, lines, WHITE), f"{'thick' if thick else 'thin'} {name} outlines"


def poster(layer, rng):
    name, ground = pick(rng, TINTS)
    count = 4
    rgb = Image.fromarray(to_bytes(saturated(layer.flat().on(WHITE), rng.uniform(1.4, 1.8))))
    few = rgb.quantize(count + 1, dither=Image.Dither.NONE).convert("RGB")
    return over(np.asarray(few, np.float32) / 255, layer.alpha, ground), f"bright poster in few colours on {name}"


def sticker(layer, rng):
    name, ground = pick(rng, TINTS)
    cut = grown(layer.alpha, rng.uniform(3, 4.5))
    shade = blur(moved(cut, 1.2, 2), 1.2) * 0.35
    return over(layer.rgb, layer.alpha, over(WHITE, cut, ground * (1 - shade[..., None]))), f"sticker on {name}"


def long_shadow(layer, rng):
    name, ground = pick(rng, INKS)
    ground, side = ground * 0.7 + 0.3, rng.choice([-1, 1])
    shade, step = layer.alpha.copy(), 1
    while step < layer.size:  # doubles its length every time: 8 moves for 128 pixels
        shade, step = np.maximum(shade, moved(shade, side * step, step)), step * 2
    return layer.on(over(ground * 0.72, shade, ground)), f"long shadow on {name}"


def soft_shadow(layer, rng):
    name, ground = pick(rng, TINTS)
    shade = blur(moved(layer.alpha, rng.uniform(-4, 4), rng.uniform(5, 8)), rng.uniform(3, 4.5))
    paper = ground * 0.5 + 0.5
    return layer.on(over(ground * 0.45, shade * 0.8, paper)), f"soft shadow on {name}"


def hatching(layer, rng):
    name, ink = pick(rng, INKS)
    flat, steep = layer.flat(), bool(rng.integers(2))
    tone, (dark, light) = blur(flat.tone(), 0.7), flat.levels(-0.3, 0.6)
    lines = np.maximum(diagonal(layer, 0.4, steep) * (tone < light), diagonal(layer, 0.4, not steep) * (tone < dark))
    return over(ink * 0.9, np.maximum(lines * layer.alpha, flat.edges(1.2)), WHITE), f"hatched in {name} ink"


def halftone(layer, rng):
    own, (name, ink) = rng.random() < 0.4, pick(rng, INKS)
    share = np.clip(1 - blur(layer.tone(), 1), 0, 1) * 0.75
    colour = saturated(blur(layer.on(WHITE), 1), 1.5) * 0.9 if own else ink
    paper = over(np.asarray(colour) * 0.35 + 0.65, layer.alpha, WHITE)
    points = dots(layer, CELL, share) * grown(layer.alpha, 0.5)
    return over(colour, points, paper), "coloured halftone dots" if own else f"{name} halftone dots"


def pixel_art(layer, rng):
    coarse = rng.random() < 0.35
    side = layer.size // CELL if coarse else 2 * layer.size // CELL
    small = Image.fromarray(to_bytes(layer.on(WHITE))).resize((side, side), Image.BOX)
    few = small.quantize(12, dither=Image.Dither.NONE).convert("RGB")
    rgb = saturated(np.asarray(few, np.float32) / 255, 1.25)
    big = np.repeat(np.repeat(rgb, layer.size * SCALE // side, 0), layer.size * SCALE // side, 1)
    return big, "coarse pixel art" if coarse else "pixel art"


def crayon(layer, rng):
    flat, amount = layer.flat(), rng.uniform(0.9, 1.5)
    dx, dy = (noise(rng, layer, 14) * amount for _ in range(2))
    rgb, alpha = warped(flat.rgb, dx, dy), warped(flat.alpha, dx, dy)
    edge, strokes = warped(flat.edges(2), dx * 1.4, dy * 1.4), diagonal(layer, 0.62, bool(rng.integers(2)))
    filled = over(rgb * 0.85 + 0.1, alpha * (0.35 + 0.6 * strokes), np.array([1, 0.99, 0.95], np.float32))
    return over(saturated(rgb * 0.65, 1.3), edge * alpha, filled), "wax crayon"


def chalk(layer, rng):
    name, board = pick(rng, BOARDS)
    flat, strokes = layer.flat(), 0.25 + 0.3 * diagonal(layer, 0.55, bool(rng.integers(2)))
    dx, dy = (noise(rng, layer, 18) * 0.7 for _ in range(2))
    dust = np.clip(0.9 + 0.2 * noise(rng, layer, 3), 0.4, 1)
    filled = over(warped(flat.rgb * 0.5 + 0.5, dx, dy), warped(flat.alpha, dx, dy) * strokes, board)
    return over([0.95, 0.95, 0.9], warped(flat.edges(2), dx, dy) * dust, filled), f"chalk on a {name}"


def blueprint(layer, rng):
    blue = np.array([0.08, 0.28, 0.62], np.float32) * rng.uniform(0.85, 1.15)
    lines = np.maximum(stripes(layer, 2 * CELL, 0, 0.07), stripes(layer, 2 * CELL, np.pi / 2, 0.07))
    paper = over([0.6, 0.75, 0.95], lines * 0.5, blue)
    fill = over([0.6, 0.75, 0.95], layer.alpha * 0.18, paper)
    return over([0.93, 0.97, 1], layer.flat().edges(rng.uniform(1.0, 1.4)), fill), "blueprint"


def embroidery(layer, rng):
    name, cloth = pick(rng, CLOTHS)
    flat, (x, y) = layer.flat(), grid(layer)
    row = np.floor(y / (CELL / 2))
    thread = 0.72 + 0.38 * np.sin(np.pi * (y / (CELL / 2) % 1)) - 0.22 * ((x / CELL + row / 2) % 1 > 0.8)
    shade = blur(moved(layer.alpha, 0.8, 1.4), 0.8)
    sewn = (flat.rgb * 0.8 + 0.14) * np.clip(thread, 0, 1.15)[..., None]
    return np.clip(over(sewn, layer.alpha, cloth * (1 - 0.4 * shade[..., None])), 0, 1), f"embroidery on {name}"


def emboss(layer, rng):
    name, paper = pick(rng, TINTS)
    height = blur(layer.alpha * (0.6 + 0.4 * (1 - layer.flat().tone())), rng.uniform(0.8, 1.1))
    side, reach = rng.choice([-1, 1]), 1.2
    slope = moved(height, side * reach, reach) - moved(height, -side * reach, -reach)
    return np.clip(paper * (0.88 - 0.75 * slope[..., None]), 0, 1), f"embossed {name} paper"


def watercolour(layer, rng):
    flat = layer.flat()
    dx, dy = (noise(rng, layer, 10) * 0.9 + noise(rng, layer, 3) * 0.35 for _ in range(2))
    rgb, alpha = blur(warped(flat.on(WHITE), dx, dy), 1.2), blur(warped(flat.alpha, dx, dy), 0.7)
    rim = np.clip(blur(warped(flat.edges(2), dx, dy), 0.8) * 1.2, 0, 1)
    wash = np.clip(0.62 + 0.2 * noise(rng, layer, 18) + 0.08 * noise(rng, layer, 3) + 0.3 * rim, 0.2, 1)
    paper = np.array([0.99, 0.98, 0.95], np.float32) + 0.012 * noise(rng, layer, 2)[..., None]
    return np.clip(over(saturated(rgb, 1.15) ** 1.1, alpha * wash, paper), 0, 1), "watercolour"


def paper_cut(layer, rng):
    name, ink = pick(rng, INKS)
    flat = layer.flat()
    tone, picture = blur(flat.tone(), 0.8), np.broadcast_to(ink * 0.25 + 0.75, layer.rgb.shape)
    sheets = [layer.alpha] + [np.clip((cut - tone) * 20 + 0.5, 0, 1) * layer.alpha for cut in flat.levels(0, -0.5)]
    for sheet, colour in zip(sheets, (ink * 0.5 + 0.5, ink * 0.9 + 0.05, ink * 0.5)):
        shade = blur(moved(sheet, 1.2, 2.2), 1.3) * 0.55
        picture = over(colour, sheet, picture * (1 - shade[..., None]))
    return picture, f"paper cut in {name}"


FAMILIES = {f.__name__: f for f in (
    one_ink, two_inks, duotone, pastel, sepia, neon, outlines, poster, sticker, long_shadow, soft_shadow, hatching,
    halftone, pixel_art, crayon, chalk, blueprint, embroidery, emboss, watercolour, paper_cut)}
