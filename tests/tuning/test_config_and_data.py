"""What to do, and what to learn from: read, refused with words, and turned into tokens of which the right ones are learned."""

from __future__ import annotations

import gzip
import json
import tracemalloc
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
import yaml
from pyarrow import csv, feather, parquet

from kaito.controllers.workspace.manifests.job import STANDARD_CONFIGS
from kaito.tuning.config import Dataset, load_config, parse_config
from kaito.tuning.data import Example, find_files, load_examples, read_rows
from kaito.tuning.errors import ConfigError, DataError
from kaito.tuning.examples import IGNORED, Encoded, encode_all, pad

ALL = Dataset(shuffle=False, split=1.0)


def config(**sections: Any) -> dict[str, Any]:
    return {"training_config": sections}


@pytest.mark.parametrize("method", ["lora", "qlora"])
def test_the_operators_own_configurations_are_understood(method: str, tmp_path: Path) -> None:
    file = tmp_path / "training_config.yaml"
    file.write_text(yaml.safe_dump(config(**STANDARD_CONFIGS[method])))
    read = load_config(file)
    assert read.quantization.bits == (4 if method == "qlora" else 16)
    assert read.lora == {"r": 8, "lora_alpha": 8, "lora_dropout": 0.0}
    assert read.output == Path("/mnt/results")
    assert read.dataset.split == 1


@pytest.mark.parametrize(
    ("document", "complaint"),
    [
        (None, "needs a map training_config"),
        ({"training_config": []}, "needs a map training_config"),
        (config(Lora={}), "section 'Lora' is unknown"),
        (config(LoraConfig=[1]), "section LoraConfig must be a map"),
        (config(QuantizationConfig={"load_in_4bit": True, "load_in_8bit": True}), "exclude each other"),
        (config(QuantizationConfig={"bnb_4bit_quant_type": "int4"}), "bnb_4bit_quant_type is 'int4'"),
        (config(QuantizationConfig={"four_bits": True}), "QuantizationConfig.four_bits is unknown"),
        (config(DatasetConfig={"columns": "a"}), "DatasetConfig.columns is unknown"),
        (config(DatasetConfig={"train_test_split": 0}), "more than 0 and at most 1"),
        (config(DatasetConfig={"dataset_path": "../secrets"}), "must lie below"),
        (config(DatasetConfig={"shuffle_seed": "x"}), "must be an integer"),
        (config(TrainingArguments={"output_dir": "/etc"}), "must lie below /mnt"),
        (config(TrainingArguments={"output_dir": "../etc"}), "must lie below /mnt"),
        (config(TrainingArguments={"max_length": 2}), "at least 8"),
    ],
)
def test_a_configuration_that_cannot_work_names_the_field(document: Any, complaint: str) -> None:
    with pytest.raises(ConfigError, match=complaint):
        parse_config(document)


def test_a_configuration_that_cannot_be_read_names_the_file(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"cannot read .*missing\.yaml"):
        load_config(tmp_path / "missing.yaml")
    (tmp_path / "bad.yaml").write_text("a: [")
    with pytest.raises(ConfigError, match=r"bad\.yaml is not YAML"):
        load_config(tmp_path / "bad.yaml")


# Files


ROWS = [{"prompt": f"question {number}", "completion": f"answer {number}"} for number in range(6)]


def write(folder: Path, name: str, rows: list[dict[str, Any]]) -> None:
    file, name = folder / name, name.lower()
    if "jsonl" in name:
        file.write_text("\n".join(map(json.dumps, rows)) + "\n\n")
    elif "json" in name:
        file.write_text(json.dumps(rows))
    elif "csv" in name:
        csv.write_csv(pa.Table.from_pylist(rows), file)
    elif "parquet" in name:
        parquet.write_table(pa.Table.from_pylist(rows), file)
    elif "stream" in name:
        table = pa.Table.from_pylist(rows)
        with pa.OSFile(str(file), "wb") as sink, pa.ipc.new_stream(sink, table.schema) as writer:
            writer.write_table(table)
    else:
        feather.write_feather(pa.Table.from_pylist(rows), str(file))


