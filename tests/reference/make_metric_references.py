"""Writes what transformers, torchmetrics and OpenCV say of made-up pictures, for tests/metrics/test_metrics.py.

    python tests/reference/make_metric_references.py TOKENIZER
    python tests/reference/make_metric_references.py TOKENIZER --full OUT NAME

TOKENIZER is a folder with CLIP's vocabulary. The first writes tests/data/metrics.npz, the second the features of one
network of published size to OUT.

Needs requirements.txt of this folder, and no Jittor. The networks have tiny sizes and made-up weights, by the names
under which the libraries themselves save them: these names are stored too, so that the test writes files like the
published ones.
"""
from __future__ import annotations

import argparse
import tempfile
from pathlib import Path

import cv2
import numpy as np
import piq
import torch
import transformers
from efficientnet_lite_pytorch import EfficientNet
from PIL import Image
from safetensors.torch import load_file, save_file
from torchmetrics.functional.image.lpips import _LPIPS
from torchmetrics.functional.multimodal import clip_iqa
from torchmetrics.image.fid import FrechetInceptionDistance
from torch_fidelity.feature_extractor_inceptionv3 import FeatureExtractorInceptionV3
from torchvision import transforms
from torchvision.models import squeezenet1_1

import seeded

OUT = Path(__file__).parent.parent / "data" / "metrics.npz"
PICTURES, STYLE = 64, 4
SHARES = (0.4, 0.3, 0.2, 0.1)
MEAN, DEVIATION = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)  # ImageNet's
NAMES = {}  # network -> "name shape" of each tensor in its file


def drawn(network: str, tensors: dict) -> dict:
    """Made-up values for the tensors of a file, and its names kept."""
    NAMES[network] = [f"{name} {'x'.join(map(str, tensor.shape))}" for name, tensor in tensors.items()
                      if tensor.is_floating_point() and tensor.ndim]
    return {name: torch.from_numpy(seeded.weight(f"{network}/{name}", tuple(t.shape)))
            if t.is_floating_point() and t.ndim else t for name, t in tensors.items()}


def pretrained(network: str, kind: type, config):
    """A transformers model that has read a file with made-up weights by its own names."""
    with tempfile.TemporaryDirectory() as folder:
        kind(config).save_pretrained(folder)
        path = f"{folder}/model.safetensors"
        save_file({name: t.contiguous() for name, t in drawn(network, load_file(path)).items()}, path, {"format": "pt"})
        return kind.from_pretrained(folder, attn_implementation="eager").eval()


def as_picture(pixels: np.ndarray) -> Image.Image:
    return Image.fromarray(pixels)


def cosine(one, other):
    return torch.nn.functional.cosine_similarity(one[:, None], other[None], dim=-1)


# ---------------------------------------------------------------- pictures as networks read them

def make_processed() -> dict:
    processors = {
        "clip": transformers.CLIPImageProcessorPil(size={"shortest_edge": 28}, crop_size=28),
        "dino": transformers.ViTImageProcessorPil(size={"height": 32, "width": 32}, image_mean=MEAN,
                                                  image_std=DEVIATION),
        "dinov2": transformers.BitImageProcessorPil(size={"shortest_edge": 36}, crop_size=28, image_mean=MEAN,
                                                    image_std=DEVIATION)}
    found = {}
    for width, height in seeded.SIZES:
        picture = as_picture(seeded.pictures(f"processed/{width}", 1, width, height)[0])
        for name, processor in processors.items():
            found[f"processed/{name}/{width}"] = processor(
                images=picture, return_tensors="np")["pixel_values"][0].astype(np.float32)
        found[f"processed/lpips/{width}"] = (
            transforms.ToTensor()(transforms.Resize((32, 32))(picture)) * 2 - 1).numpy()
    return found


# ---------------------------------------------------------------- metrics

