"""The contents of manifests in JSONL and CSV, read line by line, whether valid or not."""

import csv
import io
import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from faceid.errors import InvalidInput
from faceid.manifests.reading import MAX_LINE, BadLine, Entry
from tests.faceid.manifests import HEADER, LINE, MARK, REQUEST, ROW, read, shown


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def only_bad(content: str | bytes, name: str = "m.jsonl", *roots: str) -> BadLine:
    (found,) = read(content, name, *roots)
    assert isinstance(found, BadLine)
    return found


# --- Requests ---


@pytest.mark.parametrize(("name", "content"), [("m.jsonl", LINE), ("m.csv", HEADER + ROW)])
def test_a_request_reads_the_same_from_both_formats(folder: Path, name: str, content: str):
    (entry,) = read(content, name)
    assert isinstance(entry, Entry)
    assert entry.manifest == name
    assert entry.line == (1 if name == "m.jsonl" else 2)
    assert entry.request.model_dump() == REQUEST | {
        "resources": {"ImageUrl": f"{folder}/a.jpg", "VideoUrl": f"{folder}/a.mp4"}
    }
    assert "a.jpg" not in repr(entry)


def test_locations_start_from_the_manifest(folder: Path):
    (folder / "day").mkdir()
    (entry,) = read(LINE, "day/m.jsonl")
    assert isinstance(entry, Entry)
    assert entry.request.resources["ImageUrl"] == f"{folder}/day/a.jpg"


def test_links_and_peoples_data_are_taken():
    link = "https://host/a.jpg?q-signature=1"
    fields = {
        "request_id": "r-1",
        "target_action": "IdCardOCRVerification",
        "region": "ap-singapore",
        "resources": {"ImageUrl": link},
        "action_parameters": {"IdCard": "1", "Name": "2"},
    }
    header = "request_id,target_action,region,ImageUrl,IdCard,Name\n"
    (from_json,) = read(json.dumps(fields))
    (from_csv,) = read(f"{header}r-1,IdCardOCRVerification,ap-singapore,{link},1,2\n", "m.csv")
    assert isinstance(from_json, Entry)
    assert isinstance(from_csv, Entry)
    assert from_json.request.model_dump() == from_csv.request.model_dump() == fields


def test_the_action_decides_what_a_row_may_have():
    header = "request_id,target_action,region,ImageUrl,VideoUrl,LivenessType,Nationality,Name\n"
    start = "r-1,VideoLivenessCompare,ap-singapore,a.jpg,"
    found = read(
        f"{header}{start}a.mp4,SILENT,THA,\n{start},SILENT,,\n{start}b,SILENT,,Kim\n", "c.csv"
    )
    assert shown(found) == [
        (2, "parameter Nationality is not a parameter of VideoLivenessCompare "
            "(LivenessType, ValidateData)"),
        (3, "resource VideoUrl is missing: VideoLivenessCompare takes ImageUrl, VideoUrl"),
        (4, "parameter Name is not a parameter of VideoLivenessCompare "
            "(LivenessType, ValidateData)"),
    ]  # fmt: skip


def test_actions_that_were_added_are_known(folder: Path, monkeypatch: pytest.MonkeyPatch):
    table = [{"name": "Mine", "resources": [{"name": "ShoeUrl"}], "regions": ["ap-jakarta"]}]
    (folder / "actions.json").write_text(json.dumps(table))
    monkeypatch.setenv("FACEID_ACTIONS", "actions.json")
    row = "request_id,target_action,region,ShoeUrl\nr-1,Mine,ap-jakarta,a\n"
    assert shown(read(row, "m.csv")) == [(2, "r-1")]


locations = st.text(st.characters(codec="utf-8", exclude_characters="\0"), min_size=1, max_size=20)
requests: st.SearchStrategy[dict[str, Any]] = st.fixed_dictionaries(
    {
        "request_id": st.from_regex(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}", fullmatch=True) | locations,
        "target_action": st.sampled_from(["VideoLivenessCompare", "LivenessCompare", "None"]),
        "region": st.sampled_from(["ap-singapore", "ap-bangkok", "ap-tokyo"]),
        "resources": st.fixed_dictionaries(
            {"ImageUrl": locations}, optional={"VideoUrl": locations, "LiveDataUrl": locations}
        ),
        "action_parameters": st.fixed_dictionaries(
            {"LivenessType": st.sampled_from(["SILENT", "LIP", "HOP"])},
            optional={"ValidateData": st.sampled_from(["1234", "x"]), "ImageBase64": locations},
        ),
    }
)
COLUMNS = (
    *("request_id", "target_action", "region", "ImageUrl", "VideoUrl", "LiveDataUrl"),
    *("LivenessType", "ValidateData", "ImageBase64"),
)


