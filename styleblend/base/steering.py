"""What holds the layout of a pipeline's drawings: ControlNets, depth estimators, and what they made of the pictures."""
from __future__ import annotations

from pathlib import Path
from typing import Any, Dict, List, Sequence

import numpy as np

from styleblend.base.base import Base
from styleblend.base.control_maps import control_map
from styleblend.base.controlnets import load_controlnet
from styleblend.base.depth_estimators import DepthEstimator, load_depth_estimator
from styleblend.diffusion.control_pictures import ControlPicture
from styleblend.errors import StyleBlendError
from styleblend.files.pictures import changed_at
from styleblend.files.shipped import own_or_shipped
from styleblend.machine.runtime import jt
from styleblend.models.controlnet import ControlNetModel
from styleblend.settings import ControlSettings, RunSettings, SamplingSettings
from styleblend.settings.control import READ_AS


class Steering:
    """Networks are loaded once. Of the control pictures those of the last drawing are kept: a folder of contents goes
    through without taking more memory than one.
    """

    def __init__(self, base: Base, settings: RunSettings):
        self.base, self.settings = base, settings
        self._controlnets: Dict[str, ControlNetModel] = {}
        self._estimators: Dict[str, DepthEstimator] = {}
        self._maps: Dict[tuple, np.ndarray] = {}  # what `map_key` names -> the map of a control picture
        self._conditions: Dict[tuple, Any] = {}  # the same with a ControlNet's folder -> what that made of the map

    def pictures(self, controls: Sequence[ControlSettings], sampling: SamplingSettings) -> List[ControlPicture]:
        """The control pictures of one drawing, as their ControlNets read them."""
        found, used = [], set()
        for control in controls:
            control.refuse_unfit(sampling.steps)
            folder = self.folder_of(control)
            key = (folder, *map_key(control, sampling))
            used.add(key)
            found.append(ControlPicture(self.controlnet(folder), self.condition(key, control, sampling),
                                        control.strength, control.start, control.end, control.guess))
        self._conditions = {key: self._conditions[key] for key in used}
        self._maps = {key[1:]: self._maps[key[1:]] for key in used if key[1:] in self._maps}
        return found

    def folder_of(self, control: ControlSettings) -> str:
        """The ControlNet of a control picture. StyleBlendError where none is known."""
        kind, folder = control.kind, control.network or self.settings.controlnets.of(control.kind)
        if folder is None:
            raise StyleBlendError(f"no ControlNet for {kind} is known: name its folder (--controlnet, or "
                                  f"controlnets: {{{READ_AS.get(kind, kind)}: FOLDER}} in the config)")
        return folder

    def controlnet(self, folder: str) -> ControlNetModel:
        if folder not in self._controlnets:
            self._controlnets[folder] = load_controlnet(own_or_shipped(folder), self.base)
        return self._controlnets[folder]

    def condition(self, key: tuple, control: ControlSettings, sampling: SamplingSettings) -> Any:
        """What a ControlNet makes of a map before the first step."""
        if key not in self._conditions:
            pixels = self.map(control, sampling).transpose(2, 0, 1)[None]
            with jt.no_grad():
                self._conditions[key] = self.controlnet(key[0]).embedded(jt.array(pixels.astype(np.float32) / 255))
                self._conditions[key].sync()
        return self._conditions[key]

    def map(self, control: ControlSettings, sampling: SamplingSettings) -> np.ndarray:
        """What a ControlNet reads of a control picture, uint8 (height, width, 3)."""
        key = map_key(control, sampling)
        if key not in self._maps:
            self._maps[key] = control_map(control, sampling.width, sampling.height, self.estimator)
        return self._maps[key]

    def estimator(self, name: str) -> DepthEstimator:
        """The one of this folder or hub id; "": the config's."""
        name = name or self.settings.depth_estimator
        if name not in self._estimators:
            self._estimators[name] = load_depth_estimator(name)
        return self._estimators[name]


def map_key(control: ControlSettings, sampling: SamplingSettings) -> tuple:
    """What the map of a control picture depends on."""
    return control, changed_at(Path(control.picture)), sampling.width, sampling.height
