"""Fig. 3 and Table 1 of the paper from invented runs: the scripts of `experiments/paper`."""

import pandas as pd
import pytest
from paper import call, script
from run_folders import BEYOND, ERRORS, write_run, write_silicon

FIGURE_3 = script("figure_3")
TABLE_1 = script("table_1")


@pytest.fixture(scope="module")
def silicon(tmp_path_factory):
    return write_silicon(tmp_path_factory.mktemp("silicon"))


def test_fig_3a_and_table_4_have_their_rows(silicon, tmp_path):
    run = write_run(tmp_path / "run", silicon, (*ERRORS, *BEYOND))
    call(FIGURE_3, str(run))
    text = (run / "figure_3" / "figure_3.md").read_text()
    for name, rows in {
        "label_sources": ["SchNet", "+LA", "+LA (true best EIP)", "+LA (DFT labels)"],
        "losses": ["SchNet", "+LA", "+LA (MSE)", "+MP+LA", "+MP+LA (MSE)"],
    }.items():
        table = pd.read_csv(run / "figure_3" / f"{name}.csv")
        assert table["row"].tolist() == rows
        assert (run / "figure_3" / f"{name}.png").stat().st_size > 10_000
        assert f"({name}.png)" in text


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
    assert "more: config MAE (eV)" in table[0]
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
