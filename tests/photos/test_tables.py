"""CSV files as people have them."""

import codecs

import pytest
from made_photographs import touch

from flowerlib.config import FlowersError
from flowerlib.photos import tables


@pytest.fixture
def place(tmp_path):
    touch(tmp_path, "a/1.jpg", "b/2.jpg", "a b.jpg", "ü.jpg")
    return tmp_path


def read(place, text, encoding="utf-8", **options):
    """Return path below the place, label and split of each row, and the notes."""
    (place / "in.csv").write_bytes(text if isinstance(text, bytes) else text.encode(encoding))
    rows, notes = tables.read(place / "in.csv", **options)
    return [(str(row.path.relative_to(place)), row.label, row.split) for row in rows], notes


TWO = [("a/1.jpg", "rose", ""), ("b/2.jpg", "iris", "")]


@pytest.mark.parametrize(
    "text",
    [
        "path,label\na/1.jpg,rose\nb/2.jpg,iris\n",
        "Path,Label\r\na/1.jpg,rose\r\nb/2.jpg,iris\r\n",
        "path;label\na/1.jpg;rose\nb/2.jpg;iris\n",
        "sep=;\npath;label\na/1.jpg;rose\nb/2.jpg;iris\n",
        "path\tlabel\na/1.jpg\trose\nb/2.jpg\tiris\n",
        "image,class\na/1.jpg,rose\nb/2.jpg,iris\n",
        "filename, species\na/1.jpg, rose\nb/2.jpg, iris\n",
        "label,File Name\nrose,a/1.jpg\niris,b/2.jpg\n",
        "path,label\na\\1.jpg,rose\nb\\2.jpg,iris\n",
        "\n\npath,label\n\na/1.jpg,rose\n,\nb/2.jpg,iris\n\n",
        'path,label\n"a/1.jpg","rose"\n"b/2.jpg","iris"\n',
        "id,breed\na/1,rose\nb/2,iris\n",
    ],
)
def test_every_usual_form_is_read(place, text):
    assert read(place, text) == (TWO, [])


@pytest.mark.parametrize(("encoding", "mark"), [("utf-16", b""), ("utf-16-le", b""), ("utf-8", codecs.BOM_UTF8)])
def test_encodings_with_and_without_a_mark(place, encoding, mark):
    rows, notes = read(place, mark + "path,label\nü.jpg,Ölbaum\na/1.jpg,花\n".encode(encoding))
    assert rows == [("ü.jpg", "Ölbaum", ""), ("a/1.jpg", "花", "")]
    assert notes == []


def test_latin_1_is_recognized_and_said(place):
    rows, notes = read(place, "path,label\na/1.jpg,rose\nü.jpg,Ölbaum\n", "cp1252")
    assert rows == [("a/1.jpg", "rose", ""), ("ü.jpg", "Ölbaum", "")]
    assert notes == ["`in.csv` is not UTF-8 (line 3); it is read as Windows-1252 (Latin-1)."]


def test_without_a_header_the_path_is_known_by_its_suffix(place):
    rows, notes = read(place, "rose,a/1.jpg\niris,b/2.jpg\n")
    assert rows == TWO
    assert notes == ["`in.csv` has no header: column 2 is taken for the path."]


@pytest.mark.parametrize(
    ("text", "columns"),
    [
        ("x,rose,a/1.jpg\ny,iris,b/2.jpg\n", ("3", "2")),
        ("what,where,who\nrose,a/1.jpg,x\niris,b/2.jpg,y\n", ("Where", "What")),
    ],
)
def test_columns_can_be_named(place, text, columns):
    assert read(place, text, columns=columns)[0] == TWO


def test_a_column_of_splits_is_kept_and_columns_that_are_not_used_are_named(place):
    text = "path,label,split,photographer,date\na/1.jpg,rose,train,x,1\nb/2.jpg,iris,Valid,y,2\na b.jpg,,test,,\n"
    rows, notes = read(place, text)
    assert rows == [("a/1.jpg", "rose", "train"), ("b/2.jpg", "iris", "val"), ("a b.jpg", "", "test")]
    assert notes == ["Columns that are not used: `photographer`, `date`."]
    with pytest.raises(FlowersError, match=r"line 3: 'new' is no split"):
        read(place, text.replace("Valid", "new"))
    assert read(place, text.replace("Valid", "new"), ignore_splits=True)[0] == [rows[0], (*rows[1][:2], ""), rows[2]]


