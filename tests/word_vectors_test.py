"""Word vectors from hand-made files of both forms, and class names as their means."""

import numpy as np
import pytest

from usss_jax.data.word_vectors import class_vectors, close_words, orthonormal, read_word_vectors, words_of
from usss_jax.errors import InputError

ROWS = {"the": (1.0, 2.0, 3.0), "traffic": (0.5, -1.0, 0.0), "light": (1.5, 3.0, 2.0), "Road": (0.0, 1.0, 0.0)}
GLOVE = b"".join(f"{word} {' '.join(map(str, row))}\n".encode() for word, row in ROWS.items())


FORMATS = {
    "glove.txt": GLOVE,
    "fasttext.vec": b"4 3\n" + GLOVE,
    "blanks_at_line_ends.vec": b"4 3\n" + GLOVE.replace(b"\n", b" \n"),
    "tabs.tsv": GLOVE.replace(b" ", b"\t"),
    "windows.txt": GLOVE.replace(b"\n", b"\r\n"),
}


def complaint(error):
    text = str(error.value)
    assert "\n" not in text
    return text


def write(tmp_path, content, name="v.txt"):
    (tmp_path / name).write_bytes(content)
    return tmp_path / name


@pytest.mark.parametrize("name", FORMATS)
def test_every_format_gives_the_same_vectors(tmp_path, name):
    got = read_word_vectors(write(tmp_path, FORMATS[name], name), ["light", "traffic", "absent"])
    assert list(got) == ["light", "traffic"]
    for word, vector in got.items():
        assert vector.dtype == np.float32
        np.testing.assert_array_equal(vector, np.float32(ROWS[word]))


def test_a_word_is_sought_as_written_then_in_lower_case(tmp_path):
    path = write(tmp_path, b"tv 1 2\nTV 3 4\nroad 5 6\ntv 9 9\n")
    got = read_word_vectors(path, ["TV", "tv", "Road", "ROAD"])
    assert {word: vector.tolist() for word, vector in got.items()} == {
        **{"TV": [3, 4], "tv": [1, 2], "Road": [5, 6], "ROAD": [5, 6]}
    }
    assert read_word_vectors(write(tmp_path, b"Road 1 2\n"), ["road"]) == {}  # not the other way round


def test_no_words_no_reading(tmp_path):
    assert read_word_vectors(tmp_path / "absent.txt", []) == {}


@pytest.mark.parametrize("header", [b"", b"5 2\n"])
def test_other_rows_may_hold_anything(tmp_path, header):
    """Words that are no UTF-8, words with blanks (GloVe's 840B file), words that are numbers, not finite numbers."""
    rows = b"\xff\xfe\xa0 1 2\n. . . 1 2\n1984 1 2\nodd nan 2\nr\xc3\xbce 3 4\n"
    got = read_word_vectors(write(tmp_path, header + rows), ["rüe"])
    assert got["rüe"].tolist() == [3, 4]


def test_a_file_is_read_no_further_than_needed(tmp_path):
    """Damage after the last wanted word."""
    r = np.random.RandomState(0)
    rows = {f"w{i}": tuple(map(float, r.randint(-9, 9, 4))) for i in range(300)}
    text = b"300 4\n" + b"".join(f"{w} {' '.join(map(str, v))}\n".encode() for w, v in rows.items())
    got = read_word_vectors(write(tmp_path, text + b"damaged"), rows)
    assert {word: tuple(vector) for word, vector in got.items()} == rows


@pytest.mark.parametrize(
    ("content", "told"),
    [
        (b"", "v.txt:1: is neither"),
        (b"only a\n", "v.txt:1: is neither"),
        (b"a 1 2 3\nb 1 2\nc 1 2 3\n", "v.txt:2: has 2 numbers, not 3"),
        (b"a 1 2 3\nb 1 2 3\nc 1 2 3 4\n", "v.txt:3: has 4 numbers, not 3"),
        (b"2 3\na 1 2\nb 1 2 3\n", "v.txt:2: has 2 numbers, not 3"),
        (b"3 2\na 1 2\nb 1 2\n", "v.txt: ends after 2 of 3 vectors"),
        (b"a 1 2 3\nz 1 nan 3\n", "v.txt:2: the vector of 'z' is not finite"),
        (b"a 1 2 3\nz 1 1e99 3\n", "v.txt:2: the vector of 'z' is not finite"),
        (b"a 1 2 3\nz  1 2\n", "v.txt:2: the vector of 'z' has an invalid number"),
        (b"a 1 2 3\nz 1 2,5 3\n", "v.txt:2: the vector of 'z' has an invalid number"),
        (b"10 99999999999999\na 1 2\n", "v.txt:1: is neither"),
        (b"10 " + b"9" * 5000 + b"\na 1 2\n", "v.txt:1: is neither"),
        (b"\x1f\x8b\x08 packed by gzip", "v.txt:1: is neither"),
        (b"\xba\x16\x4f\x2f\x0c", "v.txt:1: is neither"),
        (b"1 2\na " + bytes(8) + b"\n", "v.txt:2: has 1 numbers, not 2; the file is binary: give it as text"),
    ],
)
@pytest.mark.filterwarnings("error")
def test_damaged_text_is_told_with_its_line(tmp_path, content, told):
    with pytest.raises(InputError) as error:
        read_word_vectors(write(tmp_path, content), ["z"])
    assert told in complaint(error)


