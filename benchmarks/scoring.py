"""Score a board of pictures as `styleblend eval --metrics clip,dinov2,lpips` does.

It says the seconds for each picture, and the memory as the styles go by. Noise instead of pictures, and random weights
of the real sizes (CLIP ViT-L/14, DINOv2-B, SqueezeNet): neither changes the work.
"""
import argparse
import json
import tempfile
import time
from dataclasses import asdict
from pathlib import Path

import numpy as np
from PIL import Image

from styleblend.cli.options import HelpFormatter
from styleblend.models.configs import ClipTextConfig, ClipVisionConfig, Dinov2Config
from styleblend.metrics.judge import Judge
from styleblend.metrics import load_metrics
from styleblend.metrics.networks import SOURCES
from styleblend.models.clip_text import CLIPTextModelWithProjection
from styleblend.models.clip_vision import CLIPVisionModelWithProjection
from styleblend.models.dino import DinoModel
from styleblend.models.squeezenet import LPIPSHeads, SqueezeNet
from styleblend.jobs.events import result_of
from styleblend.jobs.scoring import score_run
from styleblend.files.tensor_files import write_safetensors

ROOT = Path(__file__).parents[1]
CLIP_TEXT = ClipTextConfig(hidden_size=768, intermediate_size=3072, num_hidden_layers=12, num_attention_heads=12,
                           hidden_act="quick_gelu")


def put(folder: Path, need: str, networks: list, **config) -> None:
    """Random weights of these networks as one file, where the metrics look for it."""
    rng, place = np.random.default_rng(0), folder / SOURCES[need][0]
    tensors = {name: (rng.standard_normal(tuple(var.shape))
                      / max(1, int(np.prod(var.shape[1:]))) ** 0.5).astype(np.float32)
               for network in networks for name, var in network.state_dict().items()}
    write_safetensors(place / "model.safetensors", tensors)
    (place / "config.json").write_text(json.dumps(config))
    for name in ("vocab.json", "merges.txt"):
        (place / name).write_bytes((ROOT / "checkpoints" / "mini" / "base" / "tokenizer" / name).read_bytes())


def put_all(folder: Path) -> None:
    put(folder, "clip", [CLIPVisionModelWithProjection(ClipVisionConfig(), 768),
                         CLIPTextModelWithProjection(CLIP_TEXT, 768)], projection_dim=768,
        vision_config={"model_type": "clip_vision_model", **asdict(ClipVisionConfig())},
        text_config=asdict(CLIP_TEXT))
    put(folder, "dinov2", [DinoModel(Dinov2Config())], **asdict(Dinov2Config()))
    put(folder, "squeezenet", [SqueezeNet()])
    put(folder, "lpips", [LPIPSHeads()])


def draw(path: Path, size: int, seed: int) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.random.default_rng(seed).integers(0, 256, (size, size, 3), np.uint8)).save(
        path, compress_level=1)


def megabytes(what: str) -> int:
    """VmRSS (now) or VmHWM (the most so far) of this process."""
    return next(int(line.split()[1]) // 1024 for line in Path("/proc/self/status").read_text().splitlines()
                if line.startswith(what))


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=HelpFormatter)
    parser.add_argument("--styles", type=int, default=28,
                        help="styles of the board, 25 pictures and 4 style pictures each")
    parser.add_argument("--size", type=int, default=512, help="pixels of a side")
    parser.add_argument("--metrics", default="clip,dinov2,lpips")
    parser.add_argument("--json", type=Path, help="file for the figures")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        world = Path(folder)
        put_all(world / "weights")
        metrics, missing = load_metrics(world / "weights", args.metrics.split(","))
        if missing:
            raise SystemExit("\n".join(missing))
        memory, seconds = [], []
        for number in range(args.styles):
            name = f"{number:02}"
            for i in range(25):
                draw(world / "result" / name / f"Thing {i}.png", args.size, 100 * number + i)
            for i in range(4):
                draw(world / "data" / name / "images" / f"Model {i}.png", args.size, 100 * number + 50 + i)
            begin = time.perf_counter()
            run = result_of(score_run(world / "result", world / "data", [name], Judge.load(), metrics))
            seconds.append(time.perf_counter() - begin)
            memory.append(megabytes("VmRSS"))
            assert len(run.pictures[name]) == 25
    result = {"pictures": 25 * args.styles, "seconds": sum(seconds),
              "seconds_a_picture": float(np.median(seconds)) / 25, "first_style_s": seconds[0], "rss_mib": memory,
              "peak_mib": megabytes("VmHWM")}
    print(f"{result['pictures']} pictures in {result['seconds']:.0f} s, {result['seconds_a_picture']:.2f} s each "
          f"(median of the styles; the first style took {seconds[0]:.0f} s with compiling); memory after the second "
          f"style {memory[min(1, len(memory) - 1)]} MiB, at the end {memory[-1]} MiB, peak {result['peak_mib']} MiB")
    if args.json:
        args.json.write_text(json.dumps(result, indent=1) + "\n")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