def make_clip(tokenizer, pictures, style, prompts) -> dict:
    model = pretrained("clip", transformers.CLIPModel, transformers.CLIPConfig(**seeded.CLIP))
    images = transformers.CLIPImageProcessorPil(size={"shortest_edge": 28}, crop_size=28)
    processor = transformers.CLIPProcessor(image_processor=images, tokenizer=tokenizer)

    def of_pictures(some):
        return model(**processor(text=["x"], images=some, return_tensors="pt", padding=True)).image_embeds

    texts = sorted(set(prompts) | set(seeded.WORDS))
    out = model(**processor(text=texts, images=pictures, return_tensors="pt", padding=True))
    ranked = []
    for row, prompt in zip(out.logits_per_image, prompts):
        columns = [i for i, text in enumerate(texts) if text in seeded.WORDS or text == prompt]
        best = row[columns].topk(5).indices
        ranked.append(float(any(texts[columns[i]] == prompt for i in best)))
    own = torch.stack([out.text_embeds[texts.index(prompt)] for prompt in prompts])
    return {"clip/images": out.image_embeds.numpy(), "clip/texts": own.numpy(),
            "clip_text": (out.image_embeds * own).sum(1).numpy(),
            "clip_image": (out.image_embeds @ of_pictures(style).T).mean(1).numpy(), "clip_r": np.array(ranked)}


def resnet(config: dict):
    model = piq.feature_extractors.clip.CLIP(**config).eval()
    model.load_state_dict(drawn("clip_resnet", model.state_dict()))
    return model


def make_clip_iqa(tokenizer, pictures) -> dict:
    model = resnet(seeded.CLIP_RESNET)
    processor = transformers.CLIPProcessor(image_processor=transformers.CLIPImageProcessorPil(), tokenizer=tokenizer)
    texts, names = clip_iqa._clip_iqa_format_prompts(("quality",))
    anchors = clip_iqa._clip_iqa_get_anchor_vectors("clip_iqa", model, processor, texts, "cpu")
    found, batch = {}, torch.stack([transforms.ToTensor()(picture) * 255 for picture in pictures])
    for name, data_range in (("clip_iqa", 255.0), ("clip_iqa_unscaled", 1.0)):
        features = clip_iqa._clip_iqa_update("clip_iqa", batch, model, processor, data_range, "cpu")
        found[name] = clip_iqa._clip_iqa_compute(features, anchors, names).numpy()
        found[f"{name}/images"] = features.numpy()
    return {**found, "clip_iqa/texts": anchors.numpy()}


def make_dino(pictures, style) -> dict:
    model = pretrained("dino", transformers.ViTModel, transformers.ViTConfig(**seeded.DINO))
    processor = transformers.ViTImageProcessorPil(size={"height": 32, "width": 32}, image_mean=MEAN,
                                                  image_std=DEVIATION)
    own, wanted = (model(**processor(images=some, return_tensors="pt")).last_hidden_state[:, 0]
                   for some in (pictures, style))
    likeness = cosine(own, own)
    second = pretrained("dinov2", transformers.Dinov2Model, transformers.Dinov2Config(**seeded.DINOV2))
    processor = transformers.BitImageProcessorPil(size={"shortest_edge": 256}, crop_size=224, image_mean=MEAN,
                                                  image_std=DEVIATION)
    new, target = (second(**processor(images=some, return_tensors="pt")).pooler_output for some in (pictures, style))
    return {"dino/states": own.numpy(),
            "dino_set": likeness[torch.triu(torch.ones_like(likeness), 1) > 0].mean().numpy(),
            "dino_style": (cosine(own, wanted) * torch.tensor(SHARES)).sum(1).numpy(),
            "dinov2/states": new.numpy(), "dinov2": cosine(new, target).mean(1).numpy()}


def make_squeezenet(pictures, style) -> dict:
    backbone = squeezenet1_1()
    backbone.load_state_dict(drawn("squeezenet", backbone.state_dict()))
    model = _LPIPS(pretrained=False, net="squeeze", pnet_rand=True).eval()
    heads = drawn("lpips", {name: t for name, t in model.state_dict().items()
                            if name.startswith("lin") and not name.startswith("lins")})
    model.load_state_dict(heads, strict=False)
    for number, layers in enumerate(model.net.slices):
        for name, layer in layers.named_children():
            layer.load_state_dict(backbone.features[int(name)].state_dict())
    read = transforms.Compose([transforms.Resize((256, 256)), transforms.ToTensor(),
                               transforms.Lambda(lambda x: x * 2 - 1)])
    wanted, distances, grams = torch.stack([read(picture) for picture in style]), [], []

    def gram_matrices(batch):
        return [torch.einsum("bchw,bdhw->bcd", maps, maps) / maps[0, 0].numel()
                for maps in model.net(model.scaling_layer(batch))]

    mean = [matrix.mean(0) for matrix in gram_matrices(wanted)]
    for picture in pictures:
        one = read(picture)[None]
        distances.append(model(one.expand(len(style), -1, -1, -1), wanted).mean())
        grams.append(torch.stack([(own[0] - m).norm() / m.norm() for own, m in zip(gram_matrices(one), mean)]).mean())
    small = torch.from_numpy(seeded.uniform("squeezenet/input0", (1, 3, 70, 61)))
    maps = model.net(model.scaling_layer(small))
    return {"lpips": torch.stack(distances).numpy(), "gram": torch.stack(grams).numpy(),
            **{f"squeezenet/{i}": m.mean((2, 3)).numpy() for i, m in enumerate(maps)},
            "squeezenet/last": maps[-1].numpy()}


