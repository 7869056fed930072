"""Folders of a small BLIP and a small T5 with made-up weights and tokenizers of 60 words."""
from __future__ import annotations

from pathlib import Path

from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors

from test_language_parity import REFERENCE, write_folder

WORDS = 60


def blip_folder(folder: Path) -> Path:
    """As transformers saves it. BERT's way to write words: `##` goes on with the one before."""
    names = ["[PAD]", "[UNK]", "a", "##s", "."] + [f"word{number}" for number in range(5, WORDS)]
    tokenizer = Tokenizer(models.WordPiece({name: number for number, name in enumerate(names)}, unk_token="[UNK]"))
    tokenizer.normalizer, tokenizer.pre_tokenizer = normalizers.BertNormalizer(), pre_tokenizers.BertPreTokenizer()
    tokenizer.decoder = decoders.WordPiece()
    tokenizer.save(str(write_folder(folder, "blip", REFERENCE) / "tokenizer.json"))
    return folder


def t5_folder(folder: Path) -> Path:
    """As transformers saves it, with pieces that begin a word or go on with one, and an end behind each text."""
    pieces = ["<pad>", "</s>", "<unk>", "\u2581", "s", "."] + [f"\u2581word{number}" for number in range(6, WORDS)]
    tokenizer = Tokenizer(models.Unigram([(piece, -float(number)) for number, piece in enumerate(pieces)], unk_id=2))
    tokenizer.pre_tokenizer, tokenizer.decoder = pre_tokenizers.Metaspace(), decoders.Metaspace()
    tokenizer.add_special_tokens(["<pad>", "</s>", "<unk>"])
    tokenizer.post_processor = processors.TemplateProcessing("$A </s>", special_tokens=[("</s>", 1)])
    tokenizer.save(str(write_folder(folder, "t5", REFERENCE) / "tokenizer.json"))
    return folder
