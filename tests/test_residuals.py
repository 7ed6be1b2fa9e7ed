"""The log of residuals and outliers in label augmentation, and what Fig. 3 makes of it."""

from pathlib import Path
from unittest.mock import patch

import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from lightning.pytorch import Trainer, seed_everything
from paper import script
from residual_log import (
    COLUMNS,
    COUNTS,
    FILE,
    SPREADS,
    THRESHOLDS,
    ResidualLog,
    errors_per_atom,
    gets_gradient,
    log_before,
    measure,
)
from tiny import (
    EIPS,
    MISSING,
    SMALL,
    attached,
    eipnn_stage,
    stage_config,
    targets_of,
    total_energy,
    write_dft,
)

from eipnn import FinetuneDataModule, FinetuneModule
from eipnn.errors import InputError
from eipnn.report.runs import ReportError
from eipnn.representations import SchNet
from eipnn.stages.terms import Term

FIGURE_3 = script("figure_3")
outliers, spreads, pooled = FIGURE_3.outliers, FIGURE_3.spreads, FIGURE_3.pooled
read_residuals, selection_table = FIGURE_3.read_residuals, FIGURE_3.selection_table

EPOCHS = 4


def hidden(tiny, folder: Path, known: int = 40, shift: float = 0.0) -> dict:
    """The data with the first pool frames in the DFT file, `shift` eV/atom off, and a selection of all EIPs."""
    folder.mkdir(exist_ok=True)
    names = [n for n in tiny.frames if not n.startswith("pool")] + tiny.ids("pool")[:known]
    frames = [tiny.frames[n] for n in names]
    totals = [
        total_energy(a, tiny.cohesive[n]) + shift * len(a) * n.startswith("pool")
        for n, a in zip(names, frames, strict=True)
    ]
    chosen = {n: EIPS[k % 3] for k, n in enumerate(tiny.ids("pool")[:known])}
    chosen[MISSING] = "au"
    rows = Path(tiny.data["split"]).read_text().splitlines(keepends=True)
    kept = [row for row in rows if not row.startswith("pool") or row.split(",")[0] in chosen]
    (folder / "split.csv").write_text("".join(kept))
    files = {
        "dft": str(write_dft(folder / "dft.extxyz", frames, totals)),
        "split": str(folder / "split.csv"),
        "selection": str(tiny.select(folder / "selection.csv", chosen)),
        "pool": None,
    }
    return tiny.data | files | {"batch_size": 8}


def config(tiny, folder: Path, **model) -> dict:
    made = stage_config(tiny, "Finetune", folder / "run", max_epochs=EPOCHS)
    made["data"]["init_args"] = hidden(tiny, folder)
    made["model"]["init_args"] |= model
    made["trainer"]["callbacks"] = [{"class_path": "residual_log.ResidualLog"}]
    return made


@pytest.fixture(scope="module")
def whole(tiny, own_cache, tmp_path_factory):
    """The folder of a training with hidden DFT energies."""
    return eipnn_stage("fit", config(tiny, tmp_path_factory.mktemp("whole")))


def error_of(tiny, name: str, eip: str) -> float:
    """What a label is off DFT, eV/atom."""
    energy = tiny.eip[name][EIPS.index(eip)]
    return (energy - tiny.cohesive[name]) / len(tiny.frames[name])


def term_of(loss: str) -> Term:
    return FinetuneModule(SchNet(**SMALL), eip_loss=loss).eip_terms["energy"]


def loss_of(term: Term, residual: torch.Tensor) -> torch.Tensor:
    """Of EIP labels of one atom each."""
    is_dft = torch.zeros(len(residual), dtype=torch.bool)
    return term(residual, targets_of(torch.zeros_like(residual), is_dft))


def kept(residual: torch.Tensor, loss: str) -> torch.Tensor:
    term = term_of(loss)
    loss_of(term, residual)
    return gets_gradient(term, residual)


numbers = st.floats(-5, 5, allow_subnormal=False)
batches = st.lists(st.tuples(numbers, st.booleans(), st.one_of(numbers, st.just(float("nan")))), min_size=1)


@given(batch=batches, loss=st.sampled_from(["tukey", "tukey_normalised", "mse"]))
def test_a_line_counts_what_it_says(batch, loss):
    residual, is_dft, error = (np.array(column) for column in zip(*batch, strict=True))
    used = kept(torch.tensor(residual), loss)
    line = measure(torch.tensor(residual), torch.tensor(is_dft), torch.tensor(error), used)
    found = dict(zip((*SPREADS, *COUNTS), line.tolist(), strict=True))
    eip = [r for r, d in zip(residual, is_dft, strict=True) if not d]
    k = np.inf if loss == "mse" else 4.685 * np.median(np.abs(residual)) / 0.6745
    taken = [k > 0 and abs(r) <= k * (1 + 1e-12) for r in residual]
    assert found["n_eip"] == len(eip)
    assert found["n_kept"] == sum(t and not d for t, d in zip(taken, is_dft, strict=True))
    known = [i for i in range(len(batch)) if not is_dft[i] and np.isfinite(error[i])]
    assert found["n_known"] == len(known)
    for c in THRESHOLDS:
        bad = [i for i in known if abs(error[i]) > c]
        assert found[f"outliers_{c:g}"] == len(bad)
        assert found[f"kept_{c:g}"] == sum(taken[i] for i in bad)
    assert found["spread"] == pytest.approx(np.median(np.abs(residual)) / 0.6745)
    assert np.isnan(found["spread_eip"]) == (not eip)
    if eip:
        assert found["spread_eip"] == pytest.approx(np.median(np.abs(eip)) / 0.6745)


