"""Measures retrieval beside bm25s in one run: recall on real questions, build, open, queries a second, memory.

    python benchmarks/retrieval.py --corpus corpus.jsonl.gz --questions FOLDER            # the corpus as it is
    python benchmarks/retrieval.py --corpus corpus.jsonl.gz --questions FOLDER --large 1000000 --folder DIR

`--large N` makes N passages with the word frequencies of the corpus, 4 % of the words from an endless Zipf tail, and
asks the same questions (without recall: nothing in them is an answer). Times are CPU seconds of one thread; the engines
take turns in blocks of queries, so that a busy machine slows both. `--output FILE` keeps the figures as JSON.
bm25s runs without numba, with the same stop words, stemmer (Porter's), k1 and b, as the field's baselines have them;
its recall with the stemmer of its own examples (Snowball's English) stands beside. It gives numbers of documents, ours
whole passages.
"""

from __future__ import annotations

import argparse
import json
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import orjson

from agentbench.machine import versions
from agentbench.retrieval import Passage, Passages, read_passages, write_passages
from agentbench.retrieval.bm25.retriever import indexed
from agentbench.retrieval.open import open_retriever

K1, B, K = 0.9, 0.4, 10
BATCH = 256
SNOWBALL = "bm25s, Snowball stems"
BLOCK = 512
"""Queries that an engine answers before the other one is timed."""

SETS = ("nq", "triviaqa", "popqa", "hotpotqa", "2wikimultihopqa", "musique", "bamboogle")
Figures = dict[str, Any]
Rank = Callable[[Sequence[str]], list[list[str]]]


def questions(folder: Path, passages: Passages) -> list[tuple[str, str, set[str]]]:
    """Read (set, question, ids of the gold passages) of the questions whose gold passages are known."""
    titles = {passage.id: passage.title for passage in passages}
    found = []
    for name in SETS:
        for line in (folder / f"{name}.jsonl").read_bytes().splitlines():
            item = orjson.loads(line)
            gold = set(item.get("passages") or ())
            if item["support"] == "context":  # all paragraphs of the question, distractors too
                gold = {place for place in gold if titles[place] in set(item.get("gold_titles") or ())}
            if gold:
                found.append((name, item["question"], gold))
    return found


def recall(rank: Rank, asked: list[tuple[str, str, set[str]]]) -> tuple[Figures, Any]:
    """Shares of gold passages among the first 3 and 10, by set and over all questions; and those of each question."""
    each = np.zeros((len(asked), 2))
    sums: dict[str, list[float]] = defaultdict(lambda: [0.0] * 5)
    texts = [question for _, question, _ in asked]
    lists = [ids for start in range(0, len(texts), BATCH) for ids in rank(texts[start : start + BATCH])]
    for number, ((name, _, gold), ids) in enumerate(zip(asked, lists, strict=True)):
        found = [len(gold & set(ids[:k])) / len(gold) for k in (3, 10)]
        each[number] = found
        for key in (name, "all"):
            for place, value in enumerate((1.0, *found, found[0] == 1, found[1] == 1)):
                sums[key][place] += value
    names = ("R@3", "R@10", "all@3", "all@10")
    return {
        key: {"n": int(total[0]), **{n: 100 * v / total[0] for n, v in zip(names, total[1:], strict=True)}}
        for key, total in sums.items()
    }, each


def difference(ours: Any, theirs: Any) -> Figures:
    """Points by which the first is ahead over all questions, with a 95 % interval by drawing questions 2,000 times."""
    rng, gaps = np.random.default_rng(0), 100 * (ours - theirs)
    means = np.stack([gaps[rng.integers(0, len(gaps), len(gaps))].mean(0) for _ in range(2000)])
    low, high = np.percentile(means, [2.5, 97.5], axis=0)
    return {
        name: {"points": float(gaps[:, at].mean()), "low": float(low[at]), "high": float(high[at])}
        for at, name in enumerate(("R@3", "R@10"))
    }


# --- engines ---


