"""A prompt of other media: each is turned into words, the words are merged, and where each came from is kept."""
from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, List, Optional, Tuple, Union

from styleblend.context.events import Found, Reading, Remark
from styleblend.context.merge import ROOM, fitted, merged, suffixes, tidy, with_look
from styleblend.context.weather_services import Services
from styleblend.errors import StyleBlendError
from styleblend.files.emphasis import escaped
from styleblend.files.shipped import own_or_shipped
from styleblend.files.text import read_json
from styleblend.settings import RunSettings, Source, read_settings, validated

MINI = "mini"
SHAPE = "it should be what `styleblend context --json` prints"


@dataclass(frozen=True)
class Context:
    """A prompt, ready to be drawn (brackets of its texts are escaped), and where its parts come from."""

    prompt: str
    sources: Tuple[Source, ...]

    def json(self) -> str:
        return json.dumps({"prompt": self.prompt, "sources": [one.model_dump() for one in self.sources]}, indent=1,
                          ensure_ascii=False)


@dataclass(frozen=True)
class Media:
    """What a prompt is made of; what is None is left out.

    `image`, `speech`, `music`: files. `weather`: words, a place, or a saved answer. `look`: words. `summary`: T5 makes
    one sentence of caption and speech, where its weights are. `language` and `model` of the speech. `music_model`: a
    CLAP's folder or hub id, or musicnn. `moods`: a list in place of the program's.
    """

    image: Optional[Path] = None
    speech: Optional[Path] = None
    music: Optional[Path] = None
    weather: Optional[str] = None
    look: Optional[str] = None
    summary: bool = False
    language: Optional[str] = None
    model: Optional[str] = None
    music_model: Optional[str] = None
    moods: Optional[Path] = None
    services: Services = field(default_factory=Services)

    def refuse_unused(self) -> None:
        """StyleBlendError for no medium at all, and for a setting that would have no effect."""
        if all(one is None for one in (self.image, self.speech, self.music, self.weather)):
            raise StyleBlendError("there is nothing to make a prompt of: give --image, --speech, --music or --weather")
        for option, value, needs in (("--language", self.language, "speech"), ("--speech-model", self.model, "speech"),
                                     ("--moods", self.moods, "music"), ("--music-model", self.music_model, "music")):
            if value is not None and getattr(self, needs) is None:
                raise StyleBlendError(f"{option} has no effect without --{needs}: leave it out, or give both")
        if self.summary and self.image is None and self.speech is None:
            raise StyleBlendError("--summary has no effect without --image or --speech: leave it out")


def describe(image: Union[None, str, Path] = None, speech: Union[None, str, Path] = None,
             music: Union[None, str, Path] = None, weather: Optional[str] = None, *,
             settings: Optional[RunSettings] = None, **more: Any) -> Context:
    """The prompt of these media; `more`: other fields of `Media`, such as look="watercolor".

    `settings`: a config, default: mini's. StyleBlendError: none of them says anything, or one cannot be read.
    """
    media = Media(*(None if path is None else Path(path) for path in (image, speech, music)), weather, **more)
    return result_of(made_of(media, settings or read_settings(MINI)))


def result_of(reading: Reading[Found]) -> Found:
    """Run a reader to its end; what it found."""
    while True:
        try:
            next(reading)
        except StopIteration as end:
            return end.value


def made_of(media: Media, settings: RunSettings) -> Reading[Context]:
    """The prompt of these media, step by step."""
    media.refuse_unused()
    sources: List[Source] = []
    # what fails at once comes first, then what takes long
    weather = weather_in(media, sources)
    caption = yield from seen(media, settings, sources)
    spoken = yield from heard(media, settings, sources)
    mood = yield from felt(media, settings, sources)
    if not any((caption, spoken, mood, weather)):
        raise StyleBlendError("none of this says anything to draw: give --prompt, or other files")
    body = (yield from shortened(caption, spoken, settings)) if media.summary else None
    body, behind = with_look(body or merged(caption, spoken), media.look), suffixes(mood, weather)
    if media.look:
        sources.append(Source(kind="look", given=media.look[:4096], text=tidy(media.look)[:20_000],
                              source="typed by hand"))
    cut = fitted(body, behind, lambda text: tokens_in(text, settings))
    if cut.lost:
        yield Remark(f"the prompt has more than {ROOM} tokens, left out: {shown(cut.lost)}")
    return Context(escaped(cut.prompt), tuple(sorted(sources, key=lambda one: ORDER.index(one.kind))))


ORDER = ("image", "speech", "look", "music", "weather")