@given(st.lists(requests, max_size=5), st.sampled_from(["\n", "\r\n"]), st.booleans())
@hypothesis_settings(max_examples=60, deadline=None)
def test_csv_and_jsonl_say_the_same(batch: list[dict[str, Any]], end: str, bom: bool):
    text = io.StringIO(newline="")
    writer = csv.DictWriter(text, COLUMNS, lineterminator=end, quoting=csv.QUOTE_ALL)
    writer.writeheader()
    for request in batch:
        texts = {name: request[name] for name in COLUMNS[:3]}
        writer.writerow(texts | request["resources"] | request["action_parameters"])
    start = "\ufeff" if bom else ""
    lines = end.join(json.dumps(request, ensure_ascii=False) for request in batch)

    from_csv = read(start + text.getvalue(), "m.csv")
    from_json = read(start + lines, "m.jsonl")
    assert [
        each.request if isinstance(each, Entry) else (each.reason, each.request_id)
        for each in from_csv
    ] == [
        each.request if isinstance(each, Entry) else (each.reason, each.request_id)
        for each in from_json
    ]
    assert len(from_csv) == len(batch)


# --- Bad lines ---


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        ("{", "is not JSON (column 2)"),
        (f'{{"{MARK}": {MARK}}}', "is not JSON (column 17)"),
        ("[]", "is not a JSON object; each line must be one"),
        ('"r-1"', "is not a JSON object; each line must be one"),
        ("[" * 100_000, "is nested too deeply"),
        ('{"a":' * 100_000, "is nested too deeply"),
        ('{"request_id": ' + "1" * 5000 + "}", "contains a number with too many digits"),
        ('{"request_id": "a", "request_id": "b"}', "contains the same key twice"),
        ('{"resources": {"ImageUrl": "a", "ImageUrl": "b"}}', "contains the same key twice"),
        (b'{"request_id": "\xff"}', "is not UTF-8"),
        ("{}", "request_id is missing"),
        (
            {"file": MARK},
            "a key is not one of request_id, target_action, region, resources, action_parameters",
        ),
        ({"region": None}, "region: Input should be a valid string"),
        ({"region": 1}, "region: Input should be a valid string"),
        ({"request_id": 1}, "request_id: must be a letter or digit, then up to 63 of A-Z a-z"),
        ({"request_id": f"{MARK}/a"}, "request_id: must be a letter or digit"),
        ({"request_id": "r-1\n"}, "request_id: must be a letter or digit"),
        ({"resources": [MARK]}, "resources: Input should be a valid dictionary"),
        ({"resources": {"ImageUrl": 1}}, "resources: Input should be a valid string"),
        ({"resources": {"ImageUrl": None}}, "resources: Input should be a valid string"),
        ({"resources": {"ImageUrl": "\ud800"}}, "contains half a character"),
        ({"region": "\udfff"}, "contains half a character"),
        ({"a": {"\udfff": 1}}, "contains half a character"),
        ({"action_parameters": None}, "action_parameters: Input should be a valid dictionary"),
        ({"target_action": MARK}, "target_action must be ApplyCardVerification or ApplyWeb"),
        ({"region": MARK}, "region must be ap-bangkok or ap-hongkong or ap-singapore for VideoL"),
        ({"resources": {MARK: "a"}}, "resources: contains a name that no target action uses"),
        (
            {"action_parameters": {MARK: "a"}},
            "action_parameters: contains a name that no target action",
        ),
        ({"resources": {"ImageUrl": MARK}}, "resource VideoUrl is missing"),
        ({"resources": {"ImageUrl": ""}}, "resource VideoUrl is missing"),
        (
            {"resources": {"ImageUrl": "", "VideoUrl": "a.mp4"}},
            "resource ImageUrl: the location is empty",
        ),
        (
            {"resources": {"ImageUrl": f"/{MARK}.jpg", "VideoUrl": "a.mp4"}},
            "resource ImageUrl: the file lies outside the working folder",
        ),
        ({"action_parameters": {"LivenessType": MARK}}, "parameter LivenessType must be LIP or"),
        ({"action_parameters": {"VideoMd5": MARK}}, "parameter VideoMd5 is computed from the"),
        ({"action_parameters": {"VideoUrl": MARK}}, "parameter VideoUrl is a resource, not a"),
        ({"action_parameters": {"Name": MARK}}, "parameter Name is not a parameter of VideoLiv"),
    ],
)  # fmt: skip
def test_a_bad_line_says_why_and_nothing_else(line: str | bytes | dict[str, Any], reason: str):
    text = json.dumps(REQUEST | line) if isinstance(line, dict) else line
    content = text if isinstance(text, bytes) else text.encode()
    bad = only_bad(content)
    assert bad.reason.startswith(reason)
    assert MARK not in str(bad)
    assert str(bad).startswith(f"m.jsonl, line 1: {reason}")
    # Reading continues with the next line.
    assert shown(read(content + b"\n\n" + LINE.encode()))[1:] == [(3, "r-1")]