class Ours:
    """The retriever of this project."""

    name = "agentbench"

    def __init__(self, corpus: Path, folder: Path) -> None:
        self.retriever = open_retriever(corpus=corpus, folder=folder, k1=K1, b=B)

    def rank(self, queries: Sequence[str]) -> list[list[str]]:
        """Ids of the passages found for each query."""
        return [[hit.passage.id for hit in hits] for hits in self.retriever.search(queries, K)]


class Peer:
    """bm25s, its index mapped from disk."""

    name = "bm25s"

    def __init__(self, corpus: Path, folder: Path, stemmer: str = "porter") -> None:
        import bm25s
        import Stemmer

        self._tokenize, self._stemmer = bm25s.tokenize, Stemmer.Stemmer(stemmer)
        place = folder / f"bm25s-{stemmer}"
        if not place.exists():
            texts = [indexed(passage) for passage in Passages.open(corpus, cache=folder)]
            index = bm25s.BM25(method="lucene", k1=K1, b=B)
            index.index(self._terms(texts), show_progress=False)
            index.save(place, show_progress=False)
            (place / "ids.json").write_text(json.dumps([p.id for p in Passages.open(corpus, cache=folder)]))
        self.index = bm25s.BM25.load(place, mmap=True)
        self.ids: list[str] = []
        self._place = place

    def _terms(self, texts: Sequence[str]) -> Any:
        return self._tokenize(list(texts), stopwords="en", stemmer=self._stemmer, show_progress=False)

    def find(self, queries: Sequence[str]) -> Any:
        """Numbers of the passages found for each query."""
        return self.index.retrieve(self._terms(queries), k=K, show_progress=False)[0]

    def rank(self, queries: Sequence[str]) -> list[list[str]]:
        """Ids of the passages found for each query."""
        self.ids = self.ids or json.loads((self._place / "ids.json").read_text())
        return [[self.ids[number] for number in numbers] for numbers in self.find(queries).tolist()]


ENGINES = {engine.name: engine for engine in (Ours, Peer)}
_CHILD = """
import json, sys
sys.path.insert(0, {here!r})
import retrieval
print(json.dumps(getattr(retrieval, {what!r})(*{arguments!r})))
"""


def in_a_process(what: str, *arguments: Any) -> Figures:
    """Call a function of this module in a fresh process, whose time and memory are its own."""
    here = str(Path(__file__).parent)
    code = _CHILD.format(here=here, what=what, arguments=[str(argument) for argument in arguments])
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    result: Figures = json.loads(done.stdout.splitlines()[-1])
    return result


def build(name: str, corpus: str, folder: str) -> Figures:
    """Build an index from nothing."""
    place = Path(folder) / name
    shutil.rmtree(place, ignore_errors=True)
    place.mkdir(parents=True)
    began = time.process_time(), time.perf_counter()
    ENGINES[name](Path(corpus), place)
    size = sum(path.stat().st_size for path in place.rglob("*") if path.is_file())
    return {
        "cpu_s": time.process_time() - began[0],
        "wall_s": time.perf_counter() - began[1],
        "peak_mb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
        "disk_mb": size / 1e6,
    }


def opening(name: str, corpus: str, folder: str, queries: str) -> Figures:
    """Open a built index, ask a first question, then 300; the library is imported before."""
    asked: list[str] = json.loads(Path(queries).read_text())
    if name == "bm25s":
        import bm25s  # noqa: F401
        import Stemmer  # noqa: F401
    began = time.process_time(), time.perf_counter()
    engine = ENGINES[name](Path(corpus), Path(folder) / name)
    opened = time.process_time(), time.perf_counter()
    ask = engine.rank if isinstance(engine, Ours) else engine.find
    ask(asked[:1])
    answered = time.process_time()
    for query in asked[:300]:
        ask([query])
    memory = {"resident_mb": 0.0, "private_mb": 0.0}
    for line in Path("/proc/self/smaps_rollup").read_text().splitlines():
        field, _, rest = line.partition(":")
        if field == "Rss":
            memory["resident_mb"] = int(rest.split()[0]) / 1024
        if field == "Private_Dirty":
            memory["private_mb"] = int(rest.split()[0]) / 1024
    return {
        "open_cpu_ms": 1e3 * (opened[0] - began[0]),
        "open_wall_ms": 1e3 * (opened[1] - began[1]),
        "open_and_first_cpu_ms": 1e3 * (answered - began[0]),
        **memory,
    }


