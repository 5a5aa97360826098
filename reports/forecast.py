"""How long does a run take? Images grow and losses are added, so that a late step costs several
early ones; time left is told from what each phase costs."""

from typing import NamedTuple

TRUST = 20.0  # seconds of training that what was measured before counts like


class Phase(NamedTuple):
    """A part of a run whose steps cost the same."""

    first: int  # images seen when it begins
    last: int
    begins: tuple[str, ...]  # what is new then: "64 px", "latents", "sharpness"
    seconds: float = 0.0  # that an image costs


class Forecast:
    """measured: whether the costs of the phases are seconds of this machine, or tell only which
    phase costs more."""

    def __init__(self, phases: list[Phase], measured: bool):
        self.phases, self.measured = phases, measured

    def seconds(self, first: int, last: int) -> float:
        """What the images from one number to another cost."""
        return sum(p.seconds * max(0, min(last, p.last) - max(first, p.first)) for p in self.phases)

    def left(self, began: int, seen: int, end: int, elapsed: float) -> float:
        """Seconds until `end`, where the images from `began` to `seen` took `elapsed` seconds."""
        trust = TRUST * self.measured
        pace = (elapsed + trust) / (self.seconds(began, seen) + trust)
        return pace * self.seconds(seen, end)

    def images_in(self, seconds: float) -> int:
        """How long a run takes so many seconds, in images; its phases grow with it."""
        return int(seconds * self.phases[-1].last / self.seconds(0, self.phases[-1].last))


def duration(seconds: float) -> str:
    """As a person says it: 40 s, 12 min, 3.5 h."""
    if seconds < 60:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 2 * 3600 else f"{seconds / 3600:.1f} h"
