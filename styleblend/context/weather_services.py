"""What weather services say, live or saved: OpenWeatherMap (with a key) and Open-Meteo (without one)."""
from __future__ import annotations

import os
import re
from dataclasses import dataclass
from typing import Any, NamedTuple, Optional, Tuple

from styleblend.context.bounded_http import TIMEOUT, Answer, NoAnswer, get
from styleblend.errors import StyleBlendError, printable
from styleblend.files.text import parse_json

KEY = "OPENWEATHERMAP_API_KEY"  # the environment variable; its value is never written anywhere
OFFLINE = 'type the weather yourself, such as --weather "light rain"'
# WMO code 4677, as Open-Meteo numbers the present weather, in OpenWeatherMap's words
WMO = {0: "clear sky", 1: "few clouds", 2: "scattered clouds", 3: "overcast clouds", 45: "fog", 48: "freezing fog",
       51: "light drizzle", 53: "drizzle", 55: "heavy drizzle", 56: "freezing drizzle", 57: "freezing drizzle",
       61: "light rain", 63: "moderate rain", 65: "heavy rain", 66: "freezing rain", 67: "freezing rain",
       71: "light snow", 73: "snow", 75: "heavy snow", 77: "snow grains", 80: "light shower rain", 81: "shower rain",
       82: "heavy shower rain", 85: "light shower snow", 86: "heavy shower snow", 95: "thunderstorm",
       96: "thunderstorm with hail", 99: "thunderstorm with heavy hail"}


class Reported(NamedTuple):
    """The weather in a service's words, of a place by the service's name for it, and which service."""

    words: str
    place: str
    service: str


@dataclass(frozen=True)
class Services:
    """Their addresses, and how long (seconds) each question may take."""

    openweathermap: str = "https://api.openweathermap.org/data/2.5/weather"
    geocoding: str = "https://geocoding-api.open-meteo.com/v1/search"
    forecast: str = "https://api.open-meteo.com/v1/forecast"
    timeout: float = TIMEOUT

    def weather_of(self, place: str) -> Reported:
        """The weather of a place now: by OpenWeatherMap where there is a key, else by Open-Meteo.

        StyleBlendError: one sentence on what to do.
        """
        key = os.environ.get(KEY, "").strip()
        return self.from_openweathermap(place, key) if key else self.from_open_meteo(place)

    def from_openweathermap(self, place: str, key: str) -> Reported:
        at = coordinates(place)
        where = {"lat": at[0], "lon": at[1]} if at else {"q": place}
        answer = self.asked("OpenWeatherMap", self.openweathermap, {**where, "appid": key})
        if answer.status == 401:
            raise StyleBlendError(f"OpenWeatherMap refuses the key in {KEY}: mend it (a new key works after an hour or "
                                  "two), or unset it to ask Open-Meteo")
        if answer.status == 404:
            raise StyleBlendError(f"OpenWeatherMap knows no place {place!r}: write it otherwise, or {OFFLINE}")
        return reported(content("OpenWeatherMap", answer), "OpenWeatherMap", place)

    def from_open_meteo(self, place: str) -> Reported:
        at, name = coordinates(place), place
        if at is None:
            found = content("Open-Meteo", self.asked("Open-Meteo", self.geocoding,
                                                     {"name": place, "count": 1, "language": "en", "format": "json"}))
            first = first_of(found.get("results"))
            at = number_of(first, "latitude"), number_of(first, "longitude")
            if None in at:
                raise StyleBlendError(f"Open-Meteo knows no place {place!r}: write it otherwise, give latitude and "
                                      f"longitude as 41.9,12.5, or {OFFLINE}")
            name = place_name(first, place)
        answer = self.asked("Open-Meteo", self.forecast,
                            {"latitude": at[0], "longitude": at[1], "current": "weather_code"})
        return reported(content("Open-Meteo", answer), "Open-Meteo", name)

    def asked(self, service: str, address: str, query: dict) -> Answer:
        try:
            return get(address, query, self.timeout)
        except NoAnswer as error:
            raise StyleBlendError(f"{service} gives no weather ({error}): {OFFLINE}") from None


def coordinates(place: str) -> Optional[Tuple[float, float]]:
    """Latitude and longitude in "41.9,12.5"; None where a text is something else."""
    found = re.fullmatch(r"\s*([+-]?\d{1,2}(?:\.\d*)?)\s*,\s*([+-]?\d{1,3}(?:\.\d*)?)\s*", place)
    at = (float(found[1]), float(found[2])) if found else None
    return at if at and abs(at[0]) <= 90 and abs(at[1]) <= 180 else None


def content(service: str, answer: Answer) -> dict:
    """What an answer holds. StyleBlendError where it is none that can be read."""
    if answer.status == 429:
        raise StyleBlendError(f"{service} has been asked too often: wait a while, or {OFFLINE}")
    try:
        said = parse_json(answer.body.decode("utf-8")) if answer.status == 200 else None
    except ValueError:
        said = None
    if not isinstance(said, dict):
        raise StyleBlendError(f"{service} gives an answer that cannot be read (status {answer.status}): try it again "
                              f"later, or {OFFLINE}")
    return said


def reported(said: Any, source: str, place: str) -> Reported:
    """The weather in an answer of either service, live or saved. `source` is whose it is, or its file."""
    current = said.get("current", said.get("current_weather")) if isinstance(said, dict) else None
    if isinstance(current, dict):
        code = number_of(current, "weather_code", number_of(current, "weathercode"))
        if code in WMO:
            return Reported(WMO[code], place, "Open-Meteo")
    if isinstance(said, dict):
        words = first_of(said.get("weather")).get("description")
        if isinstance(words, str) and is_plain(words):
            return Reported(" ".join(words.lower().split()), place_name(said, place), "OpenWeatherMap")
    raise StyleBlendError(f"the answer of {source} does not say how the weather is: {OFFLINE}")


def first_of(listed: Any) -> dict:
    """The first object of a list, or an empty one."""
    return listed[0] if isinstance(listed, list) and listed and isinstance(listed[0], dict) else {}


def number_of(said: dict, key: str, default: Optional[float] = None) -> Optional[float]:
    value = said.get(key)
    return value if type(value) in (int, float) else default


def place_name(said: dict, place: str) -> str:
    """The service's name for a place, where it has one."""
    name = said.get("name")
    return printable(name, 60) if isinstance(name, str) and name.isascii() and name.strip() else place


def is_plain(words: str) -> bool:
    """Whether words are short and made of letters, as those of a weather service are."""
    return 0 < len(words.strip()) <= 60 and all(c.isalpha() or c in " -,/'" for c in words)
