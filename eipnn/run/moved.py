"""Where the files that a stage has read are now, after its run was moved."""

from pathlib import Path
from typing import Any

from eipnn.structures.paths import BUNDLED


def data_of(config: dict[str, Any], stage: Path, run: Path) -> dict[str, Any]:
    """The arguments of a stage's data module.

    A split and labels in the folder of its run are named where that is now, others as they were when it was made.

    Args:
        config: of the LightningCLI, as the stage was made.
        stage: its folder.
        run: that of its run.
    """
    data = dict(config["data"]["init_args"])
    then = Path(config["trainer"]["default_root_dir"]).parents[len(stage.relative_to(run).parts) - 1]
    for key in ("split", "labels"):
        if (name := data.get(key)) and not name.startswith(BUNDLED) and Path(name).is_relative_to(then):
            data[key] = str(run / Path(name).relative_to(then))
    return data
