"""What `eipnn run` finds wrong before the first stage starts."""

import json
from collections.abc import Sequence

from eipnn.potential.checkpoints import read_checkpoint, read_record
from eipnn.run.plan import Plan
from eipnn.structures import read_split


def check_plans(plans: Sequence[Plan], strategies: Sequence[str]) -> None:
    """Raise what any stage of these strategies would refuse, so that it comes before hours of training.

    Files that are absent, splits that name what no file holds, and settings: the modules of each stage are made, and
    dropped.

    Raises:
        InputError: a setting or a file cannot be used.
    """
    # here: Lightning's parser is needed by nothing else in this process
    from eipnn.cli import check_config

    experiment = plans[0].experiment
    with_pool = set(strategies) != {"baseline"}
    for plan in plans:
        split = read_split(plan.split_path)
        if with_pool or experiment.splits == "random":
            dft, pool = experiment.ids
            known = [*pool, *dft] if experiment.data.get("pool") else split.pool
            split.check(dft, known, plan.split_path)
    checked = set()
    for plan in plans:
        for config in plan.trials(strategies):
            same = json.dumps(config["model"], sort_keys=True)
            if same in checked:  # plans differ in seeds and files alone
                continue
            checked.add(same)
            if init_from := config["model"]["init_args"].get("init_from"):
                read_record(read_checkpoint(init_from), init_from, "pretrain")
            check_config(config | {"seed_everything": False})  # which would say so
