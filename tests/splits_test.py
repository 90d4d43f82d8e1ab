"""The seeded choice of labeled images, and the hash that goes into every result."""

import hashlib
import re

import numpy as np
import pytest
from small_files import real_data

from usss_jax.data.domains import get_domain
from usss_jax.data.sources import open_source
from usss_jax.data.splits import LISTS, check_given, choose_labeled, committed_list, rank, split_hash, spread
from usss_jax.errors import InputError

IDS = [f"frame_{i:03d}" for i in range(60)]


def test_the_choice_is_the_documented_ranking():
    """The ids with the n smallest SHA-256 of "seed:domain:id", sorted."""
    ranking = {hashlib.sha256(b"3:camvid:" + name.encode()).hexdigest(): name for name in IDS}
    want = sorted(ranking[digest] for digest in sorted(ranking)[:7])
    assert choose_labeled(IDS, 7, 3, "camvid") == want


def test_a_choice_once_made_stays_for_ever():
    """Published results name their images by this rule."""
    assert choose_labeled([str(i) for i in range(10)], 3, 0, "camvid") == ["0", "3", "5"]


@pytest.mark.parametrize("small,large", [(1, 2), (5, 20), (20, 60)])
def test_a_smaller_choice_is_a_subset_of_a_larger_one(small, large):
    few, many = (choose_labeled(IDS, n, 0, "mine") for n in (small, large))
    assert len(few) == len(set(few)) == small and len(many) == large
    assert set(few) <= set(many) <= set(IDS)


def test_the_order_of_the_listing_has_no_say():
    assert choose_labeled(IDS, 9, 0, "camvid") == choose_labeled(IDS[::-1], 9, 0, "camvid")
    assert choose_labeled(IDS, 9, 0, "camvid") == sorted(choose_labeled(IDS, 9, 0, "camvid"))


def test_seed_and_domain_change_the_choice():
    choices = {tuple(choose_labeled(IDS, 9, seed, d)) for seed in (0, 1, 2) for d in ("camvid", "cityscapes")}
    assert len(choices) == 6


def test_every_image_has_about_the_same_chance():
    """Of 10 among 60, over 200 seeds: 33 times each; a binomial deviation is 5.3."""
    counts = dict.fromkeys(IDS, 0)
    for seed in range(200):
        for name in choose_labeled(IDS, 10, seed, "camvid"):
            counts[name] += 1
    assert sum(counts.values()) == 2000
    assert min(counts.values()) > 13 and max(counts.values()) < 57


def test_all_means_every_image():
    assert choose_labeled(IDS[::-1], "all", 0, "camvid") == IDS
    assert choose_labeled(IDS, 60, 0, "camvid") == IDS


@pytest.mark.parametrize("n", [61, 0, -1])
def test_a_number_that_the_pool_cannot_give_is_an_error(n):
    with pytest.raises(InputError) as error:
        choose_labeled(IDS, n, 0, "camvid")
    text = str(error.value)
    assert "\n" not in text
    assert "camvid" in text and str(n) in text and "60" in text and "all" in text and "labeled_per_domain" in text


def test_the_hash_is_of_the_ids_of_every_domain():
    labeled = {"cityscapes": ["a", "b"], "camvid": ["c"]}
    want = hashlib.sha256(b'{"camvid": ["c"], "cityscapes": ["a", "b"]}').hexdigest()[:16]
    assert split_hash(labeled) == want


@pytest.mark.parametrize(
    "other",
    [
        {"cityscapes": ["a"], "camvid": ["c"]},
        {"cityscapes": ["a", "b"], "camvid": ["d"]},
        {"cityscapes": ["a", "b"]},
        {"cityscapes": ["a", "b"], "idd": ["c"]},
        {"cityscapes": ["c"], "camvid": ["a", "b"]},
        {"cityscapes": ["a, b"], "camvid": ["c"]},
    ],
)
def test_the_hash_changes_with_any_change_of_the_ids(other):
    assert split_hash(other) != split_hash({"cityscapes": ["a", "b"], "camvid": ["c"]})


# ---- committed lists ------------------------------------------------------------------------------------


def ids_of(path):
    return [line for line in path.read_text().splitlines() if not line.startswith("#")]


