"""Published layouts are read value by value, and what is not in them is refused."""

import gzip
import tracemalloc

import numpy as np
import pytest
import scipy.io
from hypothesis import given, settings
from hypothesis import strategies as st
from small_files import idx, write_matlab

from attrreg.data.formats import (
    blaming,
    check_labels,
    parse_idx,
    read_cifar,
    read_lines,
    read_matlab,
    read_stl,
    read_table,
    refuse_repeats,
)

SHAPES = st.lists(st.integers(0, 5), min_size=1, max_size=4)


def random(shape, seed=0):
    return np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8)


class TestIdx:
    @settings(deadline=None)
    @given(SHAPES, st.integers(0, 99))
    def test_an_array_of_any_shape_comes_back(self, shape, seed):
        array = random(shape, seed)
        found = parse_idx(gzip.decompress(idx(array)), "it", len(shape))
        assert found.dtype == np.uint8
        assert found.shape == array.shape
        assert np.array_equal(found, array)

    @pytest.mark.parametrize(
        ("change", "said"),
        [
            (lambda raw: b"", "it begins with , expected 00 00 08 03"),
            (lambda raw: b"\x01" + raw[1:], "it begins with 01 00 08 03, expected 00 00 08 03"),
            (lambda raw: raw[:2] + b"\x0d" + raw[3:], "begins with 00 00 0d 03"),
            (lambda raw: raw[:3] + b"\x02" + raw[4:], "begins with 00 00 08 02"),
            (lambda raw: raw[:11], "it ends within its head, after 11 of 16 bytes"),
            (lambda raw: raw[:-1], r"it has 39 bytes, its head of shape \(2, 3, 4\) says 40"),
            (lambda raw: raw + b"\0", r"it has 41 bytes"),
            (lambda raw: raw[:4] + b"\xff" * 12 + raw[16:], r"\(4294967295, 4294967295, 42949672"),
        ],
    )
    def test_other_bytes_are_refused(self, change, said):
        raw = gzip.decompress(idx(random((2, 3, 4))))
        with pytest.raises(ValueError, match=said):
            parse_idx(change(raw), "it", 3)


class TestRecords:
    @pytest.mark.parametrize("label_bytes", [1, 2])
    def test_cifar_has_the_finest_label_and_the_channels_after_it(self, tmp_path, label_bytes):
        x, y = random((7, 3, 32, 32)), np.arange(7)[::-1]
        coarse = b"\x13" * (label_bytes - 1)
        path = tmp_path / "data.bin"
        path.write_bytes(
            b"".join(
                coarse + bytes([label]) + image.tobytes() for label, image in zip(y, x, strict=True)
            )
        )
        found = read_cifar(path, label_bytes, classes=7)
        assert np.array_equal(found[0], x)
        assert found[1].tolist() == y.tolist()
        assert (found[0].dtype, found[1].dtype) == (np.uint8, np.int64)
        with pytest.raises(ValueError, match=r"label 6 at place 0 of data\.bin, expected 0 … 5"):
            read_cifar(path, label_bytes, classes=6)

    def test_stl_goes_down_the_columns(self, tmp_path):
        image = np.zeros((1, 3, 96, 96), dtype=np.uint8)
        image[0, 1, 5, 80] = 9  # channel, row, column
        raw = bytearray(image.size)
        raw[1 * 96 * 96 + 80 * 96 + 5] = 9
        (tmp_path / "X.bin").write_bytes(raw)
        (tmp_path / "y.bin").write_bytes(b"\x03")
        x, y = read_stl(tmp_path / "X.bin", tmp_path / "y.bin", classes=3)
        assert np.array_equal(x, image)
        assert y.tolist() == [2]

    def test_images_of_stl_are_not_loaded(self, tmp_path):
        n = 400
        with (tmp_path / "X.bin").open("wb") as file:
            file.truncate(n * 3 * 96 * 96)
        (tmp_path / "y.bin").write_bytes(b"\x01" * n)
        tracemalloc.start()
        x, _ = read_stl(tmp_path / "X.bin", tmp_path / "y.bin", classes=1)
        _, peak = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        assert peak < 10**6 < 10**7 < x.nbytes

    @pytest.mark.parametrize("size", [0, 1, 3072, 3074, 2 * 3073 - 1])
    def test_a_file_of_other_records_is_refused(self, tmp_path, size):
        (tmp_path / "a.bin").write_bytes(bytes(size))
        with pytest.raises(ValueError, match=rf"a\.bin has {size} bytes, expected records of 3073"):
            read_cifar(tmp_path / "a.bin", 1, 10)

    def test_a_file_that_is_not_there_is_named(self, tmp_path):
        with pytest.raises(ValueError, match=r"there is no a\.bin"):
            read_cifar(tmp_path / "a.bin", 1, 10)