def make_efficientnet(pictures, style) -> dict:
    model = EfficientNet.from_name("efficientnet-lite0").eval()
    model.load_state_dict(drawn("efficientnet", model.state_dict()))
    read = transforms.Compose([transforms.Resize((224, 224), transforms.InterpolationMode.BICUBIC),
                               transforms.PILToTensor(), transforms.Lambda(lambda x: (x.float() - 127) / 128)])

    def maps_of(picture):
        x, found = model._swish(model._bn0(model._conv_stem(read(picture)[None]))), []
        for number, block in enumerate(model._blocks):
            x = block(x)
            if number in (0, 2, 4, 10, 15):
                found.append(x)
        return found

    def gram_matrices(maps):
        return [torch.einsum("bchw,bdhw->cd", m, m) / m[0, 0].numel() for m in maps]

    wanted = [maps_of(picture) for picture in style]
    mean = [torch.stack(matrices).mean(0) for matrices in zip(*map(gram_matrices, wanted))]
    unit = torch.nn.functional.normalize
    textures, distances = [], []
    for picture in pictures:
        own = maps_of(picture)
        textures.append(torch.stack([(g - m).norm() / m.norm() for g, m in zip(gram_matrices(own), mean)]).mean())
        distances.append(torch.stack([((unit(m) - unit(torch.cat(theirs))) ** 2).sum(1).mean()
                                      for m, theirs in zip(own, zip(*wanted))]).mean())
    return {"texture": torch.stack(textures).numpy(), "features": torch.stack(distances).numpy(),
            **{f"efficientnet/{i}": m.mean((2, 3)).numpy() for i, m in enumerate(maps_of(style[0]))}}


class Unfilled(FeatureExtractorInceptionV3):
    """It cannot be made without a file; this one takes any."""

    def load_state_dict(self, *_, **__):
        pass


def make_fid(pictures, style) -> dict:
    with tempfile.TemporaryDirectory() as folder:
        path = f"{folder}/inception.pth"
        torch.save({}, path)
        torch.save(drawn("inception", Unfilled("unfilled", ["64"], feature_extractor_weights_path=path).state_dict()),
                   path)
        # antialias: as before torchmetrics 1.8
        metric = FrechetInceptionDistance(feature=64, feature_extractor_weights_path=path, antialias=False)
    batches = [torch.stack([torch.from_numpy(np.array(picture)).permute(2, 0, 1) for picture in some])
               for some in (style, pictures)]
    metric.update(batches[0], real=True)
    metric.update(batches[1], real=False)
    return {"fid": metric.compute().numpy(), "inception/features": metric.inception(batches[0]).numpy()}


def make_histograms(pictures, style) -> dict:
    """With OpenCV, in 8 bits where the checker of the competition counts in 8 bits, and in 32."""

    def rgb(pixels, kind):
        levels = pixels[..., ::-1].astype(kind) // kind(16)
        index = levels[..., 0] * kind(16) * kind(16) + levels[..., 1] * kind(16) + levels[..., 2]
        return cv2.calcHist([index.astype(np.float32)], [0], None, [4096], [0, 4096])

    def hsv(pixels, kind):
        hue, saturation, value = cv2.split(cv2.cvtColor(np.ascontiguousarray(pixels[..., ::-1]), cv2.COLOR_BGR2HSV))
        hue = hue.astype(kind) * kind(2)
        place = np.select([(hue > 315) | (hue <= 20), hue <= 40, hue <= 75, hue <= 155, hue <= 190, hue <= 270,
                           hue <= 295], range(7), 7)
        parts = [np.select([part <= 51, part <= 178], [0, 1], 2) for part in (saturation, value)]
        return cv2.calcHist([(9 * place + 3 * parts[0] + parts[1]).astype(np.float32)], [0], None, [72], [0, 72])

    found = {}
    for name, count in (("rgb", rgb), ("hsv", hsv)):
        for end, kind in (("", np.uint8), ("_meant", np.int32)):
            with np.errstate(over="ignore"):
                mean = np.mean([count(np.asarray(picture), kind) for picture in style], 0)
                found[f"histogram_{name}{end}"] = np.array([
                    cv2.compareHist(mean, count(np.asarray(picture), kind), cv2.HISTCMP_CORREL)
                    for picture in pictures])
    return found