def shown(text: str, length: int = 80) -> str:
    return text if len(text) <= length else f"{text[:length]}..."


def seen(media: Media, settings: RunSettings, sources: List[Source]) -> Reading[str]:
    """The picture's caption, or ""."""
    if media.image is None:
        return ""
    from styleblend.context.picture import describe_picture
    found = describe_picture(media.image, settings)
    if not found.text:
        yield Remark(f"{media.image} says nothing: {found.source}")
        return ""
    sure = "" if found.confidence is None else f", {found.confidence:.0%} sure"
    sources.append(Source(kind="image", given=str(media.image), text=found.text, source=found.source + sure))
    return found.text


def heard(media: Media, settings: RunSettings, sources: List[Source]) -> Reading[str]:
    """What is said in the recording, or ""."""
    if media.speech is None:
        return ""
    from styleblend.context.speech import LONGEST, Listener, find_model
    model = find_model(media.model or settings.context.speech)
    if model.fallback:
        yield Remark(model.fallback)
    with Listener(model) as listener:
        speech = yield from listener.hear(media.speech, media.language)
    if not speech.text:
        yield Remark(f"{media.speech}: heard nothing")
        return ""
    if speech.length > speech.seconds + 1:
        yield Remark(f"{media.speech}: heard the first {LONGEST / 60:.0f} of {speech.length / 60:.0f} minutes")
    sources.append(Source(kind="speech", given=str(media.speech), text=speech.text[:20_000],
                          source=f"Whisper {model.name}, language {speech.language}"))
    return speech.text


def felt(media: Media, settings: RunSettings, sources: List[Source]) -> Reading[str]:
    """The strongest mood of the music, or ""."""
    if media.music is None:
        return ""
    from styleblend.context.music import find_clap, hear_music
    moods = media.moods or settings.context.moods
    clap = find_clap(media.music_model or settings.context.music)
    music = yield from hear_music(media.music, moods and Path(moods), clap)
    if not music.moods:
        yield Remark(f"{media.music}: " + ("heard nothing" if music.silent else "no mood of the list is strong enough"))
        return ""
    told = ", ".join(f"{mood.words} {mood.score:.{2 if clap else 1}f}{f' ({mood.why})' if mood.why else ''}"
                     for mood in music.moods)
    sources.append(Source(kind="music", given=str(media.music), text=music.moods[0].words,
                          source=f"{shown(music.heard_by)}: {told}"))
    return music.moods[0].words


def weather_in(media: Media, sources: List[Source]) -> str:
    """The words of the weather, or ""."""
    if media.weather is None:
        return ""
    from styleblend.context.weather import weather_of
    found = weather_of(media.weather, media.services)
    sources.append(Source(kind="weather", given=media.weather[:4096], text=found.words, source=found.source))
    return found.words


def shortened(caption: str, spoken: str, settings: RunSettings) -> Reading[Optional[str]]:
    """Caption and speech as one sentence of T5; None, and a sentence, where it is not there."""
    from styleblend.context.rewrite import summarise
    sentences = [text for text in (caption, spoken) if text]
    if not sentences:
        return None
    made = summarise(sentences, settings)
    if not made.text:
        yield Remark(f"the sentences are merged by rule: {made.source}")
        return None
    yield Remark(f"the sentences are merged by {made.source}")
    return tidy(made.text)


def tokens_in(text: str, settings: RunSettings) -> int:
    """At least as many tokens as the text encoder of Stable Diffusion 2 reads, with start and end."""
    if len("".join(text.split())) + 2 <= ROOM:
        return ROOM  # none is shorter than a letter: it fits, and the tokenizer need not be loaded
    from styleblend.base.tokens import Tokenizer
    folder = next(place for place in (Path(settings.base), own_or_shipped("checkpoints/mini/base"))
                  if (place / "tokenizer").is_dir())
    return len(Tokenizer(folder / "tokenizer").words(text))


# ---------------------------------------------------------------- a context in a file

def read_context(path: Path) -> Context:
    """A context that was printed as JSON. StyleBlendError where a file is something else."""
    said = read_json(path, SHAPE)
    prompt, listed = (said.get("prompt"), said.get("sources")) if isinstance(said, dict) else (None, None)
    if not isinstance(prompt, str) or not prompt.strip() or not isinstance(listed, list) or set(said) != {"prompt",
                                                                                                         "sources"}:
        raise StyleBlendError(f"{path} holds no prompt with its sources: {SHAPE}")
    return Context(prompt, tuple(validated(Source, one, str(path)) for one in listed))
