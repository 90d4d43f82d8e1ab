"""Streams of training batches: a pure function of (seed, step), resumable, cycling, shared by hosts."""

import dataclasses

import numpy as np
import pytest

from usss_jax.data.domains import get_domain
from usss_jax.data.pools import Pools
from usss_jax.data.streams import epoch_steps, iterate, micro_batches, step_batches, stream
from usss_jax.errors import InputError

H, W = 6, 10
CROP = (4, 7)


@dataclasses.dataclass
class Images:
    """Source in memory: image i has the colour (i, y, x) at (y, x) and the label i everywhere."""

    count: int
    labeled: bool = True

    @property
    def ids(self):
        return [str(i) for i in range(self.count)]

    def __len__(self):
        return self.count

    def __getitem__(self, index):
        index = int(index)
        if not 0 <= index < self.count:
            raise IndexError(index)
        y, x = np.mgrid[:H, :W]
        image = np.stack([np.full_like(y, index), y, x], axis=-1).astype(np.uint8)
        return {"image": image, "label": self.label(index)} if self.labeled else {"image": image}

    def label(self, index):
        return np.full((H, W), index, np.uint8)


def pools(labeled, unlabeled, crop=CROP):
    one = Images(1)
    return Pools(get_domain("camvid"), crop, Images(labeled), Images(unlabeled, labeled=False), one, one)


POOLS = {"city": pools(5, 12), "camvid": pools(3, 12, crop=(6, 10))}
SETTING = {"batch_size": 4, "unlabeled_batch_size": 2, "unlabeled_batches": {"city": 3, "camvid": 1}}


def batches(**changes):
    return step_batches(POOLS, **(SETTING | changes))


def leaves(batch):
    return {
        f"{kind}/{domain}/{key}": array
        for kind, part in batch.items()
        for domain, values in part.items()
        for key, array in values.items()
    }


def assert_same(got, want):
    got, want = leaves(got), leaves(want)
    assert got.keys() == want.keys()
    for name, array in want.items():
        np.testing.assert_array_equal(got[name], array, err_msg=name)


def which(images):
    """Numbers of the images in a batch."""
    return images[..., 0, 0, 0].reshape(-1).tolist()


def take(steps, kind, domain, **changes):
    """Numbers of the images of the first steps, in order."""
    data = batches(**changes)
    return [i for s in range(steps) for i in which(data[s][kind][domain]["image"])]


def test_shapes_of_a_step():
    got = {name: (a.shape, a.dtype) for name, a in leaves(batches()[0]).items()}
    assert got == {
        "labeled/city/image": ((4, 4, 7, 3), np.uint8),
        "labeled/city/label": ((4, 4, 7), np.uint8),
        "labeled/camvid/image": ((4, 6, 10, 3), np.uint8),
        "labeled/camvid/label": ((4, 6, 10), np.uint8),
        "unlabeled/city/image": ((3, 2, 4, 7, 3), np.uint8),
        "unlabeled/camvid/image": ((1, 2, 6, 10, 3), np.uint8),
    }


def test_images_keep_their_own_mask():
    data = batches()
    for s in range(4):
        for domain, part in data[s]["labeled"].items():
            np.testing.assert_array_equal(part["label"], part["image"][..., 0], err_msg=domain)


def test_unlabeled_images_come_without_a_mask():
    assert all(set(part) == {"image"} for part in batches()[2]["unlabeled"].values())


@pytest.mark.parametrize("unlabeled_batches", [None, {}])
def test_supervised_training_has_no_unlabeled_part(unlabeled_batches):
    assert set(batches(unlabeled_batches=unlabeled_batches)[0]) == {"labeled"}


def test_only_the_named_domains_have_unlabeled_images():
    batch = batches(unlabeled_batches={"camvid": 2})[0]
    assert set(batch["labeled"]) == {"city", "camvid"} and set(batch["unlabeled"]) == {"camvid"}


def test_the_batch_of_a_step_depends_on_seed_and_step_alone():
    first, second = batches(seed=3), batches(seed=3)
    backwards = {s: second[s] for s in (40, 7, 0, 7)}
    for s in (0, 7, 40):
        assert_same(first[s], backwards[s])


