"""Split the safetensors of OUT/base, as fp16, into parts under --max-mib: some transfers limit the size of a file.

    python tools/mini_base/pack.py --out OUT [--max-mib 15]

OUT/parts/parts.json says which file each part belongs to.
"""
import argparse, json, pathlib

from safetensors.torch import load_file, save_file


def pack(out, max_mib):
    parts, folder = {}, out / "parts"
    folder.mkdir(exist_ok=True)
    for whole in sorted((out / "base").rglob("*.safetensors")):
        for k, part in enumerate(split(load_file(whole), max_mib * 2**20)):
            name = f"{whole.parent.name}-{k}.safetensors"
            save_file(part, folder / name)
            parts[name] = str(whole.relative_to(out))
    (folder / "parts.json").write_text(json.dumps(parts, indent=1))


def split(tensors, limit):
    """The tensors as fp16, as many a part as `limit` bytes allow."""
    part, size = {}, 0
    for name, tensor in tensors.items():
        if part and size + tensor.numel() * 2 > limit:
            yield part
            part, size = {}, 0
        part[name] = tensor.half().contiguous()
        size += tensor.numel() * 2
    yield part


if __name__ == "__main__":
    ap = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    ap.add_argument("--out", type=pathlib.Path, required=True)
    ap.add_argument("--max-mib", type=float, default=15)
    args = ap.parse_args()
    pack(args.out, args.max_mib)
