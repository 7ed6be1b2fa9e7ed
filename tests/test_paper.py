"""Fig. 3, Table 1 and where strategies lose, from invented runs: the scripts of `experiments/paper`."""

import numpy as np
import pandas as pd
import pytest
from paper import call, script
from run_folders import BEYOND, ERRORS, ZERO, write_run, write_silicon

from eipnn.labels import LabelStore
from eipnn.structures import energy

FIGURE_3 = script("figure_3")
LOST_GROUND = script("lost_ground")
TABLE_1 = script("table_1")


@pytest.fixture(scope="module")
def silicon(tmp_path_factory):
    return write_silicon(tmp_path_factory.mktemp("silicon"))


def test_fig_3a_and_table_4_have_their_rows(silicon, tmp_path):
    run = write_run(tmp_path / "run", silicon, (*ERRORS, *BEYOND))
    call(FIGURE_3, str(run))
    text = (run / "figure_3" / "figure_3.md").read_text()
    for name, rows in {
        "label_sources": ["SchNet", "+LA", "+LA (true best EIP)", "+LA (corrected EIP)", "+LA (DFT labels)", "+MP"],
        "losses": ["SchNet", "+LA", "+LA (MSE)", "+MP+LA", "+MP+LA (MSE)"],
        "one_eip": [
            "SchNet",
            "+LA",
            "+MP",
            "+MP+LA",
            "SchNet-long",
            "+MP-long",
            "+LA (one EIP)",
            "+MP (one EIP)",
            "SchNet on DFT - EIP",
            "+MP on DFT - EIP",
            "SchNet on DFT - EIP, long",
            "+MP on DFT - EIP, long",
        ],
    }.items():
        table = pd.read_csv(run / "figure_3" / f"{name}.csv")
        assert table["row"].tolist() == rows
        assert (run / "figure_3" / f"{name}.png").stat().st_size > 10_000
        assert f"({name}.png)" in text
    assert "That EIP is sw." in text
    table = pd.read_csv(run / "figure_3" / "one_eip.csv").set_index("row")
    assert table.loc["+MP (one EIP)", "pretraining_steps"] in (20, "20")


def test_fig_3_of_a_run_that_has_none_of_it(silicon, tmp_path):
    run = write_run(tmp_path / "run", silicon, ("baseline", "la"))
    with pytest.raises(SystemExit, match=r"figure_3\.py: .*run: none of the rows of Fig. 3 and Table 4"):
        call(FIGURE_3, str(run), "-o", str(tmp_path / "out"))


def test_several_data_sets_make_one_table(silicon, tmp_path):
    run = write_run(tmp_path / "run", silicon)
    (tmp_path / "more").mkdir()
    more = write_silicon(tmp_path / "more")
    other = write_run(tmp_path / "other", more, ("baseline", "mp"))
    third = write_run(tmp_path / "third", more, ("baseline", "mp"), splits=(1,))
    for file in third.glob("**/config.yaml"):
        file.write_text(file.read_text().replace("SchNet", "CGCNN"))
    folders = [str(folder) for folder in (run, other, third)]
    call(TABLE_1, *folders, "-o", str(tmp_path / "both"))
    assert (tmp_path / "both" / "report.md").exists()
    text = (tmp_path / "both" / "table_1.md").read_text()
    lines = [line for line in text.splitlines() if line.startswith("|")]
    table = [[c.strip() for c in line.split("|")][1:-1] for line in lines]
    assert "more: config MAE (meV)" in table[0]
    assert [line[:2] for line in table[2:]] == [
        ["-", "Best EIP"],
        *(["SchNet", row] for row in ("DFT alone", "+LA", "+MP", "+MP+LA")),
        *(["CGCNN", row] for row in ("DFT alone", "+MP")),
    ]
    cells = {tuple(line[:2]): line[2:] for line in table}
    assert cells["-", "Best EIP"][0] == cells["-", "Best EIP"][2]  # the same silicon
    assert cells["SchNet", "DFT alone"][0] == cells["SchNet", "DFT alone"][2]
    assert cells["SchNet", "+LA"][2:] == ["-", "-"]
    assert cells["CGCNN", "+MP"][:2] == ["-", "-"]
    assert cells["CGCNN", "DFT alone"][2].endswith("(n = 1)")
    assert "(n" not in cells["SchNet", "+MP"][2]
    assert (tmp_path / "both" / "data_sets.png").stat().st_size > 10_000
    csv = pd.read_csv(tmp_path / "both" / "data_sets.csv")
    assert len(csv) == (1 + 4) + (1 + 2 + 2)


