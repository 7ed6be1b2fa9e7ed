"""`eipnn COMMAND ...`: dispatch only; each command's own module is imported when it is called."""

import os
import sys
import warnings
from importlib import import_module
from pathlib import Path

from eipnn import __version__
from eipnn.errors import UsageError, exit_code
from eipnn.processes import TORCHRUN, die_with_caller

COMMANDS = {
    "train": ("eipnn.train.command", "a potential from DFT frames alone, by the recommended way"),
    "eips": ("eipnn.labels.command", "the OpenKIM models that cover given elements"),
    "inspect": ("eipnn.inspect.command", "structure files before training: contents, picture, likely mistakes"),
    "generate": ("eipnn.generate.command", "structures without labels, from frames or crystals"),
    "label": ("eipnn.labels.command", "energies, forces and stress of structures under EIPs"),
    "run": ("eipnn.run.command", "an experiment: label, classify, pretrain, fine-tune, test"),
    "report": ("eipnn.report.command", "tables and pictures of finished runs"),
    "committee": ("eipnn.potential.committee", "one file of several fine-tuned potentials"),
    "evaluate": ("eipnn.evaluate.command", "predictions of structures, errors against labels, spread of a committee"),
    "select": ("eipnn.select.command", "structures of a pool that are most worth a DFT calculation"),
    "check": ("eipnn.check.command", "whether a potential is safe to simulate with: a page of figures and pictures"),
    "lammps": ("eipnn.potential.lammps_command", "an input script of LAMMPS with a fine-tuned potential"),
    "cache": ("eipnn.cache", "what is kept of structures and model inputs: its size, and to clear it"),
    "export": ("eipnn.potential.export", "a fine-tuned potential as a torch.export program"),
}
"""Command -> the module with the function of that name, and what it gives."""

STAGE_COMMANDS = ("fit", "validate", "test", "predict")

USAGE = f"""\
eipnn {__version__}: neural-network interatomic potentials taught by empirical ones (EIPs)

usage: eipnn COMMAND [OPTIONS]      (eipnn COMMAND --help for the options)

{chr(10).join(f"  {name:<10} {gives}" for name, (_, gives) in COMMANDS.items())}

  {" | ".join(STAGE_COMMANDS)}
             one stage by a LightningCLI configuration:
             --model eipnn.ClassifierModule | eipnn.PretrainModule | eipnn.FinetuneModule
"""


def main() -> int:
    """Entry point of the `eipnn` command: the exit code (see `eipnn.errors.exit_code`)."""
    die_with_caller()
    if (here := str(Path.cwd())) not in sys.path:
        sys.path.append(here)  # a class_path may name a module of the working directory
    # torch-geometric, at its import with torch 2.14; nothing that a user can mend
    warnings.filterwarnings("ignore", "`torch.jit.script` is deprecated", FutureWarning)
    command, *arguments = sys.argv[1:] or ["--help"]
    if text := {"-h": USAGE, "--help": USAGE, "--version": __version__}.get(command):
        print(text)
        return 0
    return exit_code(command, lambda: _call(command, arguments))


def _call(command: str, arguments: list[str]) -> None:
    if command in STAGE_COMMANDS:
        import_module("eipnn.cli").main()  # it reads sys.argv itself, as do the processes that DDP starts
        return
    from eipnn.command_line import call
    from eipnn.settings import near

    if command not in COMMANDS:
        meant = near(command, [*COMMANDS, *STAGE_COMMANDS])
        raise UsageError(f"there is no such command{meant} (`eipnn --help` shows all)")
    if TORCHRUN in os.environ:
        raise UsageError(
            f"torchrun is for {', '.join(STAGE_COMMANDS)}: start `eipnn {command}` without it (for trainings of "
            "several processes set trainer.devices)"
        )
    # of a training that they call Lightning starts the processes, whatever tasks SLURM counts
    os.environ["SLURM_JOB_NAME"] = "interactive"
    call(getattr(import_module(COMMANDS[command][0]), command), arguments)


if __name__ == "__main__":
    if not sys.flags.safe_path:
        del sys.path[0]  # the working directory, which `python -m` puts before the libraries
    sys.exit(main())
