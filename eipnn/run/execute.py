"""Run one stage in processes of its own: skipped when done, resumed when cut off."""

import csv
import io
import json
import shutil
from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from rich.console import Console

from eipnn.eips import DFT, load_eips
from eipnn.errors import InputError
from eipnn.files import alone, digest_file, write_atomically, write_json
from eipnn.labels import LabelStore
from eipnn.labels.layout import LabelError, read_index
from eipnn.labels.leaderboard import best_eip
from eipnn.potential import Potential
from eipnn.potential.checkpoints import CheckpointError, read_checkpoint
from eipnn.processes import call
from eipnn.run.experiment import COMMANDS, ExperimentError, listed
from eipnn.run.plan import OUTPUTS, Late, Stage, digest_text, filled
from eipnn.stages.classify import closest, distances, judged, limits_of
from eipnn.stages.source import Source, compare, selected, source_of
from eipnn.structures import resolve, resolve_all

console = Console()

TEACHER = "teacher"
"""Name of a row's potential in the label store that it has made."""
TAUGHT = "taught.json"
"""In the folder of a teacher: digests of what its labels were made with."""


class StageError(InputError):
    """The process of a stage failed."""


def run_stage(
    stage: Stage, threads: int | None = None, finished: Mapping[Path, dict[str, Any]] | None = None, log: bool = False
) -> dict[str, Any]:
    """Bring a stage to its end and return its result (the content of ``done.json``).

    A stage that is done with the same settings and inputs is skipped; one that was cut off goes on from its last
    epoch; an older one with other settings is moved aside, not overwritten. Where a file of a finished stage is gone or
    damaged, it is made again.

    Args:
        stage: of a plan.
        threads: CPU threads of its processes.
        finished: folder -> result of the stages that it builds on.
        log: what its processes print goes to `Stage.log`.

    Raises:
        StageError: a process of the stage failed; what it had reached stays and is resumed by the next call.
    """

    def bring(before: Stage, what: str) -> str:
        if what == "taught":
            with alone(lock_of(before), before.folder, "eipnn run"):
                label_with(before)
        return str((finished or {})[before.folder]["fingerprint"])

    _write(stage)
    stage = settled(stage, bring)
    _write(stage)
    stage.folder.mkdir(parents=True, exist_ok=True)
    with alone(lock_of(stage), stage.folder, "eipnn run"):
        fingerprint = stage.fingerprint()
        _move_outdated_aside(stage, fingerprint)
        if done := _done_before(stage):
            return done
        write_json(stage.folder / "begun.json", {"fingerprint": fingerprint})
        _write_config(stage)
        _train(stage, threads, log)
        if stage.potential in stage.outputs():
            write_potential(stage.best, stage.potential)
        _check_split(stage)
        for command in stage.after:
            _call(stage, command, stage.best, threads, log)
        _check_split(stage)
        numbers = (mapping_in(stage.fit_file) or {}) | (mapping_in(stage.folder / OUTPUTS["test"]) or {})
        numbers.pop("best_checkpoint", None)
        result = stage.about | {"fingerprint": fingerprint, "files": stage.digests(), "result": numbers}
        write_json(stage.done_file, result)
        return result


def lock_of(stage: Stage) -> Path:
    """The file that who works on a stage holds."""
    return stage.folder.with_name(f".{stage.folder.name}.lock")