@pytest.mark.parametrize("loss", ["tukey", "tukey_normalised", "mse"])
@given(residual=st.lists(numbers, min_size=2, max_size=20))
def test_what_counts_as_kept_is_what_has_a_gradient(loss, residual):
    """A residual of exactly 0 or k has none, and is kept."""
    r = torch.tensor(residual, dtype=torch.float64, requires_grad=True)
    (slope,) = torch.autograd.grad(loss_of(term_of(loss), r), r)
    assert not (slope != 0)[~kept(r.detach(), loss)].any()
    k = 4.685 * np.median(np.abs(residual)) / 0.6745
    inside = (np.abs(residual) > 1e-3) & (np.abs(residual) < 0.99 * k)
    assert (slope != 0)[torch.tensor(inside)].all()


def errors_of(data: FinetuneDataModule) -> np.ndarray:
    return errors_per_atom(data.source, list(data.chosen), data.source.chosen(data.chosen)["energy"][:, 0])


def test_error_per_atom_is_known_where_the_dft_file_has_the_structure(tiny, tmp_path):
    arguments = hidden(tiny, tmp_path)
    zero = tiny.arguments["energy_zero"]
    net = FinetuneModule(SchNet(**SMALL))
    data = attached(FinetuneDataModule(**arguments | {"energy_zero": zero}), net)
    expected = [error_of(tiny, name, name_of) for name, name_of in data.chosen.items()]
    np.testing.assert_allclose(errors_of(data), expected, atol=1e-6)
    plain = tiny.arguments | {"selection": arguments["selection"]}
    assert np.isnan(errors_of(attached(FinetuneDataModule(**plain), net))).all()


def test_the_log_has_a_line_a_batch_and_the_outliers_of_an_epoch(tiny, whole):
    table = pd.read_csv(whole / FILE)
    assert tuple(table.columns) == COLUMNS
    steps = 39 // 6  # of eight places a batch two are DFT's
    assert table["step"].tolist() == list(range(EPOCHS * steps))
    assert table["epoch"].tolist() == [e for e in range(EPOCHS) for _ in range(steps)]
    assert (table["n_eip"] == 6).all()
    assert (table["n_known"] == 6).all()
    assert (table[list(SPREADS)] > 0).all(axis=None)
    for c in THRESHOLDS:
        assert (table[f"kept_{c:g}"] <= table[f"outliers_{c:g}"]).all()
    assert (table["outliers_0.1"] >= table["outliers_0.3"]).all()
    # of 39 labels an epoch leaves three out
    chosen = pd.read_csv(whole.parent / "selection.csv", index_col="config_id")["eip"]
    bad = sum(abs(error_of(tiny, n, eip)) > 0.1 for n, eip in chosen.items() if eip in EIPS and n != MISSING)
    assert all(bad - 3 <= n <= bad for n in table.groupby("epoch")["outliers_0.1"].sum())
    assert table["n_kept"].sum() < table["n_eip"].sum()


def test_a_log_where_there_is_a_selection_and_no_trial_run(tiny, whole, tmp_path):
    assert (whole / FILE).exists()
    made = config(tiny, tmp_path)
    made["trainer"]["fast_dev_run"] = True
    assert not (eipnn_stage("fit", made) / FILE).exists()
    for stage in ("Classifier", "Finetune"):
        plain = stage_config(tiny, stage, tmp_path / stage, callbacks=made["trainer"]["callbacks"], max_epochs=1)
        assert not (eipnn_stage("fit", plain) / FILE).exists()


def cut_off(made: dict, epochs: int) -> str:
    """Train some of the epochs with the schedule of all; the path of the last checkpoint."""

    class Killed(BaseException):
        pass

    calls = []

    def on_train_epoch_start(self) -> None:
        calls.append(1)
        if len(calls) > epochs:
            raise Killed

    with (
        patch.object(FinetuneModule, "on_train_epoch_start", on_train_epoch_start),
        pytest.raises(Killed),
    ):
        eipnn_stage("fit", made)
    root = Path(made["trainer"]["default_root_dir"])
    return str(root / "checkpoints" / "last.ckpt")


