"""The weather: words, saved answers, and services on the loopback that answer well, late, too much and for ever."""
import json
import os
import time
from pathlib import Path

import pytest

from styleblend.context.weather import weather_of
from styleblend.context.weather_services import KEY as VARIABLE
from styleblend.context.weather_services import WMO, coordinates
from styleblend.errors import StyleBlendError
from weather_server import ENDLESS, FORECAST, KEY, OPENWEATHERMAP, no_server, weather_server


@pytest.fixture(autouse=True)
def own_environment(tmp_path, monkeypatch):
    """A cache of its own, no key, and no proxy between a test and its server."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    for name in (VARIABLE, "http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture
def server():
    with weather_server() as found:
        yield found


@pytest.mark.parametrize("typed,words", [("light rain", "light rain"), ("Heavy snow.", "heavy snow"),
                                         ("sunny, windy", "sunny, windy"),
                                         ("text: A blizzard in May", "a blizzard in May")])
def test_weather_that_is_typed(typed, words):
    assert weather_of(typed, no_server()) == (words, "typed by hand")


@pytest.mark.parametrize("answer,words,service", [
    (OPENWEATHERMAP, "partly cloudy", "OpenWeatherMap"), (FORECAST, "moderate rain", "Open-Meteo"),
    ({"weather": [{"description": "Clear Sky"}]}, "clear", "OpenWeatherMap"),
    ({"current_weather": {"weathercode": 95.0}}, "stormy", "Open-Meteo")])
def test_a_saved_answer(tmp_path, answer, words, service):
    path = tmp_path / "answer.json"
    path.write_text(json.dumps(answer))
    found = weather_of(str(path), no_server())
    assert found.words == words and service in found.source


def test_every_code_has_words_of_letters_alone():
    assert all(words.replace(" ", "").isalpha() for words in WMO.values()) and len(WMO) == 28


def test_a_place_by_open_meteo(server):
    assert weather_of("Rome", server.services) == ("moderate rain", "Rome now, by Open-Meteo")
    (search, name), (forecast, at) = server.asked
    assert (search, name["name"], forecast) == ("/search", "Rome", "/forecast")
    assert (at["latitude"], at["longitude"], at["current"]) == ("41.89193", "12.51133", "weather_code")


def test_coordinates_need_no_search(server):
    assert weather_of("41.9, 12.5", server.services).words == "moderate rain"
    assert [path for path, _ in server.asked] == ["/forecast"]
    assert coordinates("-41.9,170") == (-41.9, 170) and coordinates("91,0") is None and coordinates("Rome") is None


def test_a_place_by_openweathermap_where_there_is_a_key(server, monkeypatch):
    monkeypatch.setenv(VARIABLE, f"{KEY}\n")
    assert weather_of("Rome", server.services) == ("partly cloudy", "Rome now, by OpenWeatherMap")
    assert server.asked == [("/owm", {"q": "Rome", "appid": KEY})]


def test_it_is_asked_again_after_ten_minutes_only_and_the_key_is_in_no_file(server, monkeypatch, tmp_path):
    monkeypatch.setenv(VARIABLE, KEY)
    first = weather_of("Rome", server.services)
    assert weather_of("rome", server.services) == first and len(server.asked) == 1
    [kept] = [path for path in (tmp_path / "cache").rglob("*") if path.is_file()]
    assert KEY not in kept.read_text() and KEY not in kept.name
    long_ago = time.time() - 601
    os.utime(kept, (long_ago, long_ago))
    assert weather_of("Rome", server.services) == first and len(server.asked) == 2
    kept.write_text('{"words": "rain(((", "place": "Rome", "service": "x"}')  # damaged: asked again
    assert weather_of("Rome", server.services) == first and len(server.asked) == 3


def failed(asked, services) -> str:
    with pytest.raises(StyleBlendError) as error:
        weather_of(asked, services)
    assert KEY not in str(error.value) and "http" not in str(error.value)
    return str(error.value)


def test_a_wrong_key_and_an_unknown_place(server, monkeypatch):
    assert failed("Atlantis", server.services).startswith("Open-Meteo knows no place 'Atlantis'")
    monkeypatch.setenv(VARIABLE, "wrong" + KEY)
    said = failed("Rome", server.services)
    assert said.startswith(f"OpenWeatherMap refuses the key in {VARIABLE}") and "unset it" in said
    monkeypatch.setenv(VARIABLE, KEY)
    assert failed("Atlantis", server.services).startswith("OpenWeatherMap knows no place 'Atlantis'")


@pytest.mark.parametrize("mood,said", [
    ("rate limited", "has been asked too often"), ("broken", "cannot be read (status 500)"),
    ("no json", "cannot be read (status 200)"), ("deep", "cannot be read (status 200)"),
    ("elsewhere", "cannot be read (status 302)"), ("huge", "sent more than 256 KiB"),
    ("other", "does not say how the weather is"), ("rude", "does not say how the weather is")])
@pytest.mark.parametrize("key", [KEY, None])
def test_what_a_server_may_answer_instead(server, monkeypatch, mood, said, key):
    if key:
        monkeypatch.setenv(VARIABLE, key)
    server.mood = mood
    found = failed("41.9,12.5", server.services)
    assert said in found and '--weather "light rain"' in found
    assert server.sent < 20 and not any(path == "/stolen" for path, _ in server.asked)


@pytest.mark.parametrize("mood", ENDLESS)
def test_nothing_lasts_longer_than_its_time_out(server, mood):
    server.mood = mood
    begin = time.monotonic()
    assert "127.0.0.1" in failed("41.9,12.5", server.services)
    assert time.monotonic() - begin < server.services.timeout + 0.5


def test_no_network():
    assert "cannot be reached (ConnectionRefusedError)): type the weather yourself" in failed("Rome", no_server())


@pytest.mark.parametrize("asked,said", [
    ("", "--weather is empty"), ("text:", "is no words"), ("text: (rain:2)", "is no words"),
    ("missing.json", "missing.json cannot be read")])
def test_what_is_no_weather(asked, said):
    assert said in failed(asked, no_server())


def test_a_saved_answer_of_100_mb_is_not_read(tmp_path):
    path = Path(tmp_path / "huge.json")
    with open(path, "wb") as file:
        file.truncate(100 << 20)
    begin = time.monotonic()
    assert "is larger than 1 MiB" in failed(str(path), no_server()) and time.monotonic() - begin < 0.5
