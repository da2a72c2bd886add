"""What people have corrected in Label Studio becomes a corpus, from each of its exports; what was chosen is said."""

import csv
import json
import os
import re
from pathlib import Path

import pytest

from asr_with_nemo.errors import InputError
from asr_with_nemo.own_data import label_studio
from asr_with_nemo.own_data.prepared import Prepared
from asr_with_nemo.own_data.sources import Source
from asr_with_nemo.own_data.store import CorpusStore
from tests.own_data.corpora import HEADER, fates, good_rows, prepare, read, record, sentence, texts, with_table


def whole(text: str, field: str = "transcription") -> dict:
    return {"from_name": field, "to_name": "audio", "type": "textarea", "value": {"text": [text]}}


def region(key: str, start: float, end: float, text: str, label: str = "Speech", channel: int = 0) -> list[dict]:
    times = {"start": start, "end": end, "channel": channel}
    labelled = {"id": key, "from_name": "labels", "to_name": "audio", "type": "labels"}
    written = {"id": key, "from_name": "transcription", "to_name": "audio", "type": "textarea"}
    texts = [written | {"value": times | {"text": [text]}}] if text else []
    return [labelled | {"value": times | {"labels": [label]}}, *texts]


def annotation(results: list[dict], by: int = 1, when: str = "2026-01-02", **more: object) -> dict:
    return {"completed_by": by, "result": results, "was_cancelled": False, "updated_at": when, **more}


def task(number: int, audio: str, *annotations: dict, **more: object) -> dict:
    return {"id": number, "annotations": list(annotations), "data": {"audio": audio}, "predictions": [], **more}


def export(folder: Path, tasks: list[dict], name: str = "export.json", indent: int | None = 2) -> Path:
    folder.mkdir(exist_ok=True)
    (folder / name).write_text(json.dumps(tasks, indent=indent))
    return folder


def recordings(folder: Path, count: int = 12, seconds: float = 1.2) -> list[str]:
    return [record(folder / "sub" / f"r{number}.wav", seconds).name for number in range(count)]


def said(prepared: Prepared) -> str:
    return "\n".join(prepared.notes)


@pytest.mark.parametrize("indent", [None, 2])
@pytest.mark.parametrize("address", ["/data/upload/1/abcdef12-{}", "/data/local-files/?d=home%2Fsub%2F{}", "s3://b/{}"])
def test_corrected_texts_are_read_with_whatever_address(tmp_path: Path, address: str, indent: int | None):
    names = recordings(tmp_path / "mine")
    tasks = [task(n, address.format(name), annotation([whole(sentence(n))])) for n, name in enumerate(names)]
    prepared = prepare(export(tmp_path / "mine", tasks, indent=indent), tmp_path / "out")
    assert (prepared.format, prepared.fates) == ("labelstudio", {"kept": 12})
    assert texts(prepared) == {sentence(n) for n in range(12)}
    assert "read export.json (Label Studio; audio: audio, text: 'transcription')" in said(prepared)


@pytest.mark.parametrize("name", ["export.jsonl", "export.json"])
@pytest.mark.parametrize("is_min", [False, True])
def test_an_export_may_have_a_task_a_line(tmp_path: Path, name: str, is_min: bool):
    names = recordings(tmp_path / "mine")
    tasks = [task(n, f"/data/upload/1/abcdef12-{one}", annotation([whole(sentence(n))])) for n, one in enumerate(names)]
    if is_min:
        facts = {"annotator": 1, "annotation_id": 2, "updated_at": "2026", "lead_time": 3.5}
        tasks = [facts | one["data"] | {"id": n, "transcription": sentence(n)} for n, one in enumerate(tasks)]
    (tmp_path / "mine" / name).write_text("\n".join(map(json.dumps, tasks)) + "\n")
    for source in (tmp_path / "mine", tmp_path / "mine" / name):
        prepared = prepare(source, tmp_path / "out")
        assert (prepared.format, prepared.fates) == ("labelstudio", {"kept": 12})
        assert texts(prepared) == {sentence(n) for n in range(12)}


def test_an_upload_changes_spaces_and_the_recording_is_still_found(tmp_path: Path):
    for number in range(12):
        record(tmp_path / "mine" / f"my talk {number}.wav")
    tasks = [task(n, f"/data/upload/3/0a1b2c3d-my_talk_{n}.wav", annotation([whole(sentence(n))])) for n in range(12)]
    prepared = prepare(export(tmp_path / "mine", tasks), tmp_path / "out")
    assert fates(prepared)["my talk 7.wav"]["text"] == sentence(7)


