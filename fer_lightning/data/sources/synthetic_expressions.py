"""Facial expressions by the Facial Action Coding System (Ekman and Friesen 1978), for the synthetic faces.

An expression is a set of action units, and an action unit moves brows, eyelids, cheeks, nose or lips.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

ACTION_UNITS: Final = (
    "inner_brow_raiser",  # 1
    "outer_brow_raiser",  # 2
    "brow_lowerer",  # 4
    "upper_lid_raiser",  # 5
    "cheek_raiser",  # 6
    "lid_tightener",  # 7
    "nose_wrinkler",  # 9
    "upper_lip_raiser",  # 10
    "lip_corner_puller",  # 12
    "lip_corner_depressor",  # 15
    "lip_stretcher",  # 20
    "lip_tightener",  # 23
    "lips_part",  # 25
    "jaw_drop",  # 26
    "eyes_closed",  # 43
)
"""Action units, with their FACS numbers; a strength of 0 is the neutral face, 1 is usual."""

PROTOTYPES: Final[Mapping[str, tuple[Mapping[str, float], ...]]] = {
    "angry": (
        {"brow_lowerer": 1.1, "upper_lid_raiser": 0.4, "lid_tightener": 0.7, "lip_tightener": 1.0,
         "lip_corner_depressor": 0.35},
        {"brow_lowerer": 1.1, "upper_lid_raiser": 0.5, "lid_tightener": 0.6, "upper_lip_raiser": 0.35,
         "lip_corner_depressor": 0.4, "lip_stretcher": 0.4, "lips_part": 1.0, "jaw_drop": 0.3},
    ),
    "disgust": (
        {"brow_lowerer": 0.45, "cheek_raiser": 0.5, "lid_tightener": 0.6, "nose_wrinkler": 1.0,
         "upper_lip_raiser": 1.0, "lip_corner_depressor": 0.6, "lips_part": 0.5},
        {"brow_lowerer": 0.4, "cheek_raiser": 0.6, "eyes_closed": 0.3, "nose_wrinkler": 1.1,
         "upper_lip_raiser": 0.8, "lip_corner_depressor": 0.9},
    ),
    "fear": (
        {"inner_brow_raiser": 1.2, "outer_brow_raiser": 0.35, "brow_lowerer": 0.45, "upper_lid_raiser": 1.0,
         "lip_stretcher": 1.0, "lips_part": 0.9, "jaw_drop": 0.2},
        {"inner_brow_raiser": 1.2, "outer_brow_raiser": 0.3, "brow_lowerer": 0.4, "upper_lid_raiser": 1.1,
         "lip_corner_depressor": 0.4, "lip_stretcher": 0.8, "lips_part": 0.7, "jaw_drop": 0.6},
    ),
    "happy": (
        {"cheek_raiser": 0.8, "lip_corner_puller": 1.0},
        {"cheek_raiser": 1.0, "lip_corner_puller": 1.1, "lips_part": 0.9, "jaw_drop": 0.15},
        {"cheek_raiser": 1.0, "lip_corner_puller": 1.1, "lips_part": 1.0, "jaw_drop": 0.6},
    ),
    "sad": (
        {"inner_brow_raiser": 1.1, "brow_lowerer": 0.4, "lip_corner_depressor": 1.0, "eyes_closed": 0.35},
        {"inner_brow_raiser": 0.9, "brow_lowerer": 0.3, "lip_corner_depressor": 1.1, "eyes_closed": 0.75},
    ),
    "surprise": (
        {"inner_brow_raiser": 1.1, "outer_brow_raiser": 1.2, "upper_lid_raiser": 0.9, "lips_part": 0.3,
         "jaw_drop": 1.0},
        {"inner_brow_raiser": 1.2, "outer_brow_raiser": 1.3, "upper_lid_raiser": 1.0, "lips_part": 0.2,
         "jaw_drop": 0.6},
    ),
    "neutral": ({},),
}  # fmt: skip
"""Prototypes of each expression as strengths of action units (EMFACS: Friesen and Ekman 1983); a face shows one."""
