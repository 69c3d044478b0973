"""What must not change an update: padding, row order, the split into micro-batches, context, broken episodes."""

from dataclasses import replace

import pytest
import torch
from trainer_cases import assert_close, gradient, make_run, make_turn, random_groups, write_model

from agentbench.trainers import atod, gigpo, gkd, grpo, guided_opd, mad_opd, opad, opd, sft, tcod
from agentbench.types import Group

CASES = {
    "opd": (opd.SPEC, {}),
    "opd_turn_mean": (opd.SPEC, {"reduction": "turn_mean"}),
    "gkd_full": (gkd.SPEC, {"reduction": "trajectory_mean"}),
    "gkd_top_k": (gkd.SPEC, {"support": "top_k", "k": 8}),
    "atod": (atod.SPEC, {"reduction": "trajectory_mean"}),
    "mad_opd": (mad_opd.SPEC, {"rounds": 0}),
    "grpo": (grpo.SPEC, {"ref_kl_coef": 0.0}),
    "gigpo": (gigpo.SPEC, {"ref_kl_coef": 0.0, "reduction": "turn_sum"}),
    "opd_turn_balanced": (opd.SPEC, {"reduction": "turn_balanced", "balance": 0.4}),
    "guided": (guided_opd.SPEC, {"guide": "expert"}),
    "opad_sum": (opad.SPEC, {"step_reduce": "sum"}),
    "tcod": (tcod.SPEC, {}),
    "sft": (sft.SPEC, {"mode": "takeover", "takeover": (0, 0), "reduction": "trajectory_mean"}),
}


def find_gradient(models, case, groups, changed=None, **values):
    spec, settings = CASES[case]
    teacher = "teacher" if "teacher" in spec.needs else None
    run = make_run(models, spec.id, teacher=teacher, **({"max_grad_norm": 1e9} | values))
    return gradient(spec.build(run, spec.config(**settings, **(changed or {}))), groups)


def collected(case, **kwargs):
    groups = random_groups(250, groups=3, **kwargs)
    if case == "guided":
        return [replace_authors(group, "expert", every=2) for group in groups]
    return [replace_authors(group, "expert") for group in groups] if case == "sft" else groups


def replace_authors(group, author, every=1):
    def said(turn):
        return turn if turn.index % every else replace(turn, action=replace(turn.action, author=author))

    members = tuple(replace(member, turns=tuple(map(said, member.turns))) for member in group.members)
    return replace(group, members=members)


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("budget", [1, 45])
def test_micro_batch_split_changes_nothing(models, case, budget):
    groups = collected(case)
    whole = find_gradient(models, case, groups)
    assert_close(find_gradient(models, case, groups, tokens_per_micro_batch=budget), whole)


@pytest.mark.parametrize("case", CASES)
def test_row_order_changes_nothing(models, case):
    groups = collected(case)
    turned = [Group(g.key, g.anchor, tuple(reversed(g.members))) for g in reversed(groups)]
    assert_close(find_gradient(models, case, turned), find_gradient(models, case, groups))


@pytest.mark.parametrize("case", CASES)
def test_padding_and_untrained_turns_change_nothing(models, case):
    """A long last turn by somebody else is context, and pads all other rows of its micro-batch."""
    groups = collected(case)
    other = {"sft": "student", "guided": "somebody"}.get(case, "expert")

    def padded(member):
        said = make_turn(len(member.turns), [5] * 60, [6] * 40, author=other)
        return replace(member, turns=(*member.turns, said))

    # statistics over turns would count the foreign turn as one sample more
    changed = {"group_stats": "trajectory"} if case in {"atod", "grpo", "gigpo"} else {}
    first = groups[0]
    longer = [replace(first, members=(padded(first.members[0]), *first.members[1:])), *groups[1:]]
    plain = find_gradient(models, case, groups, changed)
    assert_close(find_gradient(models, case, longer, changed), plain)


@pytest.mark.parametrize("case", ["opd", "gkd_full", "atod"])
def test_padding_id_and_padding_rows_of_the_vocabulary_change_nothing(models, tmp_path, case):
    groups = collected(case)
    tokenizer = models["tokenizer"]
    plain = find_gradient(models, case, groups)
    size = len(tokenizer)
    folder = write_model(tmp_path, tokenizer, seed=1, vocab=size + 5)
    copy_rows(models["student"], folder, size)
    wide = find_gradient(models | {"student": folder}, case, groups)
    name = "model.embed_tokens.weight"
    assert float(wide[name][size:].abs().max()) == 0.0
    wide[name] = wide[name][:size]
    assert_close(wide, plain)


def copy_rows(source, target, size):
    from transformers import AutoModelForCausalLM

    small = AutoModelForCausalLM.from_pretrained(source)
    large = AutoModelForCausalLM.from_pretrained(target)
    with torch.no_grad():
        for name, parameter in large.named_parameters():
            theirs = small.get_parameter(name)
            parameter[: len(theirs)].copy_(theirs) if parameter.ndim else parameter.copy_(theirs)
            if name.endswith("embed_tokens.weight"):
                parameter[size:].fill_(3.0)
    large.save_pretrained(target)


@pytest.mark.parametrize("case", ["opd", "gkd_full", "atod", "grpo"])
def test_what_is_recorded_on_context_changes_nothing(models, case):
    """Behaviour log-probs of turns that are not trained are never read."""
    groups = collected(case)
    anchored = [replace(group, anchor=1) for group in groups]

    def altered(member):
        first = member.turns[0]
        said = replace(first.action, logprobs=(-50.0,) * len(first.action.token_ids), author="someone")
        return replace(member, turns=(replace(first, action=said), *member.turns[1:]))

    changed = [replace(group, members=tuple(map(altered, group.members))) for group in anchored]
    ours, theirs = find_gradient(models, case, changed), find_gradient(models, case, anchored)
    assert all(torch.equal(ours[name], theirs[name]) for name in ours)


@pytest.mark.parametrize("case", ["opd", "grpo"])
def test_fresh_rows_and_their_order_change_nothing(models, case):
    groups = collected(case, fresh=True)
    turned = [Group(g.key, g.anchor, tuple(reversed(g.members))) for g in reversed(groups)]
    ours = find_gradient(models, case, turned, tokens_per_micro_batch=20)
    assert_close(ours, find_gradient(models, case, groups))