@pytest.mark.parametrize(
    "name", ["a.jsonl", "a.json", "a.csv", "A.PARQUET", "a.parquet_download_true", "a.arrow", "a.stream.arrow"]
)
def test_every_kind_of_file_has_the_same_rows(tmp_path: Path, name: str) -> None:
    write(tmp_path, name, ROWS)
    (file,) = find_files(tmp_path, ALL)
    assert [dict(row) for row in read_rows(file)] == ROWS


def test_all_files_are_read_or_those_that_are_asked_for(tmp_path: Path) -> None:
    (tmp_path / "more").mkdir()
    write(tmp_path, "b.jsonl", ROWS[:2])
    write(tmp_path, "a.csv", ROWS[2:3])
    write(tmp_path / "more", "c.parquet", ROWS[3:])
    (tmp_path / "README.md").write_text("not data")
    assert len(load_examples(tmp_path, ALL).train) == 6
    assert len(load_examples(tmp_path, Dataset(path="more", split=1.0)).train) == 3
    assert len(load_examples(tmp_path, Dataset(path="b.jsonl", split=1.0)).train) == 2
    assert len(load_examples(tmp_path, Dataset(extension="csv", split=1.0)).train) == 1


def test_the_order_and_the_split_are_the_seeds(tmp_path: Path) -> None:
    write(tmp_path, "a.jsonl", ROWS)
    first, again, other = (load_examples(tmp_path, Dataset(seed=seed, split=0.5)) for seed in (1, 1, 2))
    assert first == again
    assert first != other
    assert (len(first.train), len(first.evaluate)) == (3, 3)
    assert load_examples(tmp_path, Dataset(shuffle=False, split=0.99)).evaluate, "a split under 1 evaluates something"


@pytest.mark.parametrize(
    ("name", "content", "complaint"),
    [
        ("a.jsonl", b'{"text": "x"}\n{"text": ', "line 2 is not JSON"),
        ("a.jsonl", b"[1, 2]", "row 1 is not an object"),
        ("a.jsonl", b"", "no rows"),
        ("a.json", b"\xff\xfe", "cannot be read|decode"),
        ("a.parquet", b"PAR1 and then nothing", "a.parquet cannot be read"),
        ("a.arrow", b"garbage", "a.arrow cannot be read"),
        ("a.csv", b"a,b\n1\n", "a.csv cannot be read"),
        ("a.jsonl", b'{"question": "x"}', "has the columns question: there must be messages"),
        ("a.jsonl", b'{"prompt": "x", "completion": ""}', "the answer not empty"),
        ("a.jsonl", b'{"text": 5}', "its text must be text"),
        ("a.jsonl", b'{"messages": []}', "columns messages: there must be|must be a list"),
        ("a.jsonl", b'{"messages": [{"role": "user", "content": "x"}]}', "nothing to learn"),
        ("a.jsonl", b'{"messages": [{"role": "user"}]}', "message 1 needs a role and a content"),
        ("a.txt", b"x", r"no file of a kind that is read .*a\.txt"),
    ],
)
def test_a_broken_dataset_is_refused_with_the_place(tmp_path: Path, name: str, content: bytes, complaint: str) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(DataError, match=complaint):
        load_examples(tmp_path, ALL)
    with pytest.raises(DataError, match="does not exist"):
        load_examples(tmp_path, Dataset(path="elsewhere"))