def test_a_bad_line_has_its_request_id_where_that_is_right():
    assert only_bad(json.dumps(REQUEST | {"region": "x"})).request_id == "r-1"
    assert only_bad(json.dumps(REQUEST | {"request_id": "r/1"})).request_id == ""
    assert only_bad(json.dumps(REQUEST | {"request_id": ["r"]})).request_id == ""
    assert only_bad("{").request_id == ""


def test_no_query_is_shown():
    line = json.dumps(REQUEST | {"resources": {"ImageUrl": f"https://h/?{MARK}", "VideoUrl": "b"}})
    bad = only_bad(line, "m.jsonl", "s3://bucket")
    assert bad.reason == "resource ImageUrl: the location is outside FACEID_RESOURCE_ROOTS"


@pytest.mark.parametrize("name", ["m.jsonl", "m.csv"])
def test_a_line_that_is_too_long_is_passed_over(name: str):
    start = HEADER if name == "m.csv" else ""
    good = ROW if name == "m.csv" else LINE
    long = b"x" * (3 * MAX_LINE + 7) + b"\n"
    number = 3 if start else 2
    found = read((start + good).encode() + long + good.encode() + long[:-1], name)
    too_long = "is longer than 1,048,576 bytes"
    assert shown(found)[1:] == [(number, too_long), (number + 1, "r-1"), (number + 2, too_long)]


@pytest.mark.parametrize(("spare", "count"), [(0, 1), (-1, 1), (1, 0)])
def test_the_limit_of_a_line_is_its_bytes(spare: int, count: int):
    line = LINE[:-2].encode() + b" " * (MAX_LINE + spare - len(LINE) + 1) + b"}"
    assert len(line) == MAX_LINE + spare
    for end in (b"", b"\n"):
        assert sum(isinstance(each, Entry) for each in read(line + end)) == count


# --- CSV ---


def test_cells_may_hold_commas_quotes_and_lines():
    row = 'r-1,CheckIdCardInformation,ap-singapore,"a, ""b""\nc.jpg","{\n""Quality"":\n\ntrue}"\r\n'
    header = "request_id,target_action,region,ImageUrl,Config\r\n"
    found = read(f"\n{header}\r\n,,,,\n   \n{row}{row}x", "m.csv")
    assert shown(found) == [
        (6, "r-1"),
        (11, "r-1"),
        (16, "has 1 cells where the header has 5"),
    ]
    assert isinstance(found[0], Entry)
    assert found[0].request.resources["ImageUrl"].endswith('/a, "b"\nc.jpg')
    assert found[0].request.action_parameters["Config"] == '{\n"Quality":\n\ntrue}'


@pytest.mark.parametrize(
    ("header", "reason"),
    [
        ("request_id,target_action\n", "the header has no column region"),
        (HEADER.replace(",", ";"), "the header has no column request_id (columns are separated"),
        (ROW, "the header has no column request_id"),
        (f"{MARK}," + HEADER, "the header's column 1 is neither a resource nor a parameter"),
        (HEADER.replace("ImageUrl", "imageurl"), "the header's column 4 is neither a resource"),
        ("VideoUrl," + HEADER, "the header has the column VideoUrl twice"),
        ("region," + HEADER, "the header has the column region twice"),
        (HEADER.strip() + ',"\n', "is not CSV"),
        (HEADER.strip() + ',"a"b\n', "is not CSV"),
        (HEADER.encode() + b"", None),
        (b"\xff" + HEADER.encode(), "is not UTF-8"),
        (b"\xff\xfe" + HEADER.encode("utf-16-le"), "is not UTF-8"),
        ("x" * 2 * MAX_LINE, "is longer than"),
        (
            f"request_id,target_action,region,{'x' * 140_000}\n",
            "a cell has more than 131,072 characters",
        ),
    ],
)
def test_a_wrong_header_is_one_bad_line(header: str | bytes, reason: str | None):
    content = header.encode() if isinstance(header, str) else header
    found = read(content + ROW.encode(), "m.csv")
    if reason is None:
        assert shown(found)[0] == (2, "r-1")
        return
    (bad,) = found
    assert isinstance(bad, BadLine)
    assert bad.line == 1
    assert bad.reason.startswith(reason)
    assert MARK not in bad.reason


