"""`eipnn COMMAND ...`: dispatch only; each command's own module is imported when it is called."""

import sys
from pathlib import Path

from eipnn import __version__
from eipnn.processes import die_with_caller

USAGE = f"""\
eipnn {__version__}: neural-network interatomic potentials taught by empirical ones

usage: eipnn COMMAND [OPTIONS]      (eipnn COMMAND --help for the options)

  fetch      a published data set: download it, write structures, labels and splits
  eips       list the OpenKIM models that cover given elements
  generate   structures without labels, from your frames or from crystals of your elements
  label      energies and forces of structures under empirical potentials
  run        a whole experiment: label, classify, pretrain, fine-tune, test
  report     tables and pictures of finished runs
  embed      the representation of a run before and after pretraining
  export     a fine-tuned potential as a torch.export program

  fit | validate | test | predict
             one stage by a LightningCLI configuration:
             --model eipnn.ClassifierModule | eipnn.PretrainModule | eipnn.FinetuneModule
"""


def main() -> None:
    """Entry point of the `eipnn` command."""
    die_with_caller()
    sys.path.append(str(Path.cwd()))  # a class_path may name a module of the working directory
    command, arguments = (sys.argv[1] if len(sys.argv) > 1 else "--help"), sys.argv[2:]
    if command in ("-h", "--help"):
        print(USAGE)
    elif command == "--version":
        print(__version__)
    elif command == "fetch":
        from eipnn.published.command import main_fetch

        sys.exit(main_fetch(arguments))
    elif command == "generate":
        from eipnn.generate.command import main_generate

        sys.exit(main_generate(arguments))
    elif command == "label":
        from eipnn.labels.command import main_label

        sys.exit(main_label(arguments))
    elif command == "eips":
        from eipnn.labels.command import main_eips

        sys.exit(main_eips(arguments))
    elif command == "run":
        from eipnn.run.command import main_run

        sys.exit(main_run(arguments))
    elif command == "report":
        from eipnn.report.command import main_report

        sys.exit(main_report(arguments))
    elif command == "embed":
        from eipnn.report.embed_command import main_embed

        sys.exit(main_embed(arguments))
    elif command == "export":
        from eipnn.export import main_export

        sys.exit(main_export(arguments))
    elif command in ("fit", "validate", "test", "predict"):
        from eipnn.cli import main as main_cli

        main_cli()
    else:
        sys.exit(f"eipnn: no command {command!r}\n\n{USAGE}")


if __name__ == "__main__":
    main()
