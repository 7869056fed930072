"""Folders of networks that read and write text, as transformers saves them: weights and tokenizer."""
from __future__ import annotations

from fnmatch import fnmatchcase
from pathlib import Path
from typing import Dict, Mapping, Optional, Sequence

import numpy as np

from styleblend.adapters.pickles import read_arrays
from styleblend.errors import StyleBlendError
from styleblend.files.content import instead_of_text
from styleblend.files.hub import folder_of
from styleblend.files.shipped import own_or_shipped
from styleblend.files.tensor_files import read_names, read_safetensors
from styleblend.models.configs import read_object

WEIGHTS = ("model.safetensors", "pytorch_model.bin")
CONTENTS = "config.json, tokenizer.json and model.safetensors (or pytorch_model.bin)"
ADVICE = "Download the whole folder again"


def find(asked: Optional[str], usual: str, files: Sequence[str]) -> Optional[Path]:
    """The folder that a config asks for, by itself or a hub id; else the usual one; None where that is not there."""
    if asked is not None:
        folder = folder_of(asked, (*files, WEIGHTS[0]), CONTENTS)
        # some models of the hub have no safetensors; those that have both are not fetched twice
        return folder if (folder / WEIGHTS[0]).is_file() else folder_of(asked, (*files, *WEIGHTS), CONTENTS)
    folder = own_or_shipped(usual)
    return folder if folder.is_dir() else None


def check_kind(folder: Path, kind: str, what: str) -> Path:
    """The config.json of a folder. StyleBlendError: it is not of this kind of network (transformers' model_type)."""
    path = folder / "config.json"
    if not path.is_file():
        raise StyleBlendError(f"{path} is missing: a {what} is a folder with {CONTENTS}")
    found = read_object(path).get("model_type")
    if found != kind:
        raise StyleBlendError(f"{folder} holds no {what} (its model_type is {str(found)[:60]!r}, not {kind!r}): give "
                              "another folder")
    return path


def read_weights(folder: Path, unused: Sequence[str] = ()) -> Dict[str, np.ndarray]:
    """The weights of a folder by name, but for those whose names fit a pattern of `unused`."""
    path = weight_file(folder)

    def used(name: str) -> bool:
        return not any(fnmatchcase(name, pattern) for pattern in unused)

    if path.suffix == ".safetensors":
        return read_safetensors(path, [name for name in read_names(path) if used(name)])
    return {name: x for name, x in read_arrays(path).items() if isinstance(x, np.ndarray) and used(name)}


def weight_file(folder: Path) -> Path:
    """The file of a folder's weights. StyleBlendError: there is none."""
    path = next((folder / name for name in WEIGHTS if (folder / name).is_file()), None)
    if path is None:
        raise StyleBlendError(f"{folder} holds no {' or '.join(WEIGHTS)}: download one of them into it")
    return path


def load_weights(network, folder: Path, tied: Mapping[str, str], unused: Sequence[str]) -> None:
    """Put the weights of a folder into a network, strictly.

    `tied`: names under which a file may say again, or instead, what counts under another; `unused`: patterns of what it
    may hold besides.
    """
    found = read_weights(folder, unused)
    for name, counts in tied.items():
        if name in found:
            found.setdefault(counts, found[name])
            del found[name]
    put_weights(network, found, folder)


def put_weights(network, found: Dict[str, np.ndarray], folder: Path) -> None:
    """The same with weights of a folder that are read already."""
    from styleblend.base import weights  # starts Jittor, which is not needed to find a folder
    weights.load(network, found, str(weight_file(folder)), advice=ADVICE)


def read_tokenizer(folder: Path, vocabulary: int):
    """The tokenizer of a folder. StyleBlendError: it is not there, not whole, or knows more than `vocabulary` words."""
    from tokenizers import Tokenizer
    path = folder / "tokenizer.json"
    tokenizer = read_part(path, lambda: Tokenizer.from_file(str(path)))
    return fitting(tokenizer, path, vocabulary)


def read_roberta_tokenizer(folder: Path, vocabulary: int):
    """The same of a RoBERTa, whose folder may have vocab.json and merges.txt in place of tokenizer.json."""
    words, merges = folder / "vocab.json", folder / "merges.txt"
    if (folder / "tokenizer.json").is_file() or not words.is_file():
        return read_tokenizer(folder, vocabulary)
    from tokenizers import Tokenizer, models, pre_tokenizers, processors
    tokenizer = read_part(merges, lambda: Tokenizer(models.BPE.from_file(str(words), str(merges))))
    start, end = (tokenizer.token_to_id(name) for name in ("<s>", "</s>"))
    if start is None or end is None:
        raise StyleBlendError(f"{words} has no <s> or </s>, which begin and end a text: download it again")
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.post_processor = processors.RobertaProcessing(("</s>", end), ("<s>", start))
    return fitting(tokenizer, words, vocabulary)


def read_part(path: Path, read):
    """What `read` makes of the file `path` and those beside it. StyleBlendError: it is not there, or not whole."""
    if not path.is_file():
        raise StyleBlendError(f"{path} is missing: download it, too")
    instead = instead_of_text(path)
    if instead:
        raise StyleBlendError(f"{path} is {instead.what}: {instead.cure}")
    try:
        return read()
    except Exception as error:  # the library has no class of its own for it
        raise StyleBlendError(f"{path} cannot be read ({str(error)[:100]}): download it again") from None


def fitting(tokenizer, path: Path, vocabulary: int):
    """A tokenizer that has no more words than the network beside it."""
    if tokenizer.get_vocab_size() > vocabulary:
        raise StyleBlendError(f"{path} has {tokenizer.get_vocab_size()} words, and the network beside it {vocabulary}: "
                              "download both again")
    tokenizer.no_padding()
    return tokenizer