@pytest.mark.parametrize("name", ["labeled/city/image", "unlabeled/camvid/image"])
@pytest.mark.slow
def test_another_seed_or_step_gives_another_batch(name):
    different = [leaves(batches(seed=seed)[s])[name].tobytes() for seed in (0, 1, 2) for s in (0, 1, 2)]
    assert len(set(different)) == 9


def test_adding_the_unlabeled_stream_does_not_change_the_labeled_one():
    alone, both = batches(unlabeled_batches=None)[5], batches()[5]
    assert_same({"labeled": alone["labeled"]}, {"labeled": both["labeled"]})


def test_a_domain_has_the_same_batches_whichever_other_domains_take_part():
    alone = step_batches({"camvid": POOLS["camvid"]}, batch_size=4)[3]
    assert_same({"labeled": {"camvid": batches()[3]["labeled"]["camvid"]}}, alone)


@pytest.mark.parametrize("start", [0, 5])
@pytest.mark.slow
def test_going_on_in_the_middle_gives_the_same_batches(start):
    data = batches()
    iterator = iterate(batches(), start, threads=2)
    try:
        for s in range(start, start + 6):
            assert_same(next(iterator), data[s])
    finally:
        iterator.close()


@pytest.mark.slow
def test_the_number_of_threads_does_not_matter():
    got = []
    for threads in (1, 3):
        iterator = iterate(batches(), 2, threads)
        got.append([next(iterator) for _ in range(8)])
        iterator.close()
    for one, three in zip(*got, strict=True):
        assert_same(one, three)


