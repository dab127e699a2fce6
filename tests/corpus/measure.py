"""What decoding takes: ``python -m tests.corpus.measure FOLDER`` prints a line of JSON for each file in the folder.

Each file is decoded in a process of its own, forked from one that has imported everything and decoded nothing. Linux
starts the high-water mark of such a process at what is resident at the fork.
"""

import json
import os
import sys
from pathlib import Path

from PIL import Image

from cnnjob.config.prepare import ImageConfig, LimitsConfig
from cnnjob.data.decode import Refusal
from cnnjob.data.formats.encoded import decode


def resident_bytes(field: str) -> int:
    """`VmRSS` or `VmHWM` of this process."""
    line = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith(field))
    return int(line.split()[1]) * 1024


def measure(path: Path, image: ImageConfig) -> None:
    content = path.read_bytes()
    before = resident_bytes("VmRSS")
    found = decode(content, image, LimitsConfig())
    grown = max(0, resident_bytes("VmHWM") - before)
    reason = found.reason if isinstance(found, Refusal) else None
    line = json.dumps({"name": path.name, "resize": image.resize, "grown_bytes": grown, "reason": reason})
    sys.stdout.write(line + "\n")
    sys.stdout.flush()


def main() -> None:
    Image.init()
    scaled, whole = ImageConfig(resize="stretch"), ImageConfig(height=4096, width=4096)
    for path in sorted(Path(sys.argv[1]).iterdir()):
        for image in (scaled, whole) if path.name.startswith("large-") else (scaled,):
            child = os.fork()
            if child == 0:
                measure(path, image)
                os._exit(0)
            if os.waitpid(child, 0)[1] != 0:
                sys.exit(f"{path.name} ended its process")


if __name__ == "__main__":
    main()