def test_there_are_lists_for_every_number_that_the_pools_allow():
    pools = {"camvid": (20, 50, 100), "idd_lite": (20, 50, 100, 375), "cityscapes256": (20, 50, 100, 375, 1500)}
    want = {f"{d}/n{n}_seed{s}.txt" for d, numbers in pools.items() for n in numbers for s in (0, 1, 2)}
    assert {str(p.relative_to(LISTS)) for p in LISTS.rglob("*.txt")} == want


@pytest.mark.parametrize("path", sorted(LISTS.rglob("*.txt")), ids=lambda p: f"{p.parent.name}/{p.stem}")
def test_a_committed_list_states_its_number_and_classes(path):
    n = int(re.fullmatch(r"n(\d+)_seed\d+", path.stem)[1])
    ids = ids_of(path)
    assert len(set(ids)) == n and ids == sorted(ids)
    domain = get_domain(path.parent.name)
    header = [line for line in path.read_text().splitlines() if line.startswith("#")]
    assert f"of {domain.num_classes} classes are there" in header[-1]
    assert all(f" {name} " in header[-1] for name in domain.class_names)


@pytest.mark.parametrize("name", ["camvid", "idd_lite", "cityscapes256"])
def test_committed_lists_are_the_rule_on_the_real_data(name):
    domain = get_domain(name)
    train = open_source(domain, real_data(domain.folder), "train")
    for path in (LISTS / name).glob("*.txt"):
        n, seed = map(int, re.fullmatch(r"n(\d+)_seed(\d+)", path.stem).groups())
        want = spread(train.ids, seed, name, n) if n <= 50 else sorted(rank(train.ids, seed, name)[:n])
        assert want == ids_of(path) == choose_labeled(train.ids, n, seed, name)
    chosen = train.select(ids_of(LISTS / name / "n50_seed1.txt"))
    shown = sum(np.isin(range(domain.num_classes), chosen[i]["label"]).astype(int) for i in range(50))
    text = ", ".join(f"{c} {k}" for c, k in zip(domain.class_names, shown, strict=True))
    assert text in (LISTS / name / "n50_seed1.txt").read_text()


def test_lists_of_few_images_have_one_of_every_part_of_the_sorted_ids():
    """Of 60 frames in 8 parts of 7 or 8; a random choice of 8 would leave such a part empty two times of three."""
    chosen = spread(IDS[::-1], 1, "camvid", 8)
    parts = [IDS[i * 60 // 8 : (i + 1) * 60 // 8] for i in range(8)]
    assert all(name in part for name, part in zip(chosen, parts, strict=True))
    assert chosen != spread(IDS, 2, "camvid", 8)


def test_an_image_of_a_committed_list_that_is_not_there_is_named():
    chosen = ids_of(committed_list("camvid", 50, 0))
    pool = [i for i in chosen if i != chosen[7]] + IDS
    with pytest.raises(InputError, match=f"1 of the 50 labeled images of camvid.*{chosen[7]}.*labeled_list"):
        choose_labeled(pool, 50, 0, "camvid")


def test_other_seeds_numbers_and_domains_follow_the_rule_alone():
    assert committed_list("camvid", 50, 3) is committed_list("camvid", 51, 0) is committed_list("mine", 50, 0) is None
    assert len(choose_labeled(IDS, 50, 3, "camvid")) == 50


@pytest.mark.parametrize(
    ("labeled", "listed", "proposed"),
    [
        ({"a": "all", "b": 0}, "ab", ["data.labeled_list=a=l.txt", "data.labeled_per_domain=a=all,b=all"]),
        ({"a": "all", "b": 0}, "b", ["an empty data.labeled_list", "data.labeled_per_domain=a=all,b=all"]),
        ({"a": 0, "b": 0}, "ab", ["data.labeled_per_domain=a=all,b=all"]),
        ({"a": 0}, "a", ["data.labeled_per_domain=a=all"]),
    ],
)
def test_what_is_proposed_for_a_domain_without_labels_that_has_a_list_is_taken(labeled, listed, proposed):
    def lists(names):
        return {name: "l.txt" if name in names else None for name in labeled}

    with pytest.raises(InputError) as error:
        check_given("", labeled, lists(listed))
    assert str(error.value).endswith(f"; give {', or give '.join(proposed)}, which the list replaces")
    check_given("", dict.fromkeys(labeled, "all"), lists(listed))
    if len(proposed) > 1:
        check_given("", labeled, lists("a" if proposed[0].endswith("a=l.txt") else ""))