def test_the_export_may_lie_elsewhere(tmp_path: Path):
    names = recordings(tmp_path / "home")
    tasks = [
        task(n, f"/data/local-files/?d=sub/{name}", annotation([whole(sentence(n))])) for n, name in enumerate(names)
    ]
    downloads = export(tmp_path / "downloads", tasks) / "export.json"
    with pytest.raises(InputError, match="isn't found"):
        prepare(downloads, tmp_path / "out")
    prepared = prepare(downloads, tmp_path / "out", audio_root=tmp_path / "home")
    assert texts(prepared) == {sentence(n) for n in range(12)}
    with pytest.raises(InputError, match="--audio-root .*nowhere"):
        prepare(downloads, tmp_path / "out", audio_root=tmp_path / "nowhere")


def test_regions_become_utterances_with_their_speakers(tmp_path: Path):
    recordings(tmp_path / "mine", 4, 9.0)
    tasks = []
    for n in range(4):
        results = region("b", 4.0, 6.0, sentence(2 * n + 1), "Speaker 2") + region("c", 7.0, 8.0, "", "Noise")
        results += [*region("a", 1.0, 3.0, sentence(2 * n), "Anna"), whole("everything at once")]
        tasks.append(task(n, f"sub/r{n}.wav", annotation(results)))
    prepared = prepare(export(tmp_path / "mine", tasks), tmp_path / "out", split="utterance")
    assert texts(prepared) == {sentence(n) for n in range(8)}
    row = (tmp_path / "out" / "rows.tsv").read_text().splitlines()
    assert "task 0, region 1\tsub/r0.wav\t2.0\tAnna" in row[1] and "r0 Speaker 2" in row[2]
    assert "4 regions have no text" in said(prepared) and "those of the regions are taken" in said(prepared)
    assert "other people in each recording" in said(prepared)


def test_of_several_annotations_the_ground_truth_or_the_last_is_taken_and_said(tmp_path: Path):
    names = recordings(tmp_path / "mine")
    tasks = [task(n, name, annotation([whole(sentence(n))])) for n, name in enumerate(names[:9])]
    first, last = annotation([whole("first one")], 1, "2026-01-03"), annotation([whole("last one")], 2, "2026-01-04")
    tasks.append(task(9, names[9], last, first))
    tasks.append(task(10, names[10], first | {"ground_truth": True}, last))
    tasks.append(task(11, names[11], first, last | {"was_cancelled": True}))
    prepared = prepare(export(tmp_path / "mine", tasks), tmp_path / "out")
    found = {name: row["text"] for name, row in fates(prepared).items()}
    assert [found[f"sub/{name}"] for name in names[9:]] == ["last one", "first one", "first one"]
    assert "2 tasks have several annotations, which differ in 2" in said(prepared)
    assert "by annotator: 2 (1), 1 (1)" in said(prepared)


def test_what_nobody_has_corrected_is_left_out_and_counted(tmp_path: Path):
    names = recordings(tmp_path / "mine", 14)
    tasks = [task(n, name, annotation([whole(sentence(n))])) for n, name in enumerate(names[:11])]
    guess = {"model_version": "x", "result": [whole("a guess")]}
    tasks.append(task(11, names[11], drafts=[{"result": [whole("begun")]}]) | {"predictions": [guess]})
    tasks.append(task(12, names[12], annotation([whole("skipped")]) | {"was_cancelled": True}))
    two = whole("as heard")
    two["value"]["text"].append("as corrected")
    tasks.append(task(13, names[13], annotation([two])))
    prepared = prepare(export(tmp_path / "mine", tasks), tmp_path / "out")
    found = {name: row["problems"] for name, row in fates(prepared).items() if row["fate"] == "left out"}
    assert "not annotated" in found["sub/r11.wav"] and "skipped" in found["sub/r12.wav"]
    assert "has 2 texts" in found["sub/r13.wav"] and len(found) == 3
    assert "1 tasks that nobody has annotated, 1 that were skipped" in said(prepared)
    assert "drafts that were never submitted" in said(prepared)
    with pytest.raises(InputError, match=r"1 tasks .* without annotations"):
        prepare(export(tmp_path / "mine", [tasks[11]]), tmp_path / "other")


def test_tasks_beside_a_table_dont_replace_it(tmp_path: Path):
    rows = good_rows(tmp_path / "mine", 12)
    with_table(tmp_path / "mine", [HEADER, *rows])
    guess = {"model_version": "x", "result": [whole("a guess")]}
    tasks = [{"data": {"audio": f"/data/local-files/?d=mine/{path}"}, "predictions": [guess]} for path, _, _ in rows]
    export(tmp_path / "mine", tasks, "tasks.json")
    prepared = prepare(tmp_path / "mine", tmp_path / "out")
    assert prepared.format == "csv" and texts(prepared) == {text for _, text, _ in rows}
    (tmp_path / "mine" / "table.csv").unlink()
    with pytest.raises(InputError, match=r"tasks\.json: 12 tasks .* without annotations"):
        prepare(tmp_path / "mine", tmp_path / "other")


