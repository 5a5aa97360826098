"""What does TensorBoard read? The numbers of metrics.jsonl and the sample sheets, in its format.

python train.py --set tensorboard=true
tensorboard --logdir results
"""

import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from PIL import Image

from config import UserError


class EventFiles:
    """Event files in a folder. They begin anew whenever a run goes on: a killed run may have told
    what it had not saved."""

    def __init__(self, folder: Path):
        """Raises UserError where the package tensorboard is missing."""
        try:
            from tensorboard.compat.proto import event_pb2, summary_pb2
            from tensorboard.summary.writer.event_file_writer import EventFileWriter
        except ImportError as error:
            raise UserError("--set tensorboard=true needs a package that is missing: "
                            "pip install tensorboard") from error  # fmt: skip
        for path in folder.glob("events.out.tfevents.*"):
            path.unlink()
        self.event, self.summary = event_pb2.Event, summary_pb2.Summary
        self.writer = EventFileWriter(str(folder))
        self.num_lines, self.told = 0, set()  # what was written: lines, and sheets

    def update(self, metrics: Sequence[dict], sheets: Sequence[Path]) -> None:
        """Write what is new; the step is images seen."""
        for line in metrics[self.num_lines :]:
            tags = {f"{line['split']}/{name}": value for name, value in line.items()
                    if name not in ("images", "split")}  # fmt: skip
            self._add(line["images"], *({"tag": tag, "simple_value": value}
                                        for tag, value in tags.items()))  # fmt: skip
        self.num_lines = len(metrics)
        for sheet in sheets:
            if sheet not in self.told:
                with Image.open(sheet) as image:
                    (width, height), depth = image.size, len(image.getbands())
                image = self.summary.Image(width=width, height=height, colorspace=depth,
                                           encoded_image_string=sheet.read_bytes())  # fmt: skip
                self._add(int(sheet.stem), {"tag": "samples", "image": image})
                self.told.add(sheet)
        self.writer.flush()

    def _add(self, step: int, *values: dict[str, Any]) -> None:
        summary = self.summary(value=[self.summary.Value(**value) for value in values])
        self.writer.add_event(self.event(wall_time=time.time(), step=step, summary=summary))
