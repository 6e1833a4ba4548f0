"""A worker that measures nothing and tells its environment; run by torchrun in `test_launches`."""

import json
import os
import sys
from pathlib import Path

if __name__ == "__main__":
    _, _, launch, directory, *_ = sys.argv
    (Path(directory) / f"launch-{launch}-rank-{os.environ['RANK']}.json").write_text(json.dumps(dict(os.environ)))