@pytest.mark.parametrize("name", ["a.parquet", "a.arrow"])
def test_a_file_that_is_cut_off_is_refused(tmp_path: Path, name: str) -> None:
    write(tmp_path, name, [{"text": f"row {number}"} for number in range(1000)])
    whole = (tmp_path / name).read_bytes()
    assert len(load_examples(tmp_path, ALL).train) == 1000
    for size in (len(whole) // 2, len(whole) - 1, 8, 0):
        (tmp_path / name).write_bytes(whole[:size])
        with pytest.raises(DataError, match=name):
            load_examples(tmp_path, ALL)


TEXT, TIMES, MOST = 1 << 16, 2000, 16 << 20


@pytest.mark.parametrize("name", ["a.parquet", "same.parquet", "a.arrow", "same.stream.arrow", "a.csv.gz"])
def test_a_small_file_that_holds_a_lot_is_refused_before_it_is_in_memory(tmp_path: Path, name: str) -> None:
    texts = ["x" * TEXT] * TIMES if "same" in name else ["x" * TEXT + str(number) for number in range(TIMES)]
    file, options = tmp_path / name, pa.ipc.IpcWriteOptions(compression="zstd")
    if "csv" in name:
        with gzip.open(file, "wt", compresslevel=1) as sink:
            sink.writelines(f"{line}\n" for line in ("text", *texts))
    elif "parquet" in name:
        parquet.write_table(pa.table({"text": texts}), file, compression="zstd")
    else:
        table = pa.table({"text": pa.array(texts).dictionary_encode() if "same" in name else texts})
        with (pa.ipc.new_stream if "same" in name else pa.ipc.new_file)(
            str(file), table.schema, options=options
        ) as sink:
            sink.write_table(table, max_chunksize=8)
    assert file.stat().st_size < MOST
    usual = pa.default_memory_pool()
    pool = pa.proxy_memory_pool(usual)
    pa.set_memory_pool(pool)
    tracemalloc.start()
    try:
        with pytest.raises(DataError, match=rf"{name} holds more than 16 MiB of data, unpacked"):
            read_rows(file, MOST)
        assert tracemalloc.get_traced_memory()[1] < 4 * MOST < TEXT * TIMES
        assert pool.max_memory() < 4 * MOST
    finally:
        tracemalloc.stop()
        pa.set_memory_pool(usual)


CHAT = (
    {"role": "system", "content": "be brief"},
    {"role": "user", "content": "hi"},
    {"role": "assistant", "content": "hello"},
)


@pytest.mark.parametrize(
    ("row", "options", "example"),
    [
        ({"text": "t"}, {}, Example(text="t")),
        ({"prompt": "p", "completion": "c"}, {}, Example(prompt="p", text="c")),
        ({"instruction": "i", "input": "x", "output": "o"}, {}, Example(prompt="i\n\nx", text="o")),
        ({"instruction": "i", "input": "", "response": "o"}, {}, Example(prompt="i", text="o")),
        ({"messages": list(CHAT)}, {}, Example(messages=CHAT)),
        (
            {"conversations": [{"from": "human", "value": "hi"}, {"from": "gpt", "value": "hello"}]},
            {},
            Example(messages=({"role": "user", "content": "hi"}, {"role": "assistant", "content": "hello"})),
        ),
        (
            {"q": "p", "a": "c", "text": "t"},
            {"context_column": "q", "response_column": "a"},
            Example(prompt="p", text="c"),
        ),
        ({"body": "t", "text": "no"}, {"response_column": "body"}, Example(text="t")),
        ({"chat": list(CHAT), "text": "no"}, {"messages_column": "chat"}, Example(messages=CHAT)),
        ({"prompt": "p", "completion": "c"}, {"response_column": "text"}, Example(prompt="p", text="c")),
    ],
)
def test_columns_say_what_a_row_is(
    tmp_path: Path, row: dict[str, Any], options: dict[str, str], example: Example
) -> None:
    write(tmp_path, "a.jsonl", [row])
    assert load_examples(tmp_path, Dataset(split=1.0, **options)).train == [example]
    with pytest.raises(DataError, match="has no column 'other', which DatasetConfig names"):
        load_examples(tmp_path, Dataset(split=1.0, response_column="other"))


# Tokens


class Words:
    """A tokenizer whose tokens are words; 1 ends a text."""

    eos_token_id = 1

    def __init__(self, *, template: bool) -> None:
        self.chat_template = "chatml" if template else None
        self.words = ["<pad>", "<end>", "<s>"]

    def number(self, word: str) -> int:
        if word not in self.words:
            self.words.append(word)
        return self.words.index(word)

    def encode(self, text: str, *, add_special_tokens: bool = True) -> list[int]:
        return [2] * add_special_tokens + [self.number(word) for word in text.split()]

    def apply_chat_template(self, conversation: Any, **options: Any) -> list[int]:
        text = "".join(f"<{each['role']}> {each['content']} <end> | " for each in conversation)
        return self.encode(text + ("<assistant>" if options["add_generation_prompt"] else ""), add_special_tokens=False)

    def shown(self, ids: list[int]) -> str:
        return " ".join("_" if number == IGNORED else self.words[number] for number in ids)


@pytest.mark.parametrize(
    ("example", "template", "ids", "learned"),
    [
        (Example(text="a b"), True, "<s> a b <end>", "<s> a b <end>"),
        (Example(prompt="q r", text="a"), False, "<s> q r a <end>", "_ _ _ a <end>"),
        (
            Example(prompt="q", text="a"),
            True,
            "<user> q <end> | <assistant> a <end> |",
            "_ _ _ _ _ a <end> _",
        ),
        (
            Example(messages=(*CHAT, {"role": "user", "content": "bye"}, {"role": "assistant", "content": "ciao"})),
            True,
            "<system> be brief <end> | <user> hi <end> | <assistant> hello <end> | <user> bye <end> | <assistant> ciao <end> |",
            "_ _ _ _ _ _ _ _ _ _ hello <end> _ _ _ _ _ _ ciao <end> _",
        ),
        (
            Example(messages=CHAT),
            False,
            "<s> system: be brief user: hi assistant: hello <end>",
            "_ _ _ _ _ _ _ hello <end>",
        ),
    ],
)
def test_answers_and_their_ends_are_learned_and_questions_are_not(
    example: Example, template: bool, ids: str, learned: str
) -> None:
    tokenizer = Words(template=template)
    ((encoded,), cut) = encode_all([example], tokenizer, 100)
    assert tokenizer.shown(encoded.input_ids) == ids
    assert tokenizer.shown(encoded.labels) == learned
    assert cut == 0


def test_what_is_cut_until_no_answer_is_left_is_left_out() -> None:
    tokenizer = Words(template=False)
    long, short = Example(prompt="q " * 20, text="a"), Example(prompt="q", text="a b c d e f")
    encoded, cut = encode_all([long, short], tokenizer, 5)
    assert [tokenizer.shown(each.labels) for each in encoded] == ["_ _ a b c"]
    assert cut == 2
    with pytest.raises(DataError, match="no answer is left of the 1 examples"):
        encode_all([long], tokenizer, 5)


def test_padding_is_masked_by_length_and_not_by_token() -> None:
    batch = pad([Encoded([5, 1], [5, 1]), Encoded([6, 7, 8, 1], [IGNORED, 7, 8, 1])], pad_id=1)
    assert batch == {
        "input_ids": [[5, 1, 1, 1], [6, 7, 8, 1]],
        "labels": [[5, 1, IGNORED, IGNORED], [IGNORED, 7, 8, 1]],
        "attention_mask": [[1, 1, 0, 0], [1, 1, 1, 1]],
    }


def test_a_root_stands_for_the_usual_one() -> None:
    def output(directory: str, root: str) -> Path:
        return parse_config({"training_config": {"TrainingArguments": {"output_dir": directory}}}, root=root).output

    assert output("/mnt/results", "/pods/1/mnt") == Path("/pods/1/mnt/results")
    assert output("results", "/pods/1/mnt") == Path("/pods/1/mnt/results")
    assert output("/pods/1/mnt/x", "/pods/1/mnt") == Path("/pods/1/mnt/x")
    with pytest.raises(ConfigError, match="must lie below"):
        output("/mnt/../etc", "/pods/1/mnt")