@pytest.mark.parametrize("count", [2, 4])
@pytest.mark.slow
def test_the_shares_of_all_hosts_together_are_the_batch_of_one_host(count):
    setting = {"batch_size": 4, "unlabeled_batch_size": 4}
    whole, shares = batches(**setting), [batches(**setting, share=(i, count)) for i in range(count)]
    for s in (0, 1, 9):
        got = [leaves(share[s]) for share in shares]
        for name, array in leaves(whole[s]).items():
            if name.startswith("labeled"):
                array, parts = array[None], [g[name][None] for g in got]
            else:
                parts = [g[name] for g in got]  # every micro-batch alone
            assert all(part.shape[1] == array.shape[1] // count for part in parts)
            np.testing.assert_array_equal(np.concatenate(parts, axis=1), array, err_msg=name)


def test_hosts_that_cannot_share_a_batch_evenly_are_an_error():
    with pytest.raises(InputError, match="3 hosts cannot share batches of 4"):
        batches(share=(0, 3))


def test_shares_keep_image_and_mask_together():
    for index in range(2):
        part = batches(share=(index, 2))[3]["labeled"]["city"]
        assert part["image"].shape[0] == 2
        np.testing.assert_array_equal(part["label"], part["image"][..., 0])


@pytest.mark.slow
def test_every_epoch_sees_every_image_once_in_a_new_order():
    """12 unlabeled images of "city", 6 in a step."""
    numbers = take(20, "unlabeled", "city")
    epochs = [numbers[i : i + 12] for i in range(0, len(numbers), 12)]
    assert len(epochs) == 10 and all(sorted(epoch) == list(range(12)) for epoch in epochs)
    assert len({tuple(epoch) for epoch in epochs}) == 10


def test_a_small_pool_cycles_within_a_batch():
    """Three labeled images fill batches of four: every three in a row are all of them."""
    numbers = take(6, "labeled", "camvid")
    assert len(numbers) == 24
    assert all(sorted(numbers[i : i + 3]) == [0, 1, 2] for i in range(0, 24, 3))


def test_streams_of_two_domains_and_of_two_kinds_do_not_run_in_step():
    assert take(6, "unlabeled", "camvid") != take(2, "unlabeled", "city")  # 12 of 12 images each
    same = {d: pools(12, 12) for d in ("a", "b")}
    batch = step_batches(same, batch_size=12, unlabeled_batch_size=12, unlabeled_batches={"a": 1, "b": 1})[0]
    orders = {name: tuple(which(a)) for name, a in leaves(batch).items() if name.endswith("image")}
    assert len(set(orders.values())) == len(orders) == 4


def test_an_image_is_cropped_and_flipped_anew_every_time():
    data = stream(Images(1), pools(1, 1), seed=0)
    positions = [data[i]["image"][0, :, 1:].astype(int) for i in range(40)]  # (y, x) of the first row's pixels
    assert {p[0, 0] for p in positions} == {0, 1, 2}
    assert {p[:, 1].min() for p in positions} == {0, 1, 2, 3}
    assert {bool(p[0, 1] > p[1, 1]) for p in positions} == {False, True}


# ---- Number of unlabeled micro-batches ----


@pytest.mark.parametrize(
    "unlabeled,labeled,batch,unlabeled_batch,want",
    [
        (2975, 100, 10, 10, 29),  # Cityscapes: 298 batches over 10
        (367, 100, 10, 10, 3),  # CamVid: 37 over 10
        (367, 50, 10, 10, 7),  # 37 over 5
        (2975, 1500, 10, 10, 1),  # 298 over 150
        (2975, 2975, 10, 10, 1),  # all labeled
        (2975, 95, 10, 10, 29),  # 95 images are 10 batches too
        (2975, 101, 10, 10, 27),  # 298 over 11
        (2975, 100, 10, 20, 14),  # 149 over 10
        (5, 40, 10, 10, 1),  # fewer unlabeled than labeled batches: one all the same
    ],
)
def test_every_epoch_goes_through_the_unlabeled_pool_once(unlabeled, labeled, batch, unlabeled_batch, want):
    one = pools(labeled, unlabeled)
    assert micro_batches("pool", one, epoch_steps({"only": one}, batch), unlabeled_batch) == want


def test_a_given_number_of_micro_batches_is_taken_as_it_is():
    assert micro_batches(5, pools(100, 2975), 10, 10) == 5


def test_an_epoch_is_that_of_the_domain_with_most_labels():
    """375 labeled images in batches of 10 are 38 steps; the domain with 50 cycles, and its pool is still seen once."""
    both = {"large": pools(375, 2975), "small": pools(50, 367)}
    assert epoch_steps(both, 10) == 38
    assert micro_batches("pool", both["large"], 38, 10) == 298 // 38
    assert micro_batches("pool", both["small"], 38, 10) == 1


def test_rare_sampling_shows_the_image_of_the_rare_class_most_and_is_a_function_of_the_step():
    """Labels are the images' numbers: 4 of 5 images have class 0 or 1, the last alone has class 4."""

    class Skewed(Images):
        def label(self, index):
            return np.full((H, W), index if index == 4 else index % 2, np.uint8)

    pool = dataclasses.replace(pools(1, 1), labeled=Skewed(5), rare_temperature=0.05)
    first, second = (step_batches({"city": pool}, batch_size=10, seed=1) for _ in range(2))
    drawn = [i for s in range(40) for i in which(first[s]["labeled"]["city"]["image"])]
    assert drawn.count(4) > 0.9 * len(drawn)  # shares 0.4, 0.4, 0.2: exp(0.2 / 0.05) = 55 times each of the others
    assert set(drawn) - {4}
    assert_same(first[17], second[17])
    for s in range(3):
        part = first[s]["labeled"]["city"]
        numbers = part["image"][..., 0]
        np.testing.assert_array_equal(part["label"], np.where(numbers == 4, 4, numbers % 2))


def test_scale_and_flip_follow_the_pool():
    still = dataclasses.replace(pools(1, 1, crop=(H, W)), flip=False)
    plain = step_batches({"city": still}, batch_size=4)
    want = Images(1)[0]["image"]
    assert all((image == want).all() for s in range(5) for image in plain[s]["labeled"]["city"]["image"])
    doubled = dataclasses.replace(still, scale=(2.0, 2.0))
    rows = step_batches({"city": doubled}, batch_size=4)[0]["labeled"]["city"]["image"][..., 1]
    assert rows.shape == (4, H, W) and all(row.max() - row.min() <= H // 2 for row in rows)