def speed(engines: dict[str, Any], queries: list[str]) -> dict[str, Figures]:
    """Queries a CPU second, one by one and in batches, and times of single queries; engines take turns."""
    asks = {
        name: engine.rank if isinstance(engine, Ours) else engine.find for name, engine in engines.items()
    }
    single: dict[str, list[float]] = {name: [] for name in asks}
    batched: dict[str, list[float]] = {name: [] for name in asks}
    blocks = [queries[start : start + BLOCK] for start in range(0, len(queries), BLOCK)]
    for block in blocks:
        for name, ask in asks.items():
            for query in block:
                began = time.process_time()
                ask([query])
                single[name].append(time.process_time() - began)
            for start in range(0, len(block), BATCH):
                began = time.process_time()
                ask(block[start : start + BATCH])
                batched[name].append(time.process_time() - began)
    return {
        name: {
            "n": len(queries),
            "per_s_single": len(queries) / sum(single[name]),
            "per_s_in_256": len(queries) / sum(batched[name]),
            "p50_ms": 1e3 * float(np.percentile(single[name], 50)),
            "p99_ms": 1e3 * float(np.percentile(single[name], 99)),
        }
        for name in asks
    }


# --- a large corpus ---


def generated(like: Passages, count: int, seed: int = 0) -> Iterator[Passage]:
    """Passages of the corpus's lengths and words, each word drawn alone; 4 % from an endless tail."""
    rng = np.random.default_rng(seed)
    words: dict[str, int] = defaultdict(int)
    lengths = []
    for passage in like:
        text = passage.text.split()
        lengths.append(len(text))
        for word in text:
            words[word] += 1
    spelt = np.array(list(words), object)
    chance = np.array(list(words.values()), float)
    edges = np.cumsum(chance / chance.sum())
    sizes = np.array(lengths)
    for start in range(0, count, 1000):
        some = rng.choice(sizes, min(1000, count - start))
        drawn = spelt[np.minimum(np.searchsorted(edges, rng.random(some.sum())), len(spelt) - 1)]
        rare = np.flatnonzero(rng.random(len(drawn)) < 0.04)
        drawn[rare] = [f"x{number:x}" for number in rng.zipf(1.2, len(rare)).tolist()]
        ends = np.cumsum(some)
        for number, (first, end) in enumerate(zip(ends - some, ends, strict=True), start):
            text = " ".join(drawn[first:end].tolist())
            yield Passage(f"g{number}", " ".join(text.split()[:3]), text)


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--corpus", type=Path, help="JSONL of passages, packed or not")
    parser.add_argument("--questions", type=Path, help="folder of nq.jsonl ...")
    parser.add_argument("--large", type=int, help="make so many passages and measure on them")
    parser.add_argument("--limit", type=int, help="ask so many questions for the speed")
    parser.add_argument("--folder", type=Path, help="keep corpora and indexes here")
    parser.add_argument("--output", type=Path)
    parser.add_argument("--show", type=Path, help="print a file of --output as tables, and measure nothing")
    options = parser.parse_args()
    if options.show:
        print(tables(json.loads(options.show.read_text())))
        return
    if not options.corpus or not options.questions:
        parser.error("name --corpus and --questions")
    folder = options.folder or Path(tempfile.mkdtemp(prefix="retrieval-"))
    corpus = folder / "corpus.jsonl"
    if not corpus.exists():
        write_passages(corpus, read_passages(options.corpus))
    asked = questions(options.questions, Passages.open(corpus, cache=folder))
    if options.large:
        like, corpus = Passages.open(corpus, cache=folder), folder / f"{options.large}.jsonl"
        if not corpus.exists():
            write_passages(corpus, generated(like, options.large))
        folder = folder / str(options.large)
    figures: Figures = {
        "command": " ".join(
            ["python", "benchmarks/retrieval.py", *(Path(word).name for word in sys.argv[1:])]
        ),
        "versions": {**versions(), **_peer_versions()},
        "passages": len(Passages.open(corpus, cache=folder)),
        "k1": K1,
        "b": B,
        "k": K,
    }
    texts = [question for _, question, _ in asked]
    order = np.random.default_rng(0).permutation(len(texts))
    shuffled = [texts[number] for number in order][: options.limit]
    (folder / "queries.json").write_text(json.dumps(shuffled))
    for name in ENGINES:
        built = folder / f"build-{name}.json"  # a million passages may take several calls with --folder
        if not built.exists():
            built.write_text(json.dumps(in_a_process("build", name, corpus, folder)))
        figures[name] = {"build": json.loads(built.read_text())}
        figures[name]["open"] = in_a_process("opening", name, corpus, folder, folder / "queries.json")
    engines = {name: engine(corpus, folder / name) for name, engine in ENGINES.items()}
    for name, found in speed(engines, shuffled).items():
        figures[name]["queries"] = found
    if not options.large:
        engines[SNOWBALL] = Peer(corpus, folder / "bm25s", "english")
        each = {}
        for name, engine in engines.items():
            found, each[name] = recall(engine.rank, asked)
            figures.setdefault(name, {})["recall"] = found
        figures["ahead"] = {name: difference(each["agentbench"], each[name]) for name in ("bm25s", SNOWBALL)}
    text = json.dumps(figures, indent=1)
    print(text)
    if options.output:
        options.output.write_text(text + "\n")