def test_backbones_on_one_data_set_stand_side_by_side(silicon, tmp_path):
    root = tmp_path / "root"
    write_run(root / "schnet", silicon)
    write_run(root / "other", silicon, ("baseline", "mp"))
    for file in root.glob("other/**/config.yaml"):
        file.write_text(file.read_text().replace("SchNet", "SOAPNet"))
    call(TABLE_1, str(root), "-o", str(tmp_path / "out"))
    assert "## All backbones on" in (tmp_path / "out" / "overview.md").read_text()
    rows = pd.read_csv(tmp_path / "out" / "overview.csv")
    assert rows["row"].str.startswith("Best EIP").sum() == 1
    assert rows["row"].tolist()[1:] == ["SOAPNet", "+MP", "SchNet", "+LA", "+MP", "+MP+LA"]
    assert rows["backbone"].tolist()[1:] == ["SOAPNet"] * 2 + ["SchNet"] * 4
    assert (tmp_path / "out" / "overview.png").stat().st_size > 10_000


def test_two_settings_of_one_backbone_are_not_put_into_one_table(silicon, tmp_path):
    run = write_run(tmp_path / "run", silicon, ("baseline",))
    (tmp_path / "more").mkdir()
    other = write_run(tmp_path / "other", write_silicon(tmp_path / "more"), ("baseline",))
    twin = write_run(tmp_path / "twin", write_silicon(tmp_path / "more"), ("baseline",))
    for file in twin.glob("**/config.yaml"):
        file.write_text(file.read_text().replace("cutoff: 5.0", "cutoff: 4.0"))
    folders = [str(folder) for folder in (run, other, twin)]
    with pytest.raises(SystemExit, match=r"table_1\.py: SchNet was trained on .*with two kinds"):
        call(TABLE_1, *folders, "-o", str(tmp_path / "all"))
    assert not (tmp_path / "all" / "data_sets.csv").exists()


@pytest.fixture(scope="module")
def lost(silicon, tmp_path_factory):
    """A run with every strategy and with fewer frames, and what the script wrote of it."""
    run = write_run(tmp_path_factory.mktemp("lost") / "run", silicon, (*ERRORS, *BEYOND))
    write_run(run, silicon, ("baseline", "mp"), frames=12, larger=4.0)
    call(LOST_GROUND, str(run), "-o", str(run / "lost"))
    return run


def test_negative_transfer_is_named(lost):
    total = 48  # DFT frames for training and validation
    table = pd.read_csv(lost / "lost" / "negative_transfer.csv").set_index(["strategy", "frames"])
    worse = table.loc[("la-single", total)]
    assert worse["against"] == "baseline-long"
    assert worse["lost"] == worse["n"] == 2
    assert worse["gain_percent"] == pytest.approx(100 * (1 - 0.6 / 0.35), abs=1e-6)
    assert table.loc[("mp", total), "against"] == table.loc[("mp", 12), "against"] == "baseline"
    assert f"+LA (one EIP) with {total} frames" in (lost / "lost" / "lost_ground.md").read_text()


def test_chosen_labels_stand_beside_the_networks_on_the_same_frames(lost, silicon):
    rows = pd.read_csv(lost / "lost" / "label_quality.csv").set_index("row", drop=False)
    store = LabelStore.open("bundled:si_mini/labels")
    labels, networks = [], []
    for split in (1, 2):
        fold = lost / f"split-{split}" / "seed-0"
        chosen = pd.read_csv(fold / "classify" / "predictions_test.csv", keep_default_na=False)
        chosen = chosen[chosen["eip"] != "none"].set_index("config_id")["eip"]
        predicted = pd.read_csv(fold / "baseline" / "predictions_test.csv").set_index("config_id")
        for name, eip in chosen.items():
            atoms = silicon.dft[name]
            dft = energy(atoms) - ZERO * len(atoms)
            labels.append(abs(store.energies_of([name], [eip])[0, 0] - dft) / len(atoms))
            networks.append(abs(predicted["prediction"] - predicted["energy"])[name] / len(atoms))
    assert rows["n"].tolist()[:2] == [len(labels)] * 2
    errors = rows["atom_mae_eV_per_atom"]
    assert errors["chosen EIP labels"] == pytest.approx(np.mean(labels))
    assert errors["SchNet"] == pytest.approx(np.mean(networks))


@pytest.mark.parametrize("of_test", [True, False])
def test_a_classifier_that_chose_no_eip(silicon, tmp_path, of_test):
    run = write_run(tmp_path / "run", silicon, ("baseline", "la"), splits=(1,))
    file = run / "split-1" / "seed-0" / "classify" / "predictions_test.csv"
    if of_test:
        pd.read_csv(file, keep_default_na=False).assign(eip="none").to_csv(file, index=False)
    call(LOST_GROUND, str(run), "-o", str(tmp_path / "out"))
    text = (tmp_path / "out" / "lost_ground.md").read_text()
    assert ("No classifier chose an EIP for any test configuration" in text) == of_test
    assert ("chosen EIP labels" in text) != of_test


def test_lost_ground_of_a_run_that_is_not_there(silicon, tmp_path):
    with pytest.raises(SystemExit, match=r"lost_ground\.py: .*no such run folder"):
        call(LOST_GROUND, str(tmp_path / "gone"), "-o", str(tmp_path / "out"))
