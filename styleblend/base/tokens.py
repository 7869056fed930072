"""Text to token ids, and placeholder tokens such as <C> and <F> whose embeddings are the only new parameters."""
from __future__ import annotations

import math
import unicodedata
import warnings
from pathlib import Path
from typing import List, Sequence, Tuple

import numpy as np

from styleblend.base.clip_bpe import ClipBPE
from styleblend.errors import StyleBlendError
from styleblend.files.content import instead_of_text
from styleblend.files.emphasis import Chunk, escaped, parsed, shortened, spoken, written
from styleblend.models.configs import read_object


def is_cjk(character: str) -> bool:
    code = ord(character)
    return (0x3400 <= code <= 0x4DBF or 0x4E00 <= code <= 0x9FFF or 0xF900 <= code <= 0xFAFF
            or 0x20000 <= code <= 0x2CEAF or 0x2F800 <= code <= 0x2FA1F)


def normalise(text: str) -> str:
    """The text as the published pipelines saw it: NFC, no control characters, every CJK ideograph a word of its own.

    The library keeps runs of ideographs together and gives other ids, so this is done here.
    """
    kept = []
    for c in unicodedata.normalize("NFC", text):
        if c in "\t\n\r" or unicodedata.category(c) == "Zs":
            kept.append(" ")
        elif c in "\0\ufffd" or unicodedata.category(c).startswith("C"):
            continue
        else:
            kept.append(f" {c} " if is_cjk(c) else c)
    return "".join(kept)


