"""The paper's numbers agree with themselves and its text; every row of its tables can be run."""

import importlib
import pathlib

import pytest

from usss_jax.config import checked, flat
from usss_jax.data.domains import get_domain
from usss_jax.errors import InputError
from usss_jax.experiments import arguments, paper, rows

REPO = pathlib.Path(__file__).parent.parent
EXPERIMENTS = [(table, n) for table, source in paper.TABLES.items() for n in source.rows]


def configs_of():
    paths = {pair: REPO / "configs" / f"{pair}.py" for pair in rows.PAPER_PAIR.values()}
    return {pair: arguments.domain_names(path, "", {}) for pair, path in paths.items()}


@pytest.mark.parametrize(("table", "n"), EXPERIMENTS)
def test_average_of_the_paper_is_the_mean_of_its_domains(table, n):
    """All of them are, within rounding to two digits."""
    for row, (first, second, average) in paper.TABLES[table].rows[n].items():
        if average is None:
            assert None in (first, second), row
        else:
            assert average == pytest.approx((first + second) / 2, abs=0.00501), row


@pytest.mark.parametrize("key", paper.PER_CLASS, ids=str)
def test_classes_of_the_paper_average_to_its_miou(key):
    """Within the last digit: some are cut off rather than rounded (Table 2, CamVid, basic; Table 8, CamVid)."""
    table, domain = key
    for row, (*classes, miou) in paper.PER_CLASS[key].items():
        assert len(classes) == get_domain(domain).num_classes
        assert miou == pytest.approx(sum(classes) / len(classes), abs=0.0099), row
        column = paper.domains_of(table).index(domain)
        source = paper.TABLES[paper.SCORES_OF[table]].rows[100][row]
        assert miou == pytest.approx(source[column], abs=0.0101), row  # Table 8 prints 54.61 for 54.62


def test_numbers_agree_with_the_text_of_the_paper():
    """Section 4.2: what is lost on the other domain, and in how many classes of CamVid Univ-full is ahead of basic."""
    scores = paper.table_scores(3, "cs_cvd", 100, "full")
    assert scores["train_on_camvid"]["camvid"] - scores["train_on_cityscapes"]["camvid"] == pytest.approx(13.5)
    assert int(scores["train_on_cityscapes"]["cityscapes"] - scores["train_on_camvid"]["cityscapes"]) == 18
    idd = paper.table_scores(5, "cs_idd", 100, "full")
    assert round(idd["train_on_idd"]["idd"] - idd["train_on_cityscapes"]["idd"]) == 12
    classes = paper.PER_CLASS[2, "camvid"]
    assert sum(a > b for a, b in zip(classes["full"][:-1], classes["basic"][:-1], strict=True)) == 9


def test_tables_that_print_a_row_twice_agree():
    for n in (50, 100):
        assert paper.TABLES[3].rows[n]["full"] == paper.TABLES[7].rows[n]["full"]
    for domain in paper.CS_CVD:
        twice = (paper.PER_CLASS[table, domain]["full"][:-1] for table in (2, 8))
        assert next(twice) == next(twice)
    scores = [paper.TABLES[t].rows[n]["train_on_cityscapes"][0] for t, n in ((3, 100), (5, 100), (5, 1500), (6, 1500))]
    assert scores == [40.97, 40.97, 64.23, 64.23]


def test_every_row_of_the_paper_is_ours_and_the_other_way_round():
    ours = {tuple(name.split("/")) for name in rows.named_rows(configs_of())}
    theirs = {(f"table{t}", f"n{n}", row) for t, n in EXPERIMENTS for row in paper.TABLES[t].rows[n]}
    theirs |= {(f"table{t}", "n100", row) for (t, _), of_rows in paper.PER_CLASS.items() for row in of_rows}
    assert ours - theirs == {("table4", "n375", "hung_camvid")}  # the paper cites it for Cityscapes alone
    assert not theirs - ours


def test_named_rows_are_valid_configs():
    """config:argument loads, with the overrides of the row."""
    for name, (config, row) in rows.named_rows(configs_of()).items():
        path, _, argument = config.partition(":")
        pair, n = pathlib.Path(path).stem, int(name.split("/")[1][1:])
        domains = arguments.domain_names(REPO / path, argument, {})
        assert set(row.jobs) <= set(domains)
        loaded = importlib.import_module(f"configs.{pair}").get_config(argument)
        assert str(n) in str(loaded.data.labeled_per_domain)
        assert loaded.model.encoder == rows.ENCODERS[int(name[5])][n]
        given = {field: type(flat(loaded)[field])(value) for field, value in row.overrides.items()}
        loaded.update_from_flattened_dict(given)
        loaded.variants = list(row.variants) or ["single"]
        checked(loaded)


def test_train_on_takes_its_own_score_from_the_single_network_and_the_others_from_its_frozen_encoder():
    row = rows.all_rows(["a", "b", "c"])["train_on_b"]
    assert row.jobs == {"a": "frozen_b_a", "b": "single_b", "c": "frozen_b_c"}


def test_tables_take_any_number_of_domains():
    one = [row.name for row in rows.rows_of_table(3, ["a"]) if not row.optional]
    assert one == ["train_on_a", "basic", "cross", "full"]
    three = [row.name for row in rows.rows_of_table(3, ["a", "b", "c"]) if row.optional]
    assert len(three) == 24 and {"finetune_c_a", "anchored", "self", "teacher_single_c", "unimatch"} <= set(three)


def test_unknown_table_and_row_are_named():
    with pytest.raises(InputError, match="table=1"):
        rows.rows_of_table(1, ["a"])
    with pytest.raises(InputError, match="'k4' is not one of"):
        rows.expand("k4", rows.all_rows(["a"]))


def test_cs_sun_is_that_of_table_6():
    config = checked(importlib.import_module("configs.cs_sun").get_config())
    assert config.data.domains == ("cityscapes", "sun13") and config.data.labeled_per_domain == 1500
    assert (config.model.encoder, config.optim.lr, config.train.steps) == ("resnet50", 1e-3, 200 * 150)
    assert get_domain("sun13").size == get_domain("sun13").crop == (480, 640)
