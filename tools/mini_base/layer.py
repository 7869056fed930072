"""One drawing as a layer of colour and coverage, and the raster operations that the treatments are made of.

A layer is drawn SCALE times as large as the picture that comes of it: lines and dots are smooth after `shrink`.
Lengths are given in pixels of the finished picture of 128; colours are floats 0..1, arrays (H, W, 3), coverage and
masks (H, W).
"""
import re

import numpy as np
from PIL import Image, ImageFilter

from render_art import INNER, rasterise

SCALE = 2


def flattened(svg):
    """The SVG without shading: every gradient becomes its mean colour, filters (blur, shine) go."""
    def flat(match):
        stops = re.findall(r"<stop[^>]*>", match[0])
        colours = [re.search(r'stop-color="#([0-9a-fA-F]{3,6})"', s) for s in stops]
        opacity = [float((re.search(r'stop-opacity="([\d.]+)"', s) or [0, "1"])[1]) for s in stops]
        rgb = [channels(c[1]) for c in colours if c]
        if not rgb:
            return match[0]
        mean = "#" + "".join(f"{round(v):02x}" for v in np.mean(rgb, 0))
        return re.sub(r"<stop[^>]*>", f'<stop stop-color="{mean}" stop-opacity="{np.mean(opacity):.3f}"/>', match[0])

    svg = re.sub(r"<(linear|radial)Gradient.*?</\1Gradient>", flat, svg, flags=re.S)
    return re.sub(r'\sfilter="url\([^"]*"', "", svg)


def channels(hexadecimal):
    """Red, green, blue 0..255 of "fa0" or "ffaa00"."""
    k = len(hexadecimal) // 3
    return [int(hexadecimal[i * k:i * k + k] * (3 - k), 16) for i in range(3)]


def placed(svg, size, turn=0.0, zoom=1.0, shift=(0.0, 0.0), mirror=False):
    """The SVG on a transparent square, with the usual margin: turned (degrees), zoomed, shifted (share of the side)."""
    svg = re.sub(r"<\?xml.*?\?>|<!DOCTYPE.*?>", "", svg, flags=re.S)
    root = re.search(r"<svg[^>]*>", svg)[0]
    width, height = (float(v) for v in re.search(r'viewBox="([^"]*)"', root)[1].split()[2:])
    w, h = (size * INNER * side / max(width, height) for side in (width, height))
    plain = re.sub(r'\s(width|height|x|y)="[^"]*"', "", root)
    inner = plain.replace("<svg", f'<svg x="{-w / 2:.2f}" y="{-h / 2:.2f}" width="{w:.2f}" height="{h:.2f}"', 1)
    x, y = (size * (0.5 + s) for s in shift)
    return (f'<svg xmlns="http://www.w3.org/2000/svg" xmlns:xlink="http://www.w3.org/1999/xlink" width="{size}" '
            f'height="{size}" viewBox="0 0 {size} {size}"><g transform="translate({x:.2f} {y:.2f}) rotate({turn:.2f}) '
            f'scale({-zoom if mirror else zoom:.4f} {zoom:.4f})">{svg.replace(root, inner, 1)}</g></svg>')


class Layer:
    """A rendered SVG: `rgb` (H, W, 3) and `alpha` (H, W), not multiplied; `size`: side of the finished picture."""

    def __init__(self, svg, size, geometry):
        self.svg, self.size, self.geometry, side = svg, size, geometry, size * SCALE
        image = np.asarray(rasterise(placed(svg, side, **geometry), side).convert("RGBA"), np.float32) / 255
        self.rgb, self.alpha = image[..., :3], image[..., 3]

    def flat(self):
        """The same drawing without shading."""
        svg = flattened(self.svg)
        return self if svg == self.svg else Layer(svg, self.size, self.geometry)

    def on(self, ground):
        """(H, W, 3): over one colour or a picture."""
        return over(self.rgb, self.alpha, ground)

    def tone(self):
        """(H, W) lightness: 0..0.85, so that every drawing has its darkest and lightest ink; 1 is paper."""
        light, inked = lightness(self.rgb), self.alpha > 0.5
        low, high = np.percentile(light[inked], [2, 98]) if inked.any() else (0, 1)
        light = np.clip((light - low) / max(high - low, 0.15), 0, 1) * 0.85
        return light * self.alpha + 1 - self.alpha

    def levels(self, *shares):
        """Tones on the way from the mean tone of the ink to the lightest (shares 0..1) or the darkest (0..-1)."""
        tone = self.tone()[self.alpha > 0.5]
        low, mid, high = (tone.min(), tone.mean(), tone.max()) if len(tone) else (0, 0.4, 0.85)
        return [mid + s * (high - mid if s > 0 else mid - low) for s in shares]

    def edges(self, width):
        """(H, W) 0..1: lines `width` thick where colour or coverage changes."""
        seen = Image.fromarray(to_bytes(np.concatenate([self.rgb * self.alpha[..., None], self.alpha[..., None]], 2)))
        bands, r = [], 2 * max(1, round(width * SCALE / 2)) + 1
        for band in seen.filter(ImageFilter.GaussianBlur(1)).split():
            high, low = band.filter(ImageFilter.MaxFilter(r)), band.filter(ImageFilter.MinFilter(r))
            bands.append((np.asarray(high, np.float32) - np.asarray(low, np.float32)) / 255)
        return np.clip((np.max(bands, 0) - 0.12) / 0.1, 0, 1)