class Tokenizer:
    """The CLIP tokenizer of a base.

    `placeholders` become the ids from `vocabulary` on, in their order: one each, or as many as `spread` says.
    """

    length = 77

    def __init__(self, folder: Path, placeholders: Sequence[str] = ()):
        folder = Path(folder)
        for name in ("vocab.json", "merges.txt"):
            if not (folder / name).is_file():
                raise StyleBlendError(f"{folder / name} is missing: copy the base's whole tokenizer folder")
            instead = instead_of_text(folder / name)
            if instead:
                raise StyleBlendError(f"{folder / name} is {instead.what}: {instead.cure}")
        try:
            self.bpe = ClipBPE(folder)
        except StyleBlendError:
            raise
        except Exception as error:  # the library has no other name for what is wrong with a file
            why = (str(error).splitlines() or [type(error).__name__])[0][:150]
            raise StyleBlendError(f"the tokenizer in {folder} cannot be read ({why}): copy it again") from None
        self.vocabulary = len(self.bpe)
        self.pad = self.read_pad(folder)
        self.placeholders: List[str] = []
        self.vectors: List[int] = []  # of each placeholder
        for token in placeholders:
            self.add(token)

    def read_pad(self, folder: Path) -> int:
        """SD 2.x pads with "!" (id 0), which only special_tokens_map.json says.

        Padding with the end token draws other pictures.
        """
        path = folder / "special_tokens_map.json"
        token = read_object(path).get("pad_token") if path.is_file() else self.bpe.pad
        token = token.get("content") if isinstance(token, dict) else token
        if token is not None and not isinstance(token, str):
            raise StyleBlendError(f"{path}: pad_token is no text: copy the base's whole tokenizer folder")
        number = self.bpe.id_of_token(token) if token is not None else 0
        return self.bpe.end_id if number is None else number

    def add(self, token: str) -> int:
        """A new placeholder token; its id.

        Refused when the tokenizer knows the word already, or would not find it in a text.
        """
        if self.bpe.id_of_token(token) is not None:
            raise StyleBlendError(f"the tokenizer already knows the token {token}: choose another placeholder")
        self.bpe.add(token)
        self.placeholders.append(token)
        self.vectors.append(1)
        for number, own in enumerate(self.placeholders, self.vocabulary):  # <c> is found as <C>, the empty word nowhere
            if len(own.split()) != 1 or self.words(own)[1:-1] != [number]:
                raise StyleBlendError(f"{token!r} cannot be a placeholder beside {self.placeholders[:-1]}: take one "
                                      "word that no text holds, such as <C>")
        return self.vocabulary + len(self.placeholders) - 1

    def id_of(self, word: str) -> int:
        """The id of a word that is a single token, for instance to start a placeholder from."""
        ids = self.bpe.ids(word, ends=False)
        if len(ids) != 1:
            raise StyleBlendError(f"{word!r} is {len(ids)} tokens; a placeholder starts from a word that is one token")
        return ids[0]

    def ids_of(self, words: str) -> List[int]:
        """The ids of one or more words, to start a placeholder of as many vectors from."""
        ids = self.words(words)[1:-1]
        if not ids or max(ids) >= self.vocabulary:
            raise StyleBlendError(f"a placeholder cannot start from {words!r}: take words that the base knows, such as "
                                  "'flat' or 'black and white'")
        return ids

    def spread(self, vectors: Sequence[int]) -> None:
        """Let each placeholder stand for so many ids in a row, as an embedding of several vectors needs them."""
        self.vectors = list(vectors)

    def first_ids(self) -> List[int]:
        """The first id of each placeholder, and the one after the last."""
        return np.cumsum([self.vocabulary, *self.vectors]).tolist()

    def text(self, ids: Sequence[int]) -> str:
        """What these ids of a text say."""
        first = self.first_ids()
        return self.bpe.text([i if i < self.vocabulary else
                              self.vocabulary + int(np.searchsorted(first, i, side="right")) - 1 for i in ids])

    def words(self, text: str) -> List[int]:
        """All ids of a text with start and end, one for each placeholder."""
        return self.bpe.ids(normalise(text))

    def ids(self, text: str) -> List[int]:
        """All ids of a text with start and end, not cut, not padded: those that the text encoder reads."""
        first, found = self.first_ids(), []
        for i in self.words(text):
            found += [i] if i < self.vocabulary else range(first[i - self.vocabulary], first[i - self.vocabulary + 1])
        return found

    def refuse_reserved(self, prompts: Sequence[str]) -> None:
        """StyleBlendError for a prompt that holds a placeholder, also as <c>, or a word that begins or ends a text."""
        reserved = {self.bpe.start_id: self.bpe.start, self.bpe.end_id: self.bpe.end,
                    **dict(enumerate(self.placeholders, self.vocabulary))}
        for prompt in prompts:
            texts = [prompt, *(fragment.text for chunk in parsed(prompt) for fragment in chunk)]
            found = [reserved[i] for text in texts for i in self.words(text)[1:-1] if i in reserved]
            if found:
                raise StyleBlendError(f"the prompt {prompt[:80]!r} holds {found[0]}, which is put in where it belongs: "
                                      "leave it out")

    def fitted(self, template: str, prompt: str) -> str:
        """`template` with `prompt`, which may have signs (`files.emphasis`), in the place of its first {prompt}.

        All other braces are text. Of a prompt that is too long the last words are left out, with a warning, and not the
        style behind it. Each of the texts between two BREAK gets the whole template.
        """
        return " BREAK ".join(self.fitted_chunk(template, chunk) for chunk in parsed(prompt))

    def fitted_caption(self, template: str, caption: str) -> str:
        """The same of a caption, whose brackets are text, and so are those of the template: for `encode`."""
        return spoken(self.fitted(escaped(template), escaped(caption)))

    def fitted_chunk(self, template: str, chunk: Chunk) -> str:
        phrase = "".join(fragment.text for fragment in chunk)

        def filled(characters: int) -> str:
            return template.replace("{prompt}", written(shortened(chunk, characters)).rstrip(), 1)

        def fits(characters: int) -> bool:
            return len(self.ids_and_weights(parsed(filled(characters))[0])[0]) <= self.length

        if fits(len(phrase)):
            return template.replace("{prompt}", written(chunk), 1)
        low, high = 0, len(phrase)
        while high - low > 1:
            middle = (low + high) // 2
            low, high = (middle, high) if fits(middle) else (low, middle)
        kept = phrase[:low]
        if " " in kept and phrase[low:low + 1] != " ":
            kept = kept.rsplit(" ", 1)[0]
        if phrase.strip() and not kept.strip():
            raise StyleBlendError(f"there is no room for the prompt {phrase[:80]!r}: shorten what stands around it, "
                                  f"{template[:200]!r}")
        warnings.warn(f"the prompt has {len(self.ids(phrase)) - 2} tokens, more than the text encoder reads; "
                      f"this is left out: {phrase[len(kept):].strip()[:200]!r}", stacklevel=2)
        return filled(len(kept.rstrip()))

    def ids_and_weights(self, chunk: Chunk) -> Tuple[List[int], List[float]]:
        """All ids of a chunk with start and end, and the weight of each. The words of a fragment are read alone."""
        ids, weights = self.ids(""), [1.0, 1.0]
        for text, weight in chunk:
            own = self.ids(text)[1:-1]
            ids[-1:-1] = own
            weights[-1:-1] = [weight] * len(own)
        return ids, weights

    def read(self, prompts: Sequence[str]) -> Tuple[np.ndarray, np.ndarray]:
        """Ids and weights, (N, chunks, 77) each, of prompts with signs. A longer text is cut, with a warning.

        One of fewer chunks than the others has them several times: to attention that is the same as once, so a picture
        does not depend on those that are drawn beside it.
        """
        chunks = [[self.ids_and_weights(chunk) for chunk in parsed(prompt)] for prompt in prompts]
        count = math.lcm(*map(len, chunks))
        ids = np.stack([np.tile(self.rows([ids for ids, _ in own]), (count // len(own), 1))
                        for own in chunks])
        weights = np.ones(ids.shape, np.float32)
        for row, own in zip(weights, chunks):
            for place in range(count):
                some = own[place % len(own)][1][:self.length]
                row[place, :len(some)] = some
        return ids, weights

    def encode(self, texts: Sequence[str]) -> np.ndarray:
        """(N, 77) int32 of texts without signs. A longer text is cut, with a warning that names what is lost."""
        return self.rows([self.ids(text) for text in texts])

    def rows(self, texts: Sequence[List[int]]) -> np.ndarray:
        """(N, 77) int32 of ids with start and end, cut and padded."""
        rows = np.full((len(texts), self.length), self.pad, np.int32)
        for row, ids in zip(rows, texts):
            if len(ids) > self.length:
                lost = self.text(ids[self.length - 1:-1])
                warnings.warn(f"the prompt has {len(ids)} tokens and the text encoder reads {self.length}; "
                              f"this is left out: {lost!r}", stacklevel=3)
                ids = ids[:self.length - 1] + ids[-1:]
            row[:len(ids)] = ids
        return rows
