"""Papers' numbers are read from their files, and faults in these are refused."""

import pytest

from harness.errors import BadData
from harness.evidence.published import COLUMNS, Published, published_folder, read_published

HEADER = ",".join(COLUMNS)
GOOD = "Doe 2020,Table 2,BERT,QKI,accuracy,0.80,0.01,3,thesis,"


def test_published_files(tmp_path):
    (tmp_path / "doe.csv").write_text(f"{HEADER}\n{GOOD}\n")
    expected = Published("Doe 2020", "Table 2", "BERT", "QKI", "accuracy", "0.80", "0.01", "3", "thesis", "")
    assert read_published(tmp_path) == [expected]
    assert expected.label == "BERT (published: Doe 2020)"
    assert isinstance(read_published(), list)  # the project's own are valid
    assert (published_folder() / "README.md").is_file()


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("model,accuracy\nBERT,0.8\n", "expected the columns source,table"),
        (f"{HEADER}\n{GOOD},more\n", "line 2: has too many cells"),
        (f"{HEADER}\n{GOOD.replace('thesis', '')}\n", "line 2: split is empty"),
        (f"{HEADER}\n{GOOD.replace('accuracy', 'loss')}\n", "line 2: metric 'loss' is none of accuracy"),
        (f"{HEADER}\n{GOOD.replace('0.80', 'nan')}\n", "line 2: value 'nan' is no number"),
        (f"{HEADER}\n{GOOD}\n{GOOD}\n", "line 3: repeats Doe 2020, BERT, QKI"),
    ],
)
def test_bad_published_files(tmp_path, text, message):
    (tmp_path / "doe.csv").write_text(text)
    with pytest.raises(BadData, match=message):
        read_published(tmp_path)


@pytest.mark.parametrize("content", [b"\xff\xfe", HEADER.encode() + b"\n" + b"x" * 200_000 + b"\n"])
def test_a_published_file_that_is_no_csv_text_is_named(tmp_path, content):
    (tmp_path / "doe.csv").write_bytes(content)
    with pytest.raises(BadData, match=r"doe\.csv(: not a readable CSV file|, line 2: )"):
        read_published(tmp_path)


def test_the_folder_is_found_in_a_checkout_and_in_a_wheel(tmp_path):
    package, checkout = tmp_path / "harness", tmp_path / "results" / "published"
    assert published_folder(package) == checkout
    (package / "published").mkdir(parents=True)
    assert published_folder(package) == package / "published"
