"""Search-QA: questions answered by searching a corpus over several turns; seven public sets and a generated world."""
