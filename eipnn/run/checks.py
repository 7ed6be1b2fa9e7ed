"""What `eipnn run` finds wrong before the first stage starts."""

import json
from collections.abc import Sequence

from eipnn.run.plan import Late, Row, filled, in_order, without


def check_rows(rows: Sequence[Row]) -> None:
    """Raise what any stage of these rows would refuse, so that it comes before hours of training.

    Files that are absent, splits that name what no file holds, and settings: the modules of each stage are made, and
    dropped.

    Raises:
        InputError: a setting or a file cannot be used.
    """
    # here: Lightning's parser is needed by nothing else in this process
    from eipnn.cli import check_config

    experiment = rows[0].plan.experiment
    if any(row.strategy != "baseline" for row in rows) or experiment.splits == "random":
        for plan in {row.plan.folder: row.plan for row in rows}.values():
            dft, pool = experiment.ids
            known = [*pool, *dft] if experiment.data.get("pool") else plan.parts.pool
            plan.parts.check(dft, known, plan.split_path)
    examples = {"steps": 1, "single_eip": (*experiment.eip_names, "EIP")[0]}
    checked = set()
    for stage in in_order([row.stages[0] for row in rows if row.plan is rows[0].plan]):  # others differ in seeds alone
        config = filled(stage.config, lambda late: examples[late.what])
        if isinstance(stage.inputs.get("init_from"), Late):
            config = without(config, ["model.init_args.init_from"])
        if (same := json.dumps(config["model"], sort_keys=True)) not in checked:
            checked.add(same)
            # a selection is not made yet, and a fixed seed would be told
            check_config(without(config, ["data.init_args.selection"]) | {"seed_everything": False})