def test_an_empty_cell_is_not_given():
    (bad,) = read(HEADER + ",VideoLivenessCompare,ap-singapore,a.jpg,a.mp4,SILENT,\n", "m.csv")
    assert shown([bad]) == [(2, "request_id is missing")]


NOT_CSV = (
    "is not CSV: a quote is not closed or not at the end of its cell, or a CR does not end a line"
)


@pytest.mark.parametrize(
    ("row", "reason"),
    [
        ('r-0,"a"b,c,,,,\n', NOT_CSV),
        ("r-0,a\rb,c,,,,\n", NOT_CSV),
        ('r-0,"a,b,c,,,,\n', NOT_CSV),
        (b"r-0,\xff,c,,,,\n", "is not UTF-8"),
        (
            f"r-0,{'x' * 140_000},c,,,,\n",
            "a cell has more than 131,072 characters, or a quote is not closed",
        ),
        ("r-0,a\n", "has 2 cells where the header has 7"),
        (ROW.strip() + ",\n", "has 8 cells where the header has 7"),
    ],
)
def test_after_a_broken_row_the_next_is_read(row: str | bytes, reason: str):
    content = row if isinstance(row, bytes) else row.encode()
    # An unclosed quote extends to the end of the file, or to the limit.
    for more in (3, 1100):
        found = read(HEADER.encode() + content + more * ROW.encode(), "m.csv")
        assert shown(found)[0] == (2, reason)
        assert shown(found)[1:] == [(line, "r-1") for line in range(3, 3 + more)]


def test_a_record_of_many_lines_has_the_same_limit_in_bytes():
    names = "ImageUrl VideoUrl LiveDataUrl DeviceDataUrl CompareImageUrl ImageUrlFront ImageUrlBack"
    header = f"request_id,target_action,region,{names.replace(' ', ',')},Config,Name\n"
    cell = '"' + ("x" * 64_000 + "\n") * 2 + '"'
    row = "r-1,IdCardOCRVerification,ap-singapore," + ",".join(9 * [cell])
    found = read(f"{header}{row}\n\nr-2{',' * 11}\n", "m.csv")
    assert shown(found)[0] == (2, "is longer than 1,048,576 bytes")
    assert shown(found)[-1] == (22, "target_action is missing")
    fits = read(f"{header}{row.replace('x', '', 110_000)}\n", "m.csv")
    assert shown(fits)[0][1].startswith("IdCardOCRVerification has no resource VideoUrl")


PIECES = [
    *(HEADER.encode(), ROW.encode(), LINE.encode(), MARK.encode(), b"\xef\xbb\xbf", b"\xff"),
    *(b'{"request_id": "', b'"resources": {', b'": "', b'", "', b'"}', b"}", b"{", b"[", b"\\u"),
    *(b'"', b'""', b",", b"\n", b"\r", b"\r\n", b"\0", b":", b"r-1,", b"VideoLivenessCompare,"),
    *(b"ap-singapore,", b"https://h/?", b"s3://", b"/", b"..", b"1e999", b"NaN", b"null"),
]


@given(
    st.lists(st.sampled_from(PIECES) | st.binary(max_size=5), max_size=30).map(b"".join),
    st.sampled_from(["m", "m.csv", "m.jsonl", "m.csv.gz"]),
)
@hypothesis_settings(max_examples=200, deadline=None)
def test_any_bytes_are_a_manifest_and_stay_private(content: bytes, name: str):
    try:
        found = read(content, name)
    except InvalidInput:
        assert name == "m.csv.gz"
        return
    numbers = [each.line for each in found]
    assert numbers == sorted(numbers)
    assert numbers == [] or 1 <= numbers[0] <= numbers[-1] <= content.count(b"\n") + 1
    for each in found:
        if isinstance(each, BadLine):
            assert MARK not in each.reason
            assert each.reason.isprintable()
