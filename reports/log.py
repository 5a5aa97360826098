"""What does a run tell while it learns?"""

import json
import math
import sys
import time
from collections import deque
from pathlib import Path
from typing import Any

from tqdm import tqdm

from config import TrainConfig
from files import write_text
from reports.forecast import Forecast, duration

SECONDS_UNTOLD = 10  # between plain lines
RECENT = 30  # steps whose mean error is told
EXPLAINED = {"latents": "latents, for what captions leave open",
             "sharpness": "sharpness, of edges and textures"}  # fmt: skip


class Log:
    """What a run tells: metrics.jsonl for programs, a progress bar for people, or, where that would
    go to a file, a plain line of the same numbers now and then.

    progress: checkpoint.Progress, how far the run is; data: the CaptionedImages that it learns
    from; end: images seen when it will stop.
    """

    def __init__(
        self,
        path: Path | None,
        config: TrainConfig,
        progress: Any,
        data: Any,
        forecast: Forecast,
        end: int,
    ):
        self.path, self.progress, self.data = path, progress, data
        self.forecast, self.end, self.phase = forecast, end, -1
        self.recent: deque[float] = deque(maxlen=RECENT)
        self.began = time.monotonic() - progress.seconds
        self.first_seen, self.first_seconds = progress.images_seen, progress.seconds
        self.last_seconds, self.last_waited = progress.seconds, data.seconds_waited
        self.bar = tqdm(total=config.images, initial=progress.images_seen, unit="img",
                        desc="training", smoothing=0.05, disable=None,
                        bar_format="{desc}: {percentage:3.0f}%|{bar}| {n_fmt}/{total_fmt} "
                        "[{elapsed}, {rate_fmt}{postfix}]")  # fmt: skip
        self.told = -math.inf  # when a plain line was written
        self.write()  # without what a crash left behind the last checkpoint

    def write(self) -> None:
        lines = [json.dumps(line) + "\n" for line in self.progress.metrics]
        if self.path:
            write_text(self.path, "".join(lines))

    def begin(self) -> None:
        """Before a step: tell which phases have begun."""
        seen, phases = self.progress.images_seen, self.forecast.phases
        now = next(i for i, phase in enumerate(phases) if seen < phase.last)
        if now > self.phase:
            first = self.phase + 1 if self.phase >= 0 else now
            begun = [label for phase in phases[first : now + 1] for label in phase.begins]
            told = " and ".join(EXPLAINED.get(label, label) for label in begun)
            self.bar.write(f"from image {seen:,}: {told}")
            self.phase = now

    def step(self, values: dict[str, float], num_images: int) -> None:
        """After it."""
        for name, value in values.items():
            self.progress.unlogged.setdefault(name, []).append(value)
        self.progress.seconds = time.monotonic() - self.began
        self.bar.update(num_images)
        name = "coarse_error" if "coarse_error" in values else "completion_loss"
        self.recent.append(values[name])
        error = f"error={sum(self.recent) / len(self.recent):.3f}"
        self.bar.set_postfix_str(f"{duration(self.seconds_left())} left, {error}", refresh=False)
        if time.monotonic() - self.told > SECONDS_UNTOLD:
            self.tell(error)

    def seconds_left(self) -> float:
        seen, seconds = self.progress.images_seen, self.progress.seconds - self.first_seconds
        return self.forecast.left(self.first_seen, seen, self.end, seconds)

    def train(self, image_size: int, values: dict[str, float]) -> None:
        """A line of the means since the last one, and of these values."""
        seen, seconds = self.progress.images_seen, self.progress.seconds
        unlogged, self.progress.unlogged = self.progress.unlogged, {}
        means = {"largest_total": max(unlogged.pop("total"))}  # spikes that recover show here
        means |= {name: sum(values) / len(values) for name, values in unlogged.items()}
        speed = (seen - self.first_seen) / (seconds - self.first_seconds)
        waited = self.data.seconds_waited - self.last_waited
        waiting = waited / max(1e-9, seconds - self.last_seconds)
        self.last_seconds, self.last_waited = seconds, self.data.seconds_waited
        means |= values | {"seconds": seconds, "images_per_second": speed,
                           "fraction_of_seconds_waiting_for_data": waiting}  # fmt: skip
        self.add("train", image_size, means)

    def add(self, split: str, image_size: int, values: dict[str, float]) -> None:
        rounded = {name: float(f"{value:.6g}") for name, value in values.items()}
        line = {"images": self.progress.images_seen, "split": split, "image_size": image_size}
        self.progress.metrics.append(line | rounded)
        self.write()
        if split == "validation":
            self.tell(", ".join(f"{name} {value:g}" for name, value in rounded.items()))

    def tell(self, numbers: str) -> None:
        """A plain line where there is no progress bar, as what is printed goes to a file."""
        if self.bar.disable:
            seen, seconds = self.progress.images_seen, self.progress.seconds
            print(f"{seen:,} of {self.bar.total:,} images, {seconds:.0f} s, "
                  f"{duration(self.seconds_left())} left: {numbers}",
                  file=sys.stderr, flush=True)  # fmt: skip
            self.told = time.monotonic()
