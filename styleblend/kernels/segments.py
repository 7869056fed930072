"""stub"""
from dataclasses import dataclass
from typing import Optional, Tuple, Union
@dataclass(frozen=True)
class Segment:
    rows: Optional[Tuple[int, ...]] = None
    scale: Union[float, Tuple[float, ...]] = 1.0
    shift: Union[float, Tuple[float, ...]] = 0.0