def tables(figures: Figures) -> str:
    """Figures as Markdown."""
    columns = {
        "build CPU s": lambda f: f"{f['build']['cpu_s']:.1f}",
        "build peak MB": lambda f: f"{f['build']['peak_mb']:,.0f}",
        "disk MB": lambda f: f"{f['build']['disk_mb']:,.1f}",
        "open CPU ms": lambda f: f"{f['open']['open_cpu_ms']:,.1f}",
        "open and first answer": lambda f: f"{f['open']['open_and_first_cpu_ms']:,.1f}",
        "q/s one by one": lambda f: f"{f['queries']['per_s_single']:,.0f}",
        "q/s in 256s": lambda f: f"{f['queries']['per_s_in_256']:,.0f}",
        "p50 / p99 ms": lambda f: f"{f['queries']['p50_ms']:.2f} / {f['queries']['p99_ms']:.2f}",
        "MB resident / own after 300": lambda f: (
            f"{f['open']['resident_mb']:,.0f} / {f['open']['private_mb']:,.0f}"
        ),
    }
    lines = [f"| | {' | '.join(columns)} |", "|---" * (len(columns) + 1) + "|"]
    lines += [
        f"| {name} | {' | '.join(show(figures[name]) for show in columns.values())} |" for name in ENGINES
    ]
    if "recall" in figures["agentbench"]:
        names = ["agentbench", "bm25s", SNOWBALL]
        lines += [
            "",
            f"| set (n) | {' | '.join(f'{name} R@3 / R@10' for name in names)} |",
            "|---|---|---|---|",
        ]
        for key in (*SETS, "all"):
            found = [figures[name]["recall"][key] for name in names]
            shown = " | ".join(f"{one['R@3']:.1f} / {one['R@10']:.1f}" for one in found)
            lines.append(f"| {key} ({found[0]['n']:,}) | {shown} |")
        for name, gaps in figures["ahead"].items():
            said = ", ".join(
                f"{key} {gap['points']:+.2f} [{gap['low']:+.2f}, {gap['high']:+.2f}]"
                for key, gap in gaps.items()
            )
            lines += ["", f"Ahead of {name} by {said} points (95 %, paired over questions)."]
    return "\n".join(lines)


def _peer_versions() -> dict[str, str]:
    from importlib.metadata import version

    return {"bm25s": version("bm25s"), "PyStemmer": version("PyStemmer")}


if __name__ == "__main__":
    main()
