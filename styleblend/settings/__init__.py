"""Settings: what a config or a `style.json` may say, with defaults, ranges and clear errors. Jittor stays outside."""
from styleblend.settings.content import ContentSettings
from styleblend.settings.context import ContextSettings, Source
from styleblend.settings.control import ControlSettings
from styleblend.settings.drawing import LARGEST_SEED, LONGEST_SIDE, MOST_STEPS, SamplingSettings, Seed, with_sampling
from styleblend.settings.dreamstyler import DreamStylerSettings
from styleblend.settings.metrics import MetricSettings, NetworkIds
from styleblend.settings.pictures import PictureSettings
from styleblend.settings.run import DType, RunSettings, own_settings, read_settings
from styleblend.settings.style_aligned import AlignSettings, ReferencePicture
from styleblend.settings.style_encoder import EncodedPicture, StyleEncoderSettings
from styleblend.settings.styleblend import PRESETS, BlendSettings
from styleblend.settings.styles import (
    FIRST_METHOD, KINDS, StyleBlendStyle, StyleSettings, blend_for, method_of, read_style_settings, sampling_for,
    style_settings_from)
from styleblend.settings.training import LookAlikeSettings, StageSettings, TrainingSettings
from styleblend.settings.validation import MethodSettings, Settings, known_keys, unknown, validated

__all__ = [
    "FIRST_METHOD", "KINDS", "LARGEST_SEED", "LONGEST_SIDE", "MOST_STEPS", "PRESETS", "AlignSettings", "BlendSettings",
    "ContentSettings", "ContextSettings", "ControlSettings", "DType", "DreamStylerSettings", "EncodedPicture",
    "LookAlikeSettings", "MethodSettings", "MetricSettings", "NetworkIds", "PictureSettings", "ReferencePicture",
    "RunSettings", "SamplingSettings", "Seed", "Settings", "Source", "StageSettings", "StyleBlendStyle",
    "StyleEncoderSettings", "StyleSettings", "TrainingSettings", "blend_for", "known_keys", "method_of",
    "own_settings", "read_settings", "read_style_settings", "sampling_for", "style_settings_from", "unknown",
    "validated", "with_sampling",
]