# ---------------------------------------------------------------- published sizes

def make_full(network: str, tokenizer) -> dict:
    """Features of two pictures, and of two texts where the network reads texts."""
    config, found = seeded.FULL_METRICS[network], {}
    pictures = [as_picture(pixels) for pixels in seeded.pictures("full", 2, 300, 260)]
    if network == "clip_resnet":
        model = resnet(config)
        processor = transformers.CLIPProcessor(image_processor=transformers.CLIPImageProcessorPil(),
                                               tokenizer=tokenizer)
        batch = torch.stack([transforms.ToTensor()(picture) for picture in pictures])
        found["images"] = clip_iqa._clip_iqa_update("clip_iqa", batch, model, processor, 1.0, "cpu").numpy()
        found["texts"] = clip_iqa._clip_iqa_get_anchor_vectors(
            "clip_iqa", model, processor, list(seeded.WORDS[:2]), "cpu").numpy()
    elif network.startswith("clip"):
        model = pretrained(network, transformers.CLIPModel, transformers.CLIPConfig(**config))
        processor = transformers.CLIPProcessor(image_processor=transformers.CLIPImageProcessorPil(),
                                               tokenizer=tokenizer)
        out = model(**processor(text=list(seeded.WORDS[:2]), images=pictures, return_tensors="pt", padding=True))
        found = {"images": out.image_embeds.numpy(), "texts": out.text_embeds.numpy()}
    else:
        kinds = {"dino": (transformers.ViTModel, transformers.ViTConfig,
                          transformers.ViTImageProcessorPil(image_mean=MEAN, image_std=DEVIATION)),
                 "dinov2": (transformers.Dinov2Model, transformers.Dinov2Config, transformers.BitImageProcessorPil(
                     size={"shortest_edge": 256}, crop_size=224, image_mean=MEAN, image_std=DEVIATION))}
        kind, sizes, processor = kinds[network]
        states = pretrained(network, kind, sizes(**config))(
            **processor(images=pictures, return_tensors="pt")).last_hidden_state[:, 0]
        found["images"] = torch.nn.functional.normalize(states).numpy()
    return {**found, f"names/{network}": np.array("\n".join(NAMES[network]))}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("tokenizer", type=Path)
    parser.add_argument("--full", nargs=2, metavar=("OUT", "NAME"),
                        help=f"only one network of published size: {', '.join(seeded.FULL_METRICS)}")
    options = parser.parse_args()
    torch.set_grad_enabled(False)
    tokenizer = transformers.CLIPTokenizer.from_pretrained(options.tokenizer, pad_token="<|endoftext|>")
    if options.full:
        np.savez(options.full[0], **make_full(options.full[1], tokenizer))
        return
    pictures, style = ([as_picture(pixels) for pixels in seeded.pictures(name, count)]
                       for name, count in (("drawn", PICTURES), ("style", STYLE)))
    prompts = [(seeded.WORDS + ("unlisted thing",))[i % (len(seeded.WORDS) + 1)] for i in range(PICTURES)]
    found = {**make_processed(), **make_clip(tokenizer, pictures, style, prompts),
             **make_clip_iqa(tokenizer, pictures), **make_dino(pictures, style), **make_squeezenet(pictures, style),
             **make_efficientnet(pictures, style), **make_fid(pictures, style), **make_histograms(pictures, style)}
    found.update({f"names/{network}": np.array("\n".join(names)) for network, names in NAMES.items()},
                 prompts=np.array(prompts))
    np.savez_compressed(OUT, **found)
    print(f"{OUT}: {OUT.stat().st_size / 1024:.0f} KiB")


if __name__ == "__main__":
    main()
