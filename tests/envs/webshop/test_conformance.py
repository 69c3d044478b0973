"""Every recording of the original that is on disk: goals, prices, rewards, rankings, pages, byte for byte."""

from agentbench.envs.webshop.conformance import Report


def test_the_recordings_are_reproduced(checker, recordings):
    report = checker.check(recordings)
    assert report.differences == []
    counts = report.compared
    assert counts["goals"] == 20
    assert counts["drawn prices"] == 40
    assert (
        counts["rankings"] == counts["ranking scores"] == counts["query terms"] == counts["hit counts"] == 20
    )
    assert counts["rewards"] == counts["reward parts"] == 20
    # 10 walks: a page after each of 10 resets and 88 steps, and 2 after automatic resets
    assert (counts["steps"], counts["pages"], counts["purchases"]) == (88, 100, 9)


def test_a_difference_would_be_noticed():
    report = Report()
    report.same("pages", "here", "a", "a")
    report.same("pages", "there", "a", "b")
    report.same("rewards", "type", 0, 0.0)  # an integer where the original has a float
    assert report.compared["pages"] == 2
    assert [line.split(":")[0] for line in report.differences] == ["pages there", "rewards type"]


def test_goal_counts_of_the_official_set(checker):
    for human, count in ((False, 6910), (True, 13)):
        assert len(checker.table({"fork": "orig", "seed": 0, "human_goals": human})) == count
