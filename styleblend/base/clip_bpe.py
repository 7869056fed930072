"""CLIP's byte pair encoding (Radford et al. 2021, section 2.4) from the tokenizer folder of a base.

The library `tokenizers` does the work. What is said here is how CLIP has it do that, as the CLIPTokenizer of
transformers does, which builds on the same library and takes two seconds longer to start.
"""
from __future__ import annotations

import re
from pathlib import Path
from typing import Dict, List, Sequence, Tuple

from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors

from styleblend.models.configs import read_object

VOCABULARY, MERGES, CONFIG, SPECIAL = "vocab.json", "merges.txt", "tokenizer_config.json", "special_tokens_map.json"
START, END = "<|startoftext|>", "<|endoftext|>"
DEFAULTS = {"bos_token": START, "eos_token": END, "unk_token": END, "pad_token": END}
END_OF_WORD = "</w>"
# a contraction, a run of letters, one digit, or a run of other signs
WORD = "|".join([re.escape(START), re.escape(END), "'s", "'t", "'re", "'ve", "'m", "'ll", "'d", r"[\p{L}]+", r"[\p{N}]",
                 r"[^\s\p{L}\p{N}]+"])


class ClipBPE:
    """Text to ids and back.

    `start`, `end` and `pad` are the words for the begin and end of a text, and for what stands behind it (None: the
    folder has none). They are found in texts as well. Raises what the library does where the folder cannot be read.
    """

    def __init__(self, folder: Path):
        config, special = read_tokens(folder)
        self.start, self.end = special["bos_token"].content, special["eos_token"].content
        self.pad = special["pad_token"].content if "pad_token" in special else None
        vocabulary, merges = models.BPE.read_file(str(folder / VOCABULARY), str(folder / MERGES))
        self.tokenizer = Tokenizer(models.BPE(
            vocabulary, merges, continuing_subword_prefix="", end_of_word_suffix=END_OF_WORD, fuse_unk=False,
            unk_token=special["unk_token"].content))
        self.tokenizer.normalizer = normalizers.Sequence(
            [normalizers.NFC(), normalizers.Replace(Regex(r"\s+"), " "), normalizers.Lowercase()])
        self.tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
            [pre_tokenizers.Split(Regex(WORD), behavior="removed", invert=True),
             pre_tokenizers.ByteLevel(add_prefix_space=False)])
        self.tokenizer.decoder = decoders.ByteLevel()
        self.tokenizer.add_tokens(added_tokens(folder, config))
        self.tokenizer.add_special_tokens(list(special.values()))
        self.start_id, self.end_id = self.id_of_token(self.start), self.id_of_token(self.end)
        self.tokenizer.post_processor = processors.RobertaProcessing(
            (self.end, self.end_id), (self.start, self.start_id), trim_offsets=False, add_prefix_space=False)

    def __len__(self) -> int:
        """How many ids there are, with those of words that were added."""
        return self.tokenizer.get_vocab_size()

    def id_of_token(self, token: str) -> int | None:
        """The id of a token as the vocabulary writes it; None: there is none."""
        return self.tokenizer.token_to_id(token)

    def add(self, word: str) -> None:
        """Let a word be a token of its own, with the next id, wherever it stands and in whatever case."""
        self.tokenizer.add_tokens([word])

    def ids(self, text: str, ends: bool = True) -> List[int]:
        """The ids of a text, with start and end (`ends`)."""
        return self.tokenizer.encode(text, add_special_tokens=ends).ids

    def text(self, ids: Sequence[int]) -> str:
        """What ids say, start and end with them."""
        return self.tokenizer.decode(list(ids), skip_special_tokens=False).replace(END_OF_WORD, " ").strip()


def read_tokens(folder: Path) -> Tuple[dict, Dict[str, AddedToken]]:
    """The config of a tokenizer, and its special tokens by name. Those in a file of their own go before those in the
    config, unless that has all added tokens, as transformers writes it since version 4.34."""
    config, said = (read_object(folder / name) if (folder / name).is_file() else {} for name in (CONFIG, SPECIAL))
    said = {**said, **config} if "added_tokens_decoder" in config else {**config, **said}
    words = {name: said.get(name, word) for name, word in DEFAULTS.items()}
    return config, {name: as_token(word) for name, word in words.items() if word is not None}


def as_token(said: str | dict) -> AddedToken:
    """A special token as a file writes it: a word, or a word with how it is looked for."""
    if isinstance(said, str):
        return AddedToken(said, normalized=False, special=True)
    how: Dict[str, bool] = {key: bool(said.get(key, False)) for key in ("single_word", "lstrip", "rstrip")}
    return AddedToken(said["content"], normalized=bool(said.get("normalized", True)), special=True, **how)


def added_tokens(folder: Path, config: dict) -> List[AddedToken]:
    """The words that somebody added to the vocabulary, in the order of their ids."""
    words = {int(number): as_token(said) for number, said in config.get("added_tokens_decoder", {}).items()}
    path = folder / "added_tokens.json"
    for word, number in (read_object(path) if path.is_file() else {}).items():
        words.setdefault(int(number), AddedToken(word))
    return [words[number] for number in sorted(words)]