def settled(stage: Stage, bring: Callable[[Stage, str], str]) -> Stage:
    """The stage with every `Late` replaced by its value.

    Args:
        stage: its split is written.
        bring: has a stage come to its end, for what is asked of it, and gives its fingerprint.
    """

    @cache
    def value(late: Late) -> Any:
        fingerprint = bring(late.of, late.what) if late.of else None
        match late.what:
            case "fingerprint":
                return fingerprint
            case "taught":  # its labels follow from it, and from the structures, which are inputs of this stage
                return fingerprint
            case "labels":
                return LabelStore.open(stage.data["labels"]).fingerprint
            case "single_eip":
                source = source_of((late.of or stage).data)
                return best_eip(compare(source), source.split).eip
            case "whole_pool":
                return _selection(dict.fromkeys(stage.split.pool, TEACHER))
            case "selection":
                file = Path(stage.data["selection"])
                return digest_text(value(stage.written[file])) if file in stage.written else digest_file(file)
        chosen = selected(late.of.folder / OUTPUTS["predict"]) if late.of else None
        if late.what == "steps":
            return stage.batches(labelled_of(chosen or {}, (late.of or stage).data["labels"]))
        return _choose(stage.data, late.what, chosen, late.of.model if late.of else {})

    parts = {name: filled(getattr(stage, name), value) for name in ("inputs", "config", "about", "written")}
    return replace(stage, **parts)


def _choose(data: dict[str, Any], kind: str, chosen: dict[str, str] | None, classifier: dict[str, Any]) -> str:
    """A selection that is not the classifier's: the best EIP for the whole pool (``single``), or, where the classifier
    found an EIP, the one that is truly the closest by what that judges by (``best``) or DFT itself (``dft``).

    Args:
        data: of the data module.
        kind: which of these.
        chosen: by the classifier.
        classifier: arguments of its module.

    Raises:
        ExperimentError: a selected structure has no DFT energy, or no DFT forces to judge by.
    """
    source = source_of(data)
    ids = list(source.split.pool if chosen is None else chosen)
    if kind == "single":
        labels = [best_eip(compare(source), source.split).eip] * len(ids)
    elif (rows := source.dft.ids.find(ids)).min(initial=0) < 0:
        raise ExperimentError(
            f"{ids[int(rows.argmin())]}: strategies with eip_labels best or dft need the hidden DFT energies of the "
            f"pool, and this structure of the pool has none in {source.config.dft}; take a pool of DFT frames alone, "
            "which the split marks as pretrain"
        )
    elif kind == "dft":
        labels = [DFT] * len(ids)
    else:
        labels = [source.store.eips[place] for place in _closest(source, ids, classifier)]
    return _selection(dict(zip(ids, labels, strict=True)))


def labelled_of(chosen: Mapping[str, str], labels: str) -> int:
    """The structures of a selection for which the chosen EIP gave a label, by the label store at a path."""
    store = LabelStore.open(labels)
    eips = {i: eip for i, eip in chosen.items() if eip != DFT}
    energies = store.energies_of(list(eips), store.eips)
    columns = [store.eips.index(eip) for eip in eips.values()]
    return len(chosen) - int(np.isnan(energies[np.arange(len(columns)), columns]).sum())


def _selection(chosen: dict[str, str]) -> str:
    """The text of a selection file."""
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows([("config_id", "eip"), *chosen.items()])
    return text.getvalue()


def label_with(stage: Stage) -> None:
    """Label all structures with the potential of a finished stage, on the aligned zero, where that is not done."""
    if labelled_with(stage):
        return
    made, now = stage.folder / TAUGHT, _taught_by(stage)
    file = stage.folder / "teacher.yaml"
    write_atomically(file, yaml.safe_dump([{"name": TEACHER, "eipnn": str(stage.potential.resolve())}]))
    if stage.labels.exists() and (mapping_in(made) != now or not _begun_by(stage.labels, file)):
        shutil.rmtree(stage.labels)  # of another potential, or of other structures
    write_json(made, now)
    dft, pool = (listed(stage.data.get(key) or []) for key in ("dft", "pool"))
    files = [*pool, "--pool", *dft] if pool else dft  # with DFT for the pool there is nothing to compare it with
    command = ["label", *files, "--eips", str(file), "-o", str(stage.labels)]
    if call(command) != 0:
        raise StageError(f"{stage.folder}: its potential could not label the pool; the message stands above")


def labelled_with(stage: Stage) -> bool:
    """Whether all structures have labels of the stage's potential as it is."""
    try:
        LabelStore.open(stage.labels)
        return mapping_in(stage.folder / TAUGHT) == _taught_by(stage)
    except (LabelError, OSError):
        return False


