"""What `eipnn run` finds wrong before the first stage starts."""

import json
from collections.abc import Sequence

from eipnn.potential.checkpoints import read_checkpoint, read_record
from eipnn.run.plan import Late, Plan, filled, in_order, without


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
    for plan in plans:
        split = plan.parts
        if set(strategies) != {"baseline"} or experiment.splits == "random":
            dft, pool = experiment.ids
            split.check(dft, [*pool, *dft] if experiment.data.get("pool") else split.pool, plan.split_path)
    for name in ("classify", "pretrain"):
        if init_from := experiment.stage(name, "model").get("init_from"):
            read_record(read_checkpoint(init_from), init_from, "pretrain")
    examples = {"steps": 1, "single_eip": (*experiment.eip_names, "EIP")[0]}
    checked = set()
    for stage in in_order(
        plans[0].finetune(name, experiment.alpha[0]) for name in strategies
    ):  # others differ in seeds
        late = ("model.init_args.init_from",) if isinstance(stage.inputs.get("init_from"), Late) else ()
        config = without(filled(stage.config, lambda value: examples[value.what]), (*late, "data.init_args.selection"))
        if (same := json.dumps(config["model"], sort_keys=True)) not in checked:
            checked.add(same)
            check_config(config | {"seed_everything": False})  # which would say so