@pytest.mark.parametrize(
    ("paths", "dropped"),
    [
        (("D:\\photos\\in\\a\\1.jpg", "D:\\photos\\in\\b\\2.jpg"), "photos/in"),
        (("/home/else/in/a/1.jpg", "/home/else/in/b/2.jpg"), "home/else/in"),
        (("flowers/a/1.jpg", "flowers/b/2.jpg"), "flowers"),
        (("file:///C:/J%C3%B6rg/a/1.jpg", "file:///C:/J%C3%B6rg/b/2.jpg"), "Jörg"),
    ],
)
def test_paths_of_another_machine_are_found_below_the_root(place, paths, dropped):
    touch(place, "root/a/1.jpg", "root/b/2.jpg")
    rows, [note] = read(place, f"path,label\n{paths[0]},rose\n{paths[1]},iris\n", root=place / "root")
    assert rows == [("root/a/1.jpg", "rose", ""), ("root/b/2.jpg", "iris", "")]
    assert note == f"Paths begin with `{dropped}`, in place of which `{place / 'root'}` is taken."


def test_a_column_for_each_class_is_read(place):
    """As Roboflow exports it."""
    rows, [note] = read(place, "filename, iris, rose\na/1.jpg, 0, 1\nb/2.jpg, 1, 0\n")
    assert rows == TWO
    assert note == "Its columns `iris`, `rose` are taken for classes, 1 in that of the photograph."
    for cells in ("0, 0", "1, 1", "0, 2"):
        with pytest.raises(FlowersError, match="is no header with the columns path,label"):
            read(place, f"filename, iris, rose\na/1.jpg, 0, 1\nb/2.jpg, {cells}\n")


def test_only_folders_that_all_paths_begin_with_are_left_out(place):
    """Else two paths could lead to one file, with two labels."""
    touch(place, "1.jpg")
    rows, notes = read(place, "path,label\ncats/1.jpg,cat\ndogs/1.jpg,dog\na/1.jpg,rose\n")
    assert [row[0] for row in rows] == ["cats/1.jpg", "dogs/1.jpg", "a/1.jpg"]
    assert notes == []
    rows, [note] = read(place, "path,label\nx/y/a/9.jpg,cat\nx/y/a/1.jpg,dog\n")  # the first is missing
    assert [row[0] for row in rows] == ["a/9.jpg", "a/1.jpg"]
    assert note.startswith("Paths begin with `x/y`")


def test_an_absolute_path_that_exists_is_taken_as_it_is(place):
    rows, notes = read(place, f"path,label\n{place}/a/1.jpg,rose\n{place}/b/2.jpg,iris\n")
    assert (rows, notes) == (TWO, [])


def test_a_backslash_in_a_files_name_is_part_of_it(place):
    touch(place, "a\\b.jpg")
    rows, _ = read(place, "path,label\na\\b.jpg,rose\na\\1.jpg,iris\n")
    assert rows == [("a\\b.jpg", "rose", ""), ("a/1.jpg", "iris", "")]


def test_what_lacks_a_file_is_left_to_be_named_with_the_others(place):
    rows, _ = read(place, "path,label\na/1.jpg,rose\na/9.jpg,iris\n")
    assert rows[1] == ("a/9.jpg", "iris", "")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("path,label\n\na/1.jpg,\n", r"line 3: a/1.jpg, needs a path and a label"),
        ('path,label\n"a\n1",x\na/1.jpg,\n', r"line 4: "),
        ("path,label\na/1.jpg,x\na/1.jpg,y\n", r"line 3: a/1.jpg is listed in line 2 too"),
        ("path,label,split\na/1.jpg,x,holdout\n", r"line 2: 'holdout' is no split; write train, val or test"),
        ("path,label\nz/1.jpg,x\n", r"line 2: `.*z/1.jpg` does not exist, nor does any other .* --root"),
        ("where,what\na,b\n", r"line 1: where, what is no header with the columns path,label; .* --columns 1,2"),
        ("", r"is empty"),
        (b"\xd0\xcf\x11\xe0 a workbook", r"is a workbook of Excel; save it as CSV"),
        (b"PK\x03\x04 half a download", r"is a zip file that is damaged or cut short; download it again"),
        ("path,label\nhttps://example.org/1.jpg,x\n", r"line 2: https://\S+ is an address; download it"),
        (b"path,label\na/1.jpg,\0\n" + b" " * 300, r"CSV|label"),
    ],
)
def test_what_is_wrong_is_named_with_its_line(place, text, message):
    with pytest.raises(FlowersError, match=message):
        read(place, text)


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        (("3", "9"), "has 2 columns; --columns 3,9 names others"),
        (("path", "kind"), "has no column 'kind'; it has path"),
        (("path",), "--columns path must name two or three columns"),
        (("1", "2", "3", "4"), "--columns 1,2,3,4 must name two or three columns"),
    ],
)
def test_a_column_that_there_is_not_is_named(place, columns, message):
    with pytest.raises(FlowersError, match=message):
        read(place, "path,label\na/1.jpg,rose\n", columns=columns)