def _taught_by(stage: Stage) -> dict[str, Any]:
    """Digests of what the labels of a teacher depend on; where files lie is no matter."""
    given = [stage.data[key] for key in ("dft", "pool") if stage.data.get(key)]
    structures = [digest_file(file) for paths in given for file in resolve_all(paths)]
    return {"potential": digest_file(stage.potential), "structures": structures}


def _begun_by(labels: Path, eips: Path) -> bool:
    """Whether a label store, whole or not, is of these EIPs."""
    try:
        return read_index(labels)["eips"] == [eip.description() for eip in load_eips(eips)]
    except LabelError:
        return False


def _closest(source: Source, ids: list[str], classifier: dict[str, Any]) -> np.ndarray:
    frames, eips = source.structures(ids), source.store.eips
    given = limits_of(**{key: classifier[key] for key in ("judge", "c", "c_forces") if key in classifier})
    limits = judged(source, eips, given, optional=given)  # the classifier has required what is required
    if "forces" in limits and not (known := frames.labelled()["forces"]).all():
        raise ExperimentError(
            f"{frames.ids[known.argmin()]}: eip_labels best needs its hidden DFT forces, by which EIPs are judged: add "
            "them, or set classify.model.judge: energy"
        )
    return closest(distances(source.targets(frames, [DFT, *eips], limits), frames.sizes, limits))


def _write(stage: Stage) -> None:
    """The small files that are written for a stage, as far as they are known."""
    for file, text in stage.written.items():
        if isinstance(text, str) and not holds(file, text):
            write_atomically(file, text)


def _write_config(stage: Stage) -> None:
    write_atomically(stage.folder / "config.yaml", yaml.safe_dump(stage.config, sort_keys=False))


def holds(file: Path, text: str) -> bool:
    """Whether this is the file's content."""
    return file.is_file() and file.read_bytes() == text.encode()


def write_potential(checkpoint: Path, file: Path) -> None:
    """Write the potential of a fine-tuned checkpoint, which calculators and `eipnn.load` read without the training."""
    try:
        Potential.load(checkpoint).save(file)
    except CheckpointError as error:  # of a backbone whose code has changed
        raise StageError(f"{file}: cannot be made: {error}") from error


def _done_before(stage: Stage) -> dict[str, Any] | None:
    """The result of a finished stage. Where its files are gone or damaged: none, and what is due again is removed."""
    done = mapping_in(stage.done_file)
    if done is None:
        return None
    lost = stage.lost(done.get("files", {}))
    if not lost:
        if not (stage.folder / "config.yaml").exists():  # the report reads it
            _write_config(stage)
        say(f"{stage.folder}: done before, skipped")
        return done
    how = "damaged" if lost[0].exists() else "gone"
    say(f"{stage.folder}: done before, but {lost[0].name} is {how}: made again")
    if lost == [stage.potential]:  # or it was finished by a version that left none
        write_potential(stage.best, stage.potential)
        done["files"] |= {stage.potential.name: digest_file(stage.potential)}
        write_json(stage.done_file, done)
        return done
    if stage.best in lost:
        _begin_anew(stage)
    stage.done_file.unlink()  # last: this may be cut off
    return None


def _begin_anew(stage: Stage) -> None:
    """Have a stage train from the start: of a lost best epoch nothing else knows."""
    for file in (stage.best, stage.last, stage.fit_file):
        file.unlink(missing_ok=True)


def _train(stage: Stage, threads: int | None, log: bool) -> None:
    """Train until ``fit.json`` tells of an end and the best checkpoint is whole."""
    for _ in range(2):
        if has_ended(stage):
            if is_whole(stage.best):
                return
            _begin_anew(stage)  # damaged since before it was resumed, and no later epoch was better
        resume = whole_checkpoint(stage)
        say(f"{stage.folder}: {'resumed' if resume else 'training'}")
        _call(stage, "fit", resume, threads, log)
        _check_ended(stage)