def test_a_resumed_training_has_the_log_of_an_uninterrupted_one(tiny, whole, tmp_path):
    made = config(tiny, tmp_path)
    last = cut_off(made, 2)
    file = tmp_path / "run" / FILE
    expected = (whole / FILE).read_text()
    half = file.read_text()
    assert expected.startswith(half)
    assert len(half.splitlines()) == 1 + 12
    # killed after an epoch was logged and before its checkpoint: those lines are made again
    lines = expected.splitlines(keepends=True)
    file.write_text("".join(lines[: 1 + 18]))
    assert (eipnn_stage("fit", made, "--ckpt_path", last) / FILE).read_text() == expected
    # nothing is left to train
    eipnn_stage("fit", made, "--ckpt_path", last)
    assert file.read_text() == expected
    # begun anew in the same folder
    assert (eipnn_stage("fit", made) / FILE).read_text() == expected


def test_a_log_that_is_gone_or_foreign(whole, tmp_path, caplog):
    text = (whole / FILE).read_text()
    assert log_before(whole / FILE, 24) == text
    assert not caplog.records
    assert log_before(whole / FILE, 6) == "".join(text.splitlines(keepends=True)[:7])
    assert not caplog.records
    log_before(whole / FILE, 30)
    assert f"{whole / FILE}: nothing is known of the steps 24 to 29" in caplog.text
    file = tmp_path / FILE
    assert log_before(file, 6) == ",".join(COLUMNS) + "\n"
    assert f"{file}: nothing is known of the steps 0 to 5" in caplog.text
    file.write_text("step,loss\n1,2\n")
    with pytest.raises(InputError, match="not the log of this version"):
        log_before(file, 6)


def trained_weights(tiny, folder: Path, **kwargs) -> tuple[dict, pd.DataFrame]:
    arguments = hidden(tiny, folder, **kwargs) | {"energy_zero": tiny.arguments["energy_zero"]}
    seed_everything(0)
    net = FinetuneModule(SchNet(**SMALL))
    trainer = Trainer(
        max_epochs=2,
        accelerator="cpu",
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        num_sanity_val_steps=0,
        default_root_dir=folder,
        callbacks=[ResidualLog()],
    )
    trainer.fit(net, datamodule=FinetuneDataModule(**arguments, handover=net.handover))
    return net.state_dict(), pd.read_csv(folder / FILE)


def test_hidden_energies_change_the_log_and_nothing_else(tiny, tmp_path):
    weights, log = trained_weights(tiny, tmp_path / "true")
    shifted, other = trained_weights(tiny, tmp_path / "shifted", shift=5.0)
    assert weights.keys() == shifted.keys()
    for name, value in weights.items():
        torch.testing.assert_close(shifted[name], value, rtol=0, atol=0)
    pd.testing.assert_frame_equal(log[[*SPREADS, "n_kept"]], other[[*SPREADS, "n_kept"]])
    assert (other["outliers_0.1"] == other["n_eip"]).all()
    assert (log["outliers_0.1"] < log["n_eip"]).any()


def test_the_table_of_a_selection(tiny, tmp_path):
    arguments = hidden(tiny, tmp_path) | {"energy_zero": tiny.arguments["energy_zero"]}
    data = FinetuneDataModule(**arguments)
    chosen = data.chosen
    table = selection_table(data.source, chosen).set_index("eip")
    assert table.index.tolist() == [*EIPS, "all"]
    for eip in EIPS:
        names = [n for n, e in chosen.items() if e == eip]
        known = [n for n in names if (n, eip) != (MISSING, "au")]
        expected = [len(names), len(known), len(known)]
        expected += [sum(abs(error_of(tiny, n, eip)) > c for n in known) for c in THRESHOLDS]
        assert table.loc[eip].tolist() == expected
    assert (table.loc["all"] == table.loc[list(EIPS)].sum()).all()
    plain = FinetuneDataModule(**tiny.arguments)
    unknown = selection_table(plain.source, chosen).set_index("eip")
    assert unknown.loc["all", "selected"] == len(chosen)
    assert not unknown[["known", "outliers_0.1"]].any(axis=None)
    assert selection_table(plain.source, {})["selected"].tolist() == [0, 0, 0, 0]


def test_pictures_of_a_training(whole, tmp_path):
    table = read_residuals(whole)
    for draw in (outliers, spreads):
        draw(table, "tiny", tmp_path / "picture.png")
        assert (tmp_path / "picture.png").read_bytes().startswith(b"\x89PNG")
        (tmp_path / "picture.png").unlink()
    with pytest.raises(ReportError, match="the DFT energy of no chosen structure is known"):
        outliers(table.assign(n_known=0), "tiny", tmp_path / "picture.png")
    with pytest.raises(ReportError, match=r"residuals\.csv: missing"):
        read_residuals(tmp_path)
    assert not list(tmp_path.iterdir())


def test_pooled_logs_add_counts_and_average_spreads(whole):
    table = read_residuals(whole)
    twice = pooled([table, table.iloc[:-1].assign(spread=3 * table["spread"])])
    assert len(twice) == len(table) - 1  # steps that both have
    assert twice["n_eip"].tolist() == (2 * table["n_eip"].iloc[:-1]).tolist()
    assert twice["spread"].to_numpy() == pytest.approx(2 * table["spread"].iloc[:-1].to_numpy())
