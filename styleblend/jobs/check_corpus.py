"""What is in a corpus, and what is wrong with it."""
from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Dict, List

from styleblend.base.style_prompts import with_style_tokens
from styleblend.base.tokens import Tokenizer
from styleblend.files.base_folder import find_base
from styleblend.files.corpus import read_corpus
from styleblend.jobs.events import Job, Progress
from styleblend.settings import RunSettings
from styleblend.training.corpus_cache import refuse_reserved, styled

SHOWN = 10  # lines of each kind
READ = 1000  # captions at once


@dataclass(frozen=True)
class CorpusReport:
    """Counts of pictures, by style too, and of captions that are cut or leave too little room for tokens."""

    pictures: int
    styles: Dict[str, int]
    left_out: List[str]
    cut: int
    clamped: int

    def lines(self) -> List[str]:
        """The report as it is printed."""
        few = list(self.styles.items())
        found = [f"{self.pictures} pictures that can be read, in {len(self.styles)} styles"]
        found += [f"  {name or '(no style)'}: {count}" for name, count in few[:SHOWN]]
        found += [f"  and {len(few) - SHOWN} more styles"] * (len(few) > SHOWN)
        found += [f"{self.cut} captions have more than 77 tokens and are cut; {self.clamped} leave too little room for "
                  "8 style tokens, which then stand where they just fit"]
        found += [f"{len(self.left_out)} entries are left out" + ":" * bool(self.left_out)]
        found += [f"  {sentence}" for sentence in self.left_out[:SHOWN]]
        return found + [f"  and {len(self.left_out) - SHOWN} more"] * (len(self.left_out) > SHOWN)


def check_corpus(settings: RunSettings, folder: Path) -> Job[CorpusReport]:
    """Read every picture to its end, and every caption by the tokenizer of the config's base."""
    corpus = read_corpus(folder, whole=True, max_pixels=settings.pictures.max_pixels)
    tokenizer = Tokenizer(find_base(settings.base, settings.base_id) / "tokenizer")
    template, cut, clamped = settings.encoder_training.network.template, 0, 0
    for begin in range(0, len(corpus.entries), READ):
        yield Progress("captions", begin, len(corpus.entries), "caption")
        entries = corpus.entries[begin:begin + READ]
        refuse_reserved(tokenizer, entries, template)
        texts = [tokenizer.ids(styled(entry.caption, template)) for entry in entries]
        cut += sum(len(ids) > tokenizer.length for ids in texts)
        texts = [ids if len(ids) <= tokenizer.length else ids[:tokenizer.length - 1] + ids[-1:] for ids in texts]
        clamped += int(with_style_tokens(tokenizer, tokenizer.rows(texts))[1].sum())
    yield Progress("captions", len(corpus.entries), len(corpus.entries), "caption")
    return CorpusReport(len(corpus.entries), corpus.styles(), corpus.left_out, cut, clamped)