def has_ended(stage: Stage) -> bool:
    """Whether the training has come to its end."""
    fit = mapping_in(stage.fit_file)
    return fit is not None and fit.get("ended") != "max_time"


def _check_ended(stage: Stage) -> None:
    """Raise where a training that went well has not come to its end, or left nothing to go on with."""
    fit, again = mapping_in(stage.fit_file), "the same command goes on from here"
    if fit is None:
        raise StageError(
            f"{stage.folder}: the training was stopped before its last epoch and wrote no fit.json; {again}"
        )
    if fit.get("ended") == "max_time":
        raise StageError(
            f"{stage.folder}: trainer.max_time ended the training after {fit['epochs']} epochs, before its end; "
            f"{again} for as long again, and max_time may be changed"
        )
    if not stage.best.exists():
        raise StageError(
            f"{stage.best}: the training left no such checkpoint; it ended before its first validation, or a "
            "ModelCheckpoint of your own lacks filename: best, enable_version_counter: false, or has a dirpath"
        )


def _check_split(stage: Stage) -> None:
    """Raise where the split is no longer the one that the stage was begun with."""
    if digest_file(resolve(stage.data["split"])) != stage.inputs["split"]:
        raise StageError(
            f"{stage.data['split']}: has changed while {stage.folder} was at work, as by another `eipnn run` there "
            "with other data;\ngive the same command again, with one set of data in this folder"
        )


def record_command(run: Path, command: str) -> None:
    """Add a command to those of a run, once."""
    run.mkdir(parents=True, exist_ok=True)
    file = run / COMMANDS
    if not file.exists() or command not in file.read_text().splitlines():
        with file.open("a") as stream:
            stream.write(f"{command}\n")


def say(text: str) -> None:
    """Print a line as it is: a path is no markup, and is not broken over lines."""
    console.print(text, markup=False, highlight=False, soft_wrap=True)


def whole_checkpoint(stage: Stage) -> Path | None:
    """The last epoch to go on from, or the best where the last is damaged."""
    return next((file for file in (stage.last, stage.best) if file.exists() and is_whole(file)), None)


def is_whole(checkpoint: Path) -> bool:
    """Whether a checkpoint can be read; if not, that is said."""
    try:
        read_checkpoint(checkpoint)
    except CheckpointError as error:
        say(f"damaged, left out: {error}")
        return False
    return True


def _call(stage: Stage, command: str, checkpoint: Path | None, threads: int | None, log: bool) -> None:
    arguments = [command, "--config", str(stage.folder / "config.yaml")]
    arguments += ["--ckpt_path", str(checkpoint)] if checkpoint else []
    if (code := call(arguments, threads, stage.log if log else None)) != 0:
        where = f"its message stands at the end of {stage.log}" if log else "its message stands above"
        raise StageError(
            f"{stage.folder}: `eipnn {' '.join(arguments)}` ended with status {code}; {where}. "
            "The same `eipnn run` goes on from the last complete epoch."
        )


def mapping_in(file: Path) -> dict[str, Any] | None:
    """The mapping in a JSON file; none where there is no such file, or where it is damaged, which is said."""
    if not file.exists():
        return None
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
    except (ValueError, OSError):
        content = None
    if not isinstance(content, dict):
        say(f"{file}: damaged, left out")
        return None
    return content


def _move_outdated_aside(stage: Stage, fingerprint: str) -> None:
    """Move a stage aside that was begun with other settings, or of which nothing tells with which."""
    begun = stage.folder / "begun.json"
    if not begun.exists() or (mapping_in(begun) or {}).get("fingerprint") == fingerprint:
        return
    number = 1
    while (aside := stage.folder.with_name(f"{stage.folder.name}.old-{number}")).exists():
        number += 1
    stage.folder.rename(aside)
    stage.folder.mkdir()
    say(f"{stage.folder}: made with other settings or data; moved to {aside}")
