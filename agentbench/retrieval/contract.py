"""What every retriever is: queries in, passages with scores out. Leaves out how they are found."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

from ..errors import EnvFailure, UsageError

MAX_QUERY = 10_000
"""Characters of a query that are looked at; more than any reply of an agent has, so nothing is lost in practice."""

MAX_K = 1_000
"""Most passages that one query may ask for."""


@dataclass(frozen=True, slots=True)
class Passage:
    """A piece of the corpus.

    Attributes:
        id: unique in its corpus; "" where a server does not tell.
        title: without the quotes that `contents` puts around it.
        text: without the title.
    """

    id: str
    title: str
    text: str

    @property
    def contents(self) -> str:
        """Title in double quotes, newline, text: the form in which the field's corpora and servers have it."""
        return f'"{self.title}"\n{self.text}'


@dataclass(frozen=True, slots=True)
class Hit:
    """A passage found; scores of different retrievers are not comparable."""

    passage: Passage
    score: float


class Refused(EnvFailure):
    """The retriever works but will not answer these queries; others asked along with them may be answered."""


@runtime_checkable
class Retriever(Protocol):
    """Finds passages; may be used from any thread.

    Attributes:
        name: what kind it is: "bm25", "dense", "client".
        digest: hash of everything that decides its answers: corpus, settings, model. Equal digests, equal answers.
    """

    name: str

    @property
    def digest(self) -> str:
        """See the class."""
        ...

    def search(self, queries: Sequence[str], k: int) -> list[list[Hit]]:
        """Find the best passages for each query.

        Args:
            queries: any texts; what cannot be looked for (nothing but unknown words, say) finds nothing.
            k: how many at most, 1 to `MAX_K`.
        Returns: one list for each query, best first, maybe shorter than k, maybe empty.
        Raises: EnvFailure: the retriever broke or could not be reached. UsageError: k is out of range.
        """
        ...

    def close(self) -> None:
        """Give back what is held; a second call does nothing."""
        ...


def check_k(k: int) -> None:
    """Raises: UsageError: k is no number of passages."""
    if isinstance(k, bool) or not isinstance(k, int) or not 1 <= k <= MAX_K:
        raise UsageError(f"k must be a whole number from 1 to {MAX_K}, got {k!r}")


def readable(text: str) -> str:
    """Make any text one that can be encoded: a lone surrogate (half of a cut emoji) becomes U+FFFD."""
    if text.isascii():
        return text
    return text.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace")


def clean_query(query: str) -> str:
    """Return a query as all retrievers look at it: encodable, stripped, at most `MAX_QUERY` characters."""
    return readable(query).strip()[:MAX_QUERY]
