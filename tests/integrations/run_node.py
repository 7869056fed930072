"""Runs a node of integrations/comfyui as ComfyUI does, in a Python with PyTorch: `run_node.py ASKED.json FOLDER`.

ASKED has the node's name and inputs, and files of reference pictures. FOLDER gets images.npy and answer.json: the
records, or the error in words, and what each node takes.
"""
import importlib.util
import inspect
import json
import sys
from pathlib import Path

import numpy as np
import torch
from PIL import Image

NODES = Path(__file__).parents[2] / "integrations" / "comfyui"


def load_nodes():
    """The package by its folder, whose name is no module's."""
    spec = importlib.util.spec_from_file_location(str(NODES), NODES / "__init__.py")
    module = importlib.util.module_from_spec(spec)
    sys.modules[str(NODES)] = module
    spec.loader.exec_module(module)
    return module


def taken(node) -> dict:
    """The inputs of a node, and the parameters of its function."""
    groups = node.INPUT_TYPES()
    function = inspect.signature(getattr(node, node.FUNCTION))
    return {"inputs": {name: group for group, named in groups.items() for name in named},
            "parameters": {name: one.kind.name for name, one in function.parameters.items() if name != "self"}}


def main(asked: dict, folder: Path) -> None:
    module = load_nodes()
    answer = {"nodes": {name: taken(node) for name, node in module.NODE_CLASS_MAPPINGS.items()},
              "titles": module.NODE_DISPLAY_NAME_MAPPINGS}
    if asked:
        node, inputs = module.NODE_CLASS_MAPPINGS[asked["node"]], dict(asked["inputs"])
        if asked.get("references"):
            inputs["reference"] = torch.from_numpy(np.stack([
                np.asarray(Image.open(file).convert("RGB"), np.float32) / 255 for file in asked["references"]]))
        try:
            images, records = getattr(node(), node.FUNCTION)(**inputs)
            answer["records"] = records.splitlines()
            np.save(folder / "images.npy", images.numpy())
        except Exception as error:  # what ComfyUI shows at the node
            answer["error"] = f"{type(error).__name__}: {error}"
    (folder / "answer.json").write_text(json.dumps(answer))


if __name__ == "__main__":
    main(json.loads(Path(sys.argv[1]).read_text()), Path(sys.argv[2]))
