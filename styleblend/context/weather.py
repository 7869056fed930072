"""The weather of a prompt: typed by hand, in a saved answer of a service, or of a place now."""
from __future__ import annotations

import hashlib
import json
import os
import re
import time
from pathlib import Path
from typing import NamedTuple, Optional

from styleblend.context.weather_services import KEY, OFFLINE, Reported, Services, is_plain, reported
from styleblend.errors import StyleBlendError
from styleblend.files.caches import cache_folder
from styleblend.files.text import parse_json, read_json, read_text
from styleblend.files.whole_files import write_bytes

FRESH = 600.0  # seconds that an answer is kept: services measure no oftener
TYPED = "text:"  # before words that would be taken for a place
# A text of these words alone is the weather itself; anything else is a place.
WORDS = frozenset("""a an and at bit blizzard bright broken clear cloud clouds cloudy cold cool dawn day drizzle
drizzly dry dusk dusty evening few fog foggy freezing frost frosty gale gentle golden grey gusty hail haze hazy heat
heavy hot humid ice icy in intensity light low mild mist misty moderate moonlit morning mostly night no of overcast
partly rain rainbow rainy scattered shower showers sky sleet sleety slightly smoke snow snowfall snowing snowstorm
snowy some storm storms stormy strong sun sunlight sunny sunrise sunset sunshine the thick thin thunder thunderstorm
thunderstorms thundery tornado very warm weather wet wind winds windy with""".split())
# what services say, as it stands behind "The weather is"; the rest stands there as it is
SAID = {"clear sky": "clear", "few clouds": "partly cloudy", "scattered clouds": "partly cloudy",
        "broken clouds": "mostly cloudy", "overcast clouds": "overcast", "mist": "misty", "fog": "foggy",
        "haze": "hazy", "snow": "snowy", "thunderstorm": "stormy"}


class Weather(NamedTuple):
    """`words` stand behind "The weather is". `source` says where they come from."""

    words: str
    source: str


def weather_of(asked: str, services: Services = Services()) -> Weather:
    """The weather that is meant: a JSON file, words such as "light rain", or a place such as "Rome" or "41.9,12.5".

    StyleBlendError: there is no such file, place, or no answer.
    """
    asked = asked.strip()
    if asked.lower().startswith(TYPED):
        return typed(asked[len(TYPED):].strip())
    if asked.lower().endswith(".json"):
        found = reported(read_json(Path(asked), "it should be an answer of OpenWeatherMap or Open-Meteo"), asked, "")
        return Weather(in_prompt(found.words), f"{asked}, an answer of {found.service}")
    if not asked:
        raise StyleBlendError(f'--weather is empty: name a place such as "Rome", or {OFFLINE}')
    if set(re.findall(r"[^\s,.-]+", asked.lower())) <= WORDS:
        return typed(asked)
    found = kept(asked, services) or keep(asked, services, services.weather_of(asked))
    return Weather(in_prompt(found.words), f"{found.place} now, by {found.service}")


def typed(words: str) -> Weather:
    """Words that were typed by hand."""
    words = words.rstrip(". ")
    if not is_plain(words):
        raise StyleBlendError(f"the weather {words[:40]!r} is no words: {OFFLINE}")
    return Weather(words[0].lower() + words[1:], "typed by hand")


def in_prompt(words: str) -> str:
    return SAID.get(words, words)


# ---------------------------------------------------------------- what a service said a moment ago

def file_of(asked: str, services: Services) -> Path:
    """Where the answer for a place is kept; which service is asked counts, the key does not."""
    asks = services.openweathermap if os.environ.get(KEY, "").strip() else services.forecast
    name = hashlib.sha256(f"{asks}|{asked.lower()}".encode()).hexdigest()[:32]
    return cache_folder("weather") / f"{name}.json"


def kept(asked: str, services: Services) -> Optional[Reported]:
    """What was said of this place in the last ten minutes, or None."""
    path = file_of(asked, services)
    try:
        if not 0 <= time.time() - path.stat().st_mtime < FRESH:
            return None
        found = Reported(**parse_json(read_text(path)))
    except (OSError, ValueError, TypeError, StyleBlendError):
        return None  # it is asked and written again
    return found if all(isinstance(part, str) for part in found) and is_plain(found.words) else None


def keep(asked: str, services: Services, found: Reported) -> Reported:
    """Keep an answer; that a folder cannot be written is no reason to have none."""
    try:
        write_bytes(file_of(asked, services), json.dumps(found._asdict()).encode())
    except StyleBlendError:
        pass
    return found