def over(colour, mask, ground):
    return np.asarray(colour) * mask[..., None] + np.asarray(ground) * (1 - mask[..., None])


def lightness(rgb):
    return rgb @ np.array([0.299, 0.587, 0.114], np.float32)


def saturated(rgb, amount):
    grey = lightness(rgb)[..., None]
    return np.clip(grey + (rgb - grey) * amount, 0, 1)


def to_bytes(x):
    return (np.clip(x, 0, 1) * 255 + 0.5).astype(np.uint8)


def blur(x, radius):
    """Gaussian blur of a mask (H, W) or a picture (H, W, 3)."""
    return np.asarray(Image.fromarray(to_bytes(x)).filter(ImageFilter.GaussianBlur(radius * SCALE)), np.float32) / 255


def grown(mask, radius):
    """The mask made wider all round by about `radius`: a blurred edge is 0.159 high one deviation out."""
    return np.clip((blur(mask, radius) - 0.159) / 0.04 + 0.5, 0, 1)


def moved(x, right, down):
    """The mask or picture shifted; what comes in is 0."""
    right, down = round(right * SCALE), round(down * SCALE)
    out, (h, w) = np.zeros_like(x), x.shape[:2]
    out[max(0, down):h + min(0, down), max(0, right):w + min(0, right)] = \
        x[max(0, -down):h + min(0, -down), max(0, -right):w + min(0, -right)]
    return out


def grid(layer):
    """Coordinates of every point in finished pixels, x and y."""
    y, x = np.mgrid[:layer.size * SCALE, :layer.size * SCALE].astype(np.float32) / SCALE
    return x, y


def stripes(layer, period, angle, share):
    """(H, W) 0..1: parallel lines that cover `share` (a number or an (H, W) array) of the plane."""
    x, y = grid(layer)
    phase = (x * np.cos(angle) + y * np.sin(angle)) / period % 1
    return np.clip((np.asarray(share) / 2 - np.abs(phase - 0.5)) * period * SCALE + 0.5, 0, 1)


def dots(layer, period, share):
    """(H, W) 0..1: round dots, one in the middle of each cell, that cover `share` (H, W) of the plane."""
    x, y = grid(layer)
    far = np.hypot(x / period % 1 - 0.5, y / period % 1 - 0.5)
    return np.clip((np.sqrt(share / np.pi) - far) * period * SCALE + 0.5, 0, 1)


def noise(rng, layer, cell):
    """(H, W) smooth noise with deviation about 1, its hills `cell` wide."""
    side, n = layer.size * SCALE, max(2, round(layer.size / cell) + 1)
    small = Image.fromarray(rng.standard_normal((n, n)).astype(np.float32))
    return np.asarray(small.resize((side, side), Image.BICUBIC), np.float32) * 1.3


def warped(x, right, down):
    """The mask or picture read at points that are off by `right` and `down`, arrays (H, W)."""
    h, w = x.shape[:2]
    rows, columns = np.mgrid[:h, :w]
    rows, columns = rows + np.round(down * SCALE).astype(int), columns + np.round(right * SCALE).astype(int)
    return x[np.clip(rows, 0, h - 1), np.clip(columns, 0, w - 1)]


def shrink(rgb, size):
    """(size, size, 3) uint8: area means."""
    return np.asarray(Image.fromarray(to_bytes(rgb)).reduce(rgb.shape[0] // size))
