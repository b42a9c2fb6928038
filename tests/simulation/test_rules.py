"""Each rule of ownership, taken out alone, is missed within some hundred runs: see `tests/breakages/rule-*.patch`.

The runs of a rule are made of what shows that it is missing; with all rules in
place they find nothing.
"""

from __future__ import annotations

import pytest

from tests.simulation import story
from tests.simulation.story import Profile

MOVES = ("ambush", "ambush", "freeze", "cut", "messages", "slow")

PROFILES: dict[str, tuple[Profile, int]] = {
    # Two pull at once.
    "1": (Profile(kinds=("slow", "freeze", "cut", "kill"), every_s=2.0, tabs=3, uploads=3), 60),
    "2": (Profile(kinds=("ahead", "ahead", "freeze", "cut"), every_s=1.0, tabs=2, uploads=3), 60),
    "3": (Profile(kinds=("freeze", "cut", "ambush"), every_s=2.0, tabs=2, uploads=3), 60),
    "4": (Profile(kinds=MOVES, every_s=1.5, tabs=2, uploads=3), 150),
    "5": (Profile(kinds=("cut", "cut", "slow", "ambush"), every_s=1.5, tabs=3, uploads=3), 200),
    "6": (Profile(kinds=("ambush", "freeze", "cut"), every_s=1.5, tabs=2, uploads=3, network_disk=False), 150),
    "7": (Profile(kinds=("slow", "messages"), every_s=3.0, tabs=3, uploads=3), 60),
    "10": (Profile(kinds=("messages",), every_s=4.0, tabs=3, uploads=3), 60),
    "11": (Profile(kinds=("ahead", "ahead", "freeze", "cut"), every_s=1.0, tabs=2, uploads=3), 60),
}


@pytest.mark.soak
@pytest.mark.timeout(1200)
@pytest.mark.parametrize("rule", PROFILES)
def test_rule_is_kept(rule: str) -> None:
    profile, runs = PROFILES[rule]
    for seed in range(runs):
        story.run(seed, profile)