class TestMatlab:
    @pytest.mark.parametrize(
        "kind", ["uint8", "uint16", "int16", "int32", "int64", "float32", "float64"]
    )
    def test_arrays_of_numbers_come_back(self, tmp_path, kind):
        arrays = {"a": np.arange(24).reshape(2, 3, 4).astype(kind), "b": np.array([[7]], kind)}
        path = write_matlab(tmp_path / "a.mat", arrays)
        found = read_matlab(path, ("a", "b"), 10_000)
        for name, array in arrays.items():
            assert found[name].dtype == array.dtype
            assert np.array_equal(found[name], array)

    def test_other_arrays_are_not_read(self, tmp_path):
        path = write_matlab(tmp_path / "a.mat", {"a": np.eye(2), "c": np.array(["x"], object)})
        assert set(read_matlab(path, ("a",), 10_000)) == {"a"}

    def test_numbers_lie_as_matlab_has_them_without_a_copy(self, tmp_path):
        """So samples that come last are one after the other, as they are needed."""
        array = random((4, 4, 3, 5))
        found = read_matlab(write_matlab(tmp_path / "a.mat", {"X": array}), ("X",), 10_000)["X"]
        assert found.transpose(3, 2, 1, 0).flags.c_contiguous

    @pytest.mark.parametrize(
        "value",
        [{"field": 1}, np.array(["text"]), np.array([1, "a"], object), np.array([True]), 1j],
        ids=["struct", "text", "cell", "logical", "complex"],
    )
    def test_what_is_no_array_of_numbers_is_refused(self, tmp_path, value):
        path = write_matlab(tmp_path / "a.mat", {"a": value})
        if np.iscomplexobj(value):
            with pytest.raises(ValueError, match="are complex128, expected whole"):
                check_labels(read_matlab(path, ("a",), 10_000)["a"], range(5), "a.mat")
        else:
            with pytest.raises(ValueError, match="expected numbers"):
                read_matlab(path, ("a",), 10_000)

    def test_other_versions_are_refused(self, tmp_path):
        scipy.io.savemat(tmp_path / "4.mat", {"a": np.eye(2)}, format="4")
        scipy.io.savemat(tmp_path / "plain.mat", {"a": np.eye(2)})
        (tmp_path / "7.mat").write_bytes(b"MATLAB 7.3 MAT-file".ljust(124) + b"\x00\x02IM")
        for name, said in (("4", "begins with"), ("7", "MATLAB 7.3"), ("plain", "of type 14")):
            with pytest.raises(ValueError, match=said):
                read_matlab(tmp_path / f"{name}.mat", ("a",), 10_000)

    def test_more_than_is_allowed_is_never_unpacked(self, tmp_path):
        path = write_matlab(tmp_path / "a.mat", {"a": np.zeros(10**8, dtype=np.uint8)})
        assert path.stat().st_size < 200_000
        tracemalloc.start()
        with pytest.raises(ValueError, match="more than the bytes that are allowed"):
            read_matlab(path, ("a",), 10**6)
        _, peak = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        assert peak < 3 * 10**7

    @settings(deadline=None, max_examples=60)
    @given(st.data())
    def test_a_byte_that_is_not_as_saved_is_found(self, tmp_path_factory, data):
        """Before anything is parsed: the parser is compiled code that trusts its input."""
        path = tmp_path_factory.mktemp("mat") / "a.mat"
        raw = bytearray(write_matlab(path, {"a": random((3, 3)), "b": random((2, 9))}).read_bytes())
        place = data.draw(st.integers(124, len(raw) - 1))
        raw[place] ^= data.draw(st.integers(1, 255))
        path.write_bytes(raw)
        with pytest.raises(ValueError, match=r"a\.mat"):
            read_matlab(path, ("a", "b"), 10_000)


class TestLabels:
    @given(st.lists(st.integers(-3, 12), max_size=20), st.integers(-2, 3), st.integers(4, 9))
    def test_labels_are_whole_numbers_of_a_range_or_refused(self, labels, low, high):
        array = np.array(labels, dtype=np.int16)[:, None]
        if all(low <= label < high for label in labels):
            found = check_labels(array, range(low, high), "it")
            assert found.dtype == np.int64
            assert found.tolist() == labels
        else:
            wrong = next(at for at, label in enumerate(labels) if not low <= label < high)
            with pytest.raises(ValueError, match=rf"label {labels[wrong]} at place {wrong} of it"):
                check_labels(array, range(low, high), "it")

    @pytest.mark.parametrize("label", [0.5, np.nan, np.inf, -np.inf, 1e300])
    def test_what_is_no_whole_number_is_refused(self, label):
        with pytest.raises(ValueError, match="at place 1 of it, expected 0 … 4"):
            check_labels(np.array([1.0, label]), range(5), "it")


class TestTexts:
    def test_lines_are_stripped_and_blank_ones_passed_over(self, tmp_path):
        (tmp_path / "a.txt").write_text("\n one \r\n\ntwo two\n\n", newline="")
        assert read_lines(tmp_path / "a.txt") == ["one", "two two"]

    def test_fields_stand_apart_by_blanks(self, tmp_path):
        (tmp_path / "a.txt").write_text("#Image CLASS-ID SPECIES\na 1\n b\t2 \n")
        assert read_table(tmp_path / "a.txt", 2) == [["a", "1"], ["b", "2"]]

    def test_a_line_of_other_fields_is_refused(self, tmp_path):
        (tmp_path / "a.txt").write_text("a 1\nb 2 3\n")
        with pytest.raises(ValueError, match=r"entry 2 of a\.txt is 'b 2 3', not 2 fields"):
            read_table(tmp_path / "a.txt", 2)

    def test_a_list_as_large_as_a_film_is_refused(self, tmp_path):
        with (tmp_path / "a.txt").open("wb") as file:
            file.truncate(2**26 + 1)
        with pytest.raises(ValueError, match=r"a\.txt has 67108865 bytes, expected at most"):
            read_lines(tmp_path / "a.txt")

    def test_what_stands_twice_is_refused(self):
        refuse_repeats(["a", "b"], "the list")
        with pytest.raises(ValueError, match="the list names b twice"):
            refuse_repeats(["a", "b", "c", "b"], "the list")


def test_blame_says_which_archives_are_wrong_and_what_to_do(tmp_path):
    one, other = tmp_path / "one.tgz", tmp_path / "other.tgz"
    with (
        pytest.raises(ValueError, match="odd") as error,
        blaming(one, other),
    ):
        raise ValueError("an odd thing")
    assert str(error.value) == f"an odd thing: delete {one} and {other} and prepare again"