def small_export(folder: Path, rows: list[dict], kind: str) -> Path:
    """Write rows as Label Studio's JSON-MIN, or as its CSV or TSV: columns by name, and JSON in cells."""
    if kind == "json":
        return export(folder, rows, "min.json")
    names = sorted({name for row in rows for name in row})
    with open(folder / f"min.{kind}", "w", encoding="utf-8", newline="") as file:
        table = csv.DictWriter(file, names, delimiter="\t" if kind == "tsv" else ",", quoting=csv.QUOTE_NONNUMERIC)
        table.writeheader()
        for row in rows:
            table.writerow({key: json.dumps(v) if isinstance(v, list | dict) else v for key, v in row.items()})
    return folder


def small_row(number: int, audio: str, by: int = 1, when: str = "2026-01-02", **fields: object) -> dict:
    made = {"annotator": by, "annotation_id": number + 50, "created_at": when, "updated_at": when, "lead_time": 3.5}
    return {"audio": audio, "text": "the prompt", "id": number, **fields, **made}


@pytest.mark.parametrize("kind", ["json", "csv", "tsv"])
def test_json_min_csv_and_tsv(tmp_path: Path, kind: str):
    names = recordings(tmp_path / "mine")
    rows = [small_row(n, f"/data/upload/1/0000000a-{x}", transcription=sentence(n)) for n, x in enumerate(names[:11])]
    rows += [small_row(11, names[11], 2, "2026-01-05", transcription="the later one")]
    rows += [small_row(11, names[11], 3, transcription="the earlier one")]
    prepared = prepare(small_export(tmp_path / "mine", rows, kind), tmp_path / "out")
    assert texts(prepared) == {*(sentence(n) for n in range(11)), "the later one"}
    assert "several annotations" in said(prepared) and "text: 'transcription'" in said(prepared)


@pytest.mark.parametrize("kind", ["json", "csv"])
def test_regions_of_json_min_are_paired_by_order_or_refused(tmp_path: Path, kind: str):
    names = recordings(tmp_path / "mine", 4, 9.0)
    parts = [{"start": s, "end": s + 2, "channel": 0, "labels": ["Speech"]} for s in (1, 4)]
    rows = [
        small_row(n, name, labels=parts, transcription=[sentence(2 * n), sentence(2 * n + 1)])
        for n, name in enumerate(names[:3])
    ]
    rows.append(small_row(3, names[3], labels=parts, transcription=["only one", "two", "three"]))
    prepared = prepare(small_export(tmp_path / "mine", rows, kind), tmp_path / "out", split="utterance")
    assert texts(prepared) == {sentence(n) for n in range(6)}
    assert "3 texts for 2 regions; export as JSON" in (tmp_path / "out" / "rows.tsv").read_text()
    assert "paired by their order" in said(prepared)


def test_a_field_of_another_name_is_asked_for(tmp_path: Path):
    names = recordings(tmp_path / "mine")
    tasks = [
        task(n, name, annotation([whole(sentence(n), "heard"), whole("loud", "remark")]))
        for n, name in enumerate(names)
    ]
    source = export(tmp_path / "mine", tasks)
    with pytest.raises(InputError, match=r"export\.json: which field .*--text-column.*'heard', 'remark'"):
        prepare(source, tmp_path / "out")
    prepared = prepare(source, tmp_path / "out", columns={"text": "heard"})
    assert texts(prepared) == {sentence(n) for n in range(12)} and "not read: 'remark'" in said(prepared)


def test_results_that_are_no_results_dont_stop_the_others(tmp_path: Path):
    names = recordings(tmp_path / "mine")
    odd: list = [None, 7, {}, {"value": 3}, {"value": {"start": "x", "text": 5}}, {"value": {"text": [None, {}]}}]
    tasks = [task(n, name, annotation([*odd, whole(sentence(n))])) for n, name in enumerate(names)]
    tasks += [task(99, names[0]) | {"annotations": "none", "predictions": []}, task(98, 5, annotation([whole("x")]))]
    prepared = prepare(export(tmp_path / "mine", tasks), tmp_path / "out")
    assert texts(prepared) == {sentence(n) for n in range(12)}
    cut = re.sub(r"\]\s*$", "", json.dumps(tasks, indent=2))[:-40]
    (tmp_path / "mine" / "export.json").write_text(cut)
    prepared = prepare(tmp_path / "mine", tmp_path / "cut")
    assert "truncated" in (tmp_path / "cut" / "rows.tsv").read_text()


# --- Other nested JSON ------------------------------------------------------------------------------------------------


