"""Prepared records give what the folder gives, and every complaint about them."""

import json
import pathlib
import pickle
import shutil
import subprocess
import sys
import threading

import cv2
import numpy as np
import pytest
import tiny_data

from data_prep import inputs
from data_prep.builder import RecordsConfig
from data_prep.camvid import Camvid
from usss_jax.data import records
from usss_jax.data.domain import IGNORE
from usss_jax.data.domains import get_domain
from usss_jax.data.sources import open_source
from usss_jax.errors import InputError
from usss_jax.methods.imagenet import images

REPO = pathlib.Path(__file__).parent.parent
CAMVID = get_domain("camvid")
SIZE = (48, 64)  # of the made-up images


def prepare(source, data_dir, builder_class=Camvid, domain=CAMVID, **settings):
    """Prepare and return the folder of the version."""
    config = RecordsConfig(domain=domain, source=str(source), **settings)
    builder = builder_class(data_dir=str(data_dir), config=config, file_format="array_record")
    builder.download_and_prepare()
    return pathlib.Path(builder.data_dir)


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A made-up CamVid and its records in three sizes."""
    root = tmp_path_factory.mktemp("camvid")
    tiny_data.write_camvid(root / "folder", count=5)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(inputs, "SHARD_EXAMPLES", 2)
        for size in (None, (24, 32), (30, 50)):
            prepare(root / "folder", root / "out", size=size)
    return root


def open_both(made, split="train", **arguments):
    arguments = {"size": SIZE} | arguments
    return (open_source(CAMVID, root, split, **arguments) for root in (made / "folder", f"tfds:{made / 'out'}"))


def same(one, other):
    assert list(one.ids) == list(other.ids) and len(one) == len(other)
    for i in range(len(one)):
        assert one[i].keys() == other[i].keys()
        for key, value in one[i].items():
            assert value.dtype == other[i][key].dtype and np.array_equal(value, other[i][key]), (i, key)


def complaint(error):
    text = str(error.value)
    assert "\n" not in text
    return text


# ---- the same as the folder -----------------------------------------------------------------------------


@pytest.mark.parametrize("split", ["train", "val", "test"])
@pytest.mark.parametrize("size", [SIZE, (24, 32), (30, 50), (17, 99)])
def test_examples_are_those_of_the_folder(made, split, size):
    same(*open_both(made, split, size=size))


@pytest.mark.parametrize("arguments", [{"with_masks": False}, {"ids": ["0001TP_000004", "0001TP_000001"]}, {}])
def test_so_are_masks_ids_selections_and_copies(made, arguments):
    folder, source = open_both(made, **arguments)
    same(folder, source)
    same(folder, pickle.loads(pickle.dumps(source)))
    ids = [folder.ids[-1], folder.ids[0]]
    same(folder.select(ids), source.select(ids))
    assert source[-1].keys() == folder[-1].keys() and isinstance(source, records.RecordSource)


def test_default_size_is_the_domains(made):
    same(*open_both(made, size=None))


def test_wrong_ids_are_named_like_those_of_the_folder(made):
    for source in open_both(made):
        with pytest.raises(InputError, match="id 'x' is not in"):
            source.select(["x"])
    with pytest.raises(InputError, match="id '0001TP_000001' occurs twice"):
        list(open_both(made, ids=["0001TP_000001"] * 2))[1]


def test_records_of_another_size_are_refused(made):
    """Resized twice, they would give other pixels than the folder."""
    with pytest.raises(InputError) as error:
        opened(made / "out/camvid/camvid_30x50/1.0.0", (15, 25))
    text = complaint(error)
    assert "are 30x50 (height x width), not 15x25" in text
    assert "prepare them again with --size=15x25, or train with data.image_size=camvid=30x50" in text
    with pytest.raises(InputError, match=r"are 30x50 .*, not 360x480"):  # the domain's own
        opened(made / "out/camvid/camvid_30x50/1.0.0", None)
    folder, source = open_both(made, size=(15, 25))
    same(folder, source)
    same(folder, opened(made / "out/camvid/camvid/1.0.0", (15, 25)))  # original files


def test_threads_may_share_a_source(made):
    folder, source = open_both(made)
    source, expected, wrong = pickle.loads(pickle.dumps(source)), [folder[i] for i in range(5)], []

    def read(seed):
        for i in np.random.default_rng(seed).integers(0, 5, 40):
            if not all(np.array_equal(source[i][key], expected[i][key]) for key in expected[i]):
                wrong.append(i)

    threads = [threading.Thread(target=read, args=(seed,)) for seed in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong


def test_opening_reads_no_record_and_masks_are_left_alone(made, monkeypatch):
    def fail(*_):
        raise AssertionError("must not be called")

    monkeypatch.setattr(records, "_decode_label", fail)
    assert set(next(s for s in list(open_both(made, with_masks=False))[1:])[0]) == {"image"}
    monkeypatch.setattr(records._Reader, "read", fail)
    assert len(list(open_both(made))[1]) == 5


def test_reading_and_preparing_do_without_tensorflow(made):
    """In a process of its own, since other tests import jax."""
    code = "\n".join(
        (
            "import sys",
            "from usss_jax.data.domains import get_domain",
            "from usss_jax.data.sources import open_source",
            f"open_source(get_domain('camvid'), 'tfds:{made / 'out'}', 'train', size={SIZE})[0]",
            "import data_prep.camvid",
            "assert not {'tensorflow', 'torch', 'jax'} & set(sys.modules), sys.modules",
        )
    )
    subprocess.run([sys.executable, "-c", code], cwd=pathlib.Path(__file__).parent.parent, check=True)


# ---- which folder ---------------------------------------------------------------------------------------


def opened(root, size=SIZE, domain=CAMVID, split="train", **arguments):
    return records.open_records(domain, f"tfds:{root}", split, size=size, **arguments)


@pytest.mark.parametrize(
    ("size", "folder"), [(SIZE, "camvid"), ((24, 32), "camvid_24x32"), ((30, 50), "camvid_30x50"), ((9, 9), "camvid")]
)
def test_fitting_size_is_found_below_the_data_dir(made, size, folder):
    for root in (made / "out", made / "out/camvid"):
        assert opened(root, size)._reader.folder == str(made / "out/camvid" / folder / "1.0.0")


def test_versioned_folder_itself_may_be_given(made):
    folder = made / "out/camvid/camvid_24x32/1.0.0"
    assert opened(folder, (24, 32))._reader.folder == str(folder)


def test_several_of_which_none_fits_are_listed(made, tmp_path):
    shutil.copytree(made / "out", tmp_path / "out")
    shutil.rmtree(tmp_path / "out/camvid/camvid")
    assert opened(tmp_path / "out", (30, 50))
    with pytest.raises(InputError) as error:
        opened(tmp_path / "out")
    text = complaint(error)
    assert "are 24x32 and 30x50 (height x width), not 48x64" in text
    assert "data.image_size=camvid=24x32 or data.image_size=camvid=30x50" in text


def test_several_of_the_same_size_are_listed(made, tmp_path):
    shutil.copytree(made / "out", tmp_path / "out")
    prepare(made / "folder", tmp_path / "out", size=(24, 32), image_format="jpeg")
    with pytest.raises(InputError, match=r"give one folder of .*camvid_24x32/1.0.0, .*camvid_24x32_jpeg/1.0.0"):
        opened(tmp_path / "out", (24, 32))


def test_no_records_there(made, tmp_path):
    work = tmp_path / "out/camvid/camvid/.partial_1.0.0/1.0.0"
    shutil.copytree(made / "out/camvid/camvid/1.0.0", work)  # not finished yet
    (tmp_path / "other").mkdir()
    (tmp_path / "other/metadata.json").write_text("{}")
    for root in (tmp_path, tmp_path / "nothing", made / "folder"):
        with pytest.raises(InputError, match="no records of domain 'camvid'; prepare them"):
            opened(root)


def test_records_of_another_domain_are_not_taken(made):
    with pytest.raises(InputError, match="no records of domain 'idd_lite'"):
        opened(made / "out", domain=get_domain("idd_lite"))


# ---- complaints -----------------------------------------------------------------------------------------


@pytest.fixture
def version(made, tmp_path):
    """A copy of the records at original size, to be spoilt."""
    return pathlib.Path(shutil.copytree(made / "out/camvid/camvid/1.0.0", tmp_path / "1.0.0"))


def change_metadata(version, change):
    path = version / "metadata.json"
    metadata = json.loads(path.read_text())
    change(metadata)
    path.write_text(json.dumps(metadata))


def test_records_of_a_domain_that_has_changed_are_refused(version):
    change_metadata(version, lambda m: m["label_space"]["ids"].update(sky=[3]))
    with pytest.raises(InputError) as error:
        opened(version)
    assert "camvid has changed since it was prepared: ids.sky was [3], is now [0]; delete this" in complaint(error)


def test_records_that_do_not_say_what_their_labels_mean_are_refused(version):
    change_metadata(version, lambda m: m.pop("label_space"))
    with pytest.raises(InputError, match="was prepared by an older version; delete this folder and prepare it again"):
        opened(version)


def test_unknown_split_names_those_there_are(version):
    with pytest.raises(InputError, match="has no split 'vall', did you mean 'val'"):
        opened(version, split="vall")
    change_metadata(version, lambda m: m["splits"].pop("val"))
    with pytest.raises(InputError, match=r"has no split 'val'. it has train, test"):
        opened(version, split="val")


def test_split_without_labels_says_so(version):
    change_metadata(version, lambda m: m["splits"]["test"].update(labeled=False))
    assert set(opened(version, split="test", with_masks=False)[0]) == {"image"}
    with pytest.raises(InputError, match=r"'test' of domain 'camvid' in .*: it has no labels"):
        opened(version, split="test")


def test_images_kept_without_label(made, tmp_path):
    root = tmp_path / "folder"
    shutil.copytree(made / "folder", root)
    for i in (1, 3):
        (root / f"trainannot/0001TP_{i:06d}.png").unlink()
    version = prepare(root, tmp_path / "out", missing_mask="keep")
    with pytest.raises(InputError, match=r"'0001TP_000001' has no mask; set data\.on_bad_example=skip"):
        opened(version)
    skipped = []
    source = opened(version, skip=lambda *what: skipped.append(what))
    assert list(source.ids) == [f"0001TP_{i:06d}" for i in (0, 2, 4)] and source[1].keys() == {"image", "label"}
    assert [key for key, _ in skipped] == ["0001TP_000001", "0001TP_000003"]
    assert "'0001TP_000003' has no mask" in skipped[1][1]
    assert len(opened(version, with_masks=False, skip=lambda *_: pytest.fail("no mask is wanted"))) == 5
    ids = ["0001TP_000004", "0001TP_000000"]
    same(open_source(CAMVID, root, "train", size=SIZE, ids=ids), opened(version, ids=ids))
    same(open_source(CAMVID, root, "train", size=SIZE, with_masks=False), opened(version, with_masks=False))


def first_shard(version):
    return min(version.glob("camvid-train*"))


def test_missing_shard_is_named(version):
    first_shard(version).unlink()
    with pytest.raises(InputError, match=r"train.array_record-00000-of-00003: is missing"):
        opened(version)
    assert opened(version, split="val")


def test_shard_that_was_cut_short_is_named(version):
    path = first_shard(version)
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(InputError) as error:
        opened(version)
    assert f"{path}: is truncated" in complaint(error) and "prepare it again" in complaint(error)


def test_damaged_record_is_named(version):
    path = first_shard(version)
    data = bytearray(path.read_bytes())
    middle = data.index(b"IDAT") + 50
    data[middle] ^= 0xFF
    path.write_bytes(data)
    with pytest.raises(InputError) as error:
        opened(version)[0]
    assert "'0001TP_000000' of split 'train' cannot be read" in complaint(error)


def test_records_in_another_order_are_refused(version):
    change_metadata(version, lambda m: m["splits"]["train"]["ids"].reverse())
    with pytest.raises(InputError, match="has '0001TP_000000' in the place of '0001TP_000004'"):
        opened(version)[0]


def test_damaged_metadata_is_named(version):
    (version / "metadata.json").write_text("{")
    with pytest.raises(InputError, match=r"metadata.json: cannot be read"):
        opened(version)


@pytest.mark.parametrize(
    ("label", "message"),
    [
        (np.full(SIZE, 11, np.uint8), "label 11, but camvid has 0-10"),
        (np.zeros((*SIZE, 3), np.uint8), "not an 8-bit grey PNG"),
        (np.zeros((5, 5), np.uint8), "the mask is 5x5 but its image in the same record is 48x64"),
        (None, "not an 8-bit grey PNG"),
    ],
)
def test_wrong_label_is_named(made, monkeypatch, label, message):
    source = list(open_both(made))[1]
    read = source._reader.read
    data = None if label is None else cv2.imencode(".png", label)[1].tobytes()
    monkeypatch.setattr(source._reader, "read", lambda key, row: read(key, row) | {"label": data})
    with pytest.raises(InputError, match=f"'0001TP_000002' of split 'train': .*{message}"):
        source[2]


def test_ignore_is_in_the_labels(made):
    assert list(open_both(made))[1][0]["label"][0, 0] == IGNORE


# ---- without the packages ------------------------------------------------------------------------------


@pytest.mark.parametrize("lacking", ["tensorflow_datasets", "array_record"])
def test_without_their_packages_records_say_what_to_install(made, monkeypatch, lacking):
    """Also array_record alone: tfds needs it only when it opens a file."""
    for name in [name for name in sys.modules if name.split(".")[0] == lacking]:
        monkeypatch.setitem(sys.modules, name, None)
    monkeypatch.setitem(sys.modules, lacking, None)
    for read in (lambda: list(open_both(made))[1], lambda: images.open_data(f"tfds:{made / 'out'}")):
        with pytest.raises(InputError, match=rf"{lacking}.*pip install 'usss_jax\[records\]'"):
            read()
    assert next(open_both(made))[0]["image"].shape == (*SIZE, 3)  # of the folder


def test_without_them_preparing_is_one_line():
    code = (
        "import runpy, sys; sys.modules['array_record'] = None; runpy.run_module('data_prep.camvid', None, '__main__')"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=REPO, capture_output=True, text=True)
    (line,) = done.stderr.splitlines()
    assert done.returncode == 2 and line.startswith("data_prep: error: ") and "'usss_jax[records]'" in line