def test_missing_file_is_told(tmp_path):
    with pytest.raises(InputError, match=r"absent\.txt: these word vectors cannot be read"):
        read_word_vectors(tmp_path / "absent.txt", ["a"])


def test_close_words_share_the_first_letters(tmp_path):
    path = write(tmp_path, b"autor 1 2\nAutorickshaws 1 2\nautos 1 2\nrickshaw 1 2\n")
    assert close_words(path, "autorickshaw", 2)[0] == "Autorickshaws"
    assert "rickshaw" not in close_words(path, "autorickshaw")


# ---- Class names ----


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("road", ["road"]),
        ("traffic light", ["traffic", "light"]),
        ("obs-str-bar-fallback", ["obs", "str", "bar", "fallback"]),
        ("non-drivable fallback", ["non", "drivable", "fallback"]),
        (" night_stand ", ["night", "stand"]),
        ("-", []),
    ],
)
def test_words_of_a_name(name, words):
    assert words_of(name) == words


def test_a_class_is_the_mean_of_its_words_with_unit_length():
    got = class_vectors(["traffic light", "Road"], ROWS, 3)
    assert got.dtype == np.float32
    np.testing.assert_allclose(got, np.array([[1, 1, 1], [0, 3**0.5, 0]]) / 3**0.5, atol=1e-7)


def test_more_dimensions_than_the_file_are_zeros():
    got = class_vectors(["traffic light", "Road"], ROWS, 5)
    np.testing.assert_allclose(got, np.array([[1, 1, 1, 0, 0], [0, 3**0.5, 0, 0, 0]]) / 3**0.5, atol=1e-7)


@pytest.mark.slow
def test_fewer_dimensions_are_one_fixed_projection_for_all_domains():
    r = np.random.RandomState(0)
    vectors = {f"w{i}": r.randn(300) + 1 for i in range(20)}
    got = class_vectors(list(vectors), vectors, 128)
    again = class_vectors(list(vectors)[5:7], vectors, 128)  # of another domain
    np.testing.assert_array_equal(got[5:7], again)
    np.testing.assert_allclose(np.linalg.norm(got, axis=1), 1, rtol=1e-6)
    rows = np.stack(list(vectors.values()))
    rows /= np.linalg.norm(rows, axis=1, keepdims=True)
    assert np.abs(got @ got.T - rows @ rows.T).max() < 0.3  # angles: a standard deviation of about 0.07
    assert not np.array_equal(got, class_vectors(list(vectors), vectors, 128, seed=1))


def test_projection_is_orthonormal():
    matrix = orthonormal(7, 3, 0)
    np.testing.assert_allclose(matrix.T @ matrix, np.eye(3), atol=1e-12)


def test_missing_word_names_class_word_and_alternatives():
    with pytest.raises(InputError) as error:
        class_vectors(["Road", "traffic lights"], ROWS, 3)
    text = complaint(error)
    assert "'traffic lights'" in text and "'lights'" in text and "similar words: 'light'" in text
    with pytest.raises(InputError, match="similar words: 'x', 'y'"):
        class_vectors(["curb"], ROWS, 3, close=lambda word: ["x", "y"])
    with pytest.raises(InputError, match="no word is similar"):
        class_vectors(["curb"], {}, 3)


def test_class_without_a_direction_is_bad_input():
    with pytest.raises(InputError, match=r"'a b'.*add up to zero"):
        class_vectors(["a b"], {"a": [1, 2], "b": [-1, -2]}, 2)
    with pytest.raises(InputError, match="'-' has no word"):
        class_vectors(["-"], {}, 2)