def test_objects_within_objects_are_columns_with_two_names(tmp_path: Path):
    names = recordings(tmp_path / "mine")
    rows = [
        {"id": n, "recording": {"file": f"sub/{name}", "rate": 16000}, "result": {"text": sentence(n), "n": 4}}
        for n, name in enumerate(names)
    ]
    (tmp_path / "mine" / "data.json").write_text(json.dumps({"version": 1, "utterances": rows}, indent=1))
    prepared = prepare(tmp_path / "mine", tmp_path / "out")
    assert texts(prepared) == {sentence(n) for n in range(12)}
    assert "its list 'utterances'" in said(prepared) and "text: result.text" in said(prepared)


def test_an_object_with_several_lists_is_refused(tmp_path: Path):
    recordings(tmp_path / "mine")
    rows = [{"audio": "sub/r0.wav", "text": "yes"}]
    (tmp_path / "mine" / "data.json").write_text(json.dumps({"clean": rows, "raw": rows}))
    with pytest.raises(InputError, match=r"data\.json: has several lists of rows \('clean', 'raw'\)"):
        prepare(tmp_path / "mine" / "data.json", tmp_path / "out")


@pytest.mark.parametrize(("suffix", "inside"), [("", ""), (".json", ""), ("", "annotations")])
def test_a_target_storage_has_a_file_an_annotation(tmp_path: Path, suffix: str, inside: str):
    names = recordings(tmp_path / "mine")
    place = tmp_path / "mine" / inside
    place.mkdir(exist_ok=True)
    for n, name in enumerate(names):
        of_task = {"task": {"id": n, "data": {"audio": f"s3://bucket/{name}"}}, "id": 100 + n}
        (place / f"{100 + n}{suffix}").write_text(json.dumps(annotation([whole(sentence(n))]) | of_task))
    later = annotation([whole("corrected later")], 2, "2026-03-01") | {"task": {"id": 3, "data": {"audio": names[3]}}}
    (place / f"200{suffix}").write_text(json.dumps(later))
    (place / f"201{suffix}").write_text(json.dumps(later)[:60])
    prepared = prepare(tmp_path / "mine", tmp_path / "out")
    assert prepared.format == "labelstudio" and prepared.fates["kept"] == 12
    assert texts(prepared) == {*(sentence(n) for n in range(12) if n != 3), "corrected later"}
    assert "1 tasks have several annotations" in said(prepared)
    assert f"201{suffix}: not JSON" in (tmp_path / "out" / "rows.tsv").read_text()
    assert [entry.text for entry in read(place / f"105{suffix}")[0]] == [sentence(5)]


def test_an_export_beside_a_target_storage_is_said_not_to_be_read(tmp_path: Path):
    names = recordings(tmp_path / "mine")
    (tmp_path / "mine" / "stored").mkdir()
    for n, name in enumerate(names):
        of_task = {"task": {"id": n, "data": {"audio": name}}, "id": 100 + n}
        (tmp_path / "mine" / "stored" / f"{n}.json").write_text(json.dumps(annotation([whole(sentence(n))]) | of_task))
    tasks = [task(n, name, annotation([whole("an older text")])) for n, name in enumerate(names)]
    export(tmp_path / "mine", tasks)
    export(tmp_path / "mine" / "stored", tasks, "older.json")
    entries, notes = read(tmp_path / "mine")
    assert {entry.text for entry in entries} == {sentence(n) for n in range(12)}
    assert "not read, because a folder has a file for each annotation: export.json, stored/older.json;" in notes
    assert {entry.text for entry in read(tmp_path / "mine" / "export.json")[0]} == {"an older text"}


def test_a_folder_that_cant_be_listed_is_passed_over_and_none_is_listed_for_each_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    names = recordings(tmp_path / "mine")
    export(tmp_path / "mine", [task(n, name, annotation([whole(sentence(n))])) for n, name in enumerate(names)])
    (tmp_path / "mine" / "locked").mkdir()
    for name in names:
        (tmp_path / "mine" / "sub" / name).with_suffix(".json").write_text('{"by": "a recorder"}')
    listed, scandir = [], os.scandir

    def list_folder(path: object) -> object:
        listed.append(os.path.basename(path))
        if listed[-1] == "locked":
            raise PermissionError(13, "Permission denied", str(path))
        return scandir(path)

    with CorpusStore(tmp_path / "corpus.sqlite") as store:
        source = Source(tmp_path / "mine", store)
        monkeypatch.setattr(label_studio.os, "scandir", list_folder)
        found = label_studio.exports_of(source)
        monkeypatch.undo()
    assert found == [tmp_path / "mine" / "export.json"]
    assert "locked" in listed and listed.count("sub") <= 2
