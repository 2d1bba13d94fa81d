"""What a run that is pushed says beforehand, and secrets in its settings."""

from __future__ import annotations

import pytest
from config.run_files import VALID
from huggingface_hub.errors import HFValidationError
from huggingface_hub.utils import validate_repo_id
from hypothesis import given
from hypothesis import strategies as st

from hf_finetune.config.checks.hub import find_license_problem, find_repo_id_problem

LICENSED = VALID + "card: {license: mit}\n"
TOKEN = "hf_" + "aB3dE6gH9j" * 3


def test_a_hub_with_a_license_is_taken(load):
    run = load(LICENSED + "hub: {repo_id: someone/model, push_every: 10}\n")
    assert (run.hub.private, run.hub.create_pr, run.card.license) == (True, False, "mit")


def test_a_license_is_asked_for_where_the_hub_is_named_and_never_made_up(only_problem, problems):
    problem = only_problem(VALID + "hub: {repo_id: someone/model}\n")
    assert (problem.key, problem.line) == ("card.license", len(VALID.splitlines()) + 1)
    assert "unknown" in problem.remedy
    assert problems(VALID) == [], "a run that stays here needs none"
    assert problems(VALID + "card: {license: unknown}\nhub: {repo_id: someone/model}\n") == []


@pytest.mark.parametrize(
    ("license", "remedy"),
    [
        ("Apache-2.0", "did you mean apache-2.0?"),
        ("apache", "did you mean apache-2.0?"),
        ("mine, all mine", "or other"),
    ],
)
def test_a_license_that_the_hub_does_not_know_is_refused(only_problem, license, remedy):
    problem = only_problem(VALID + f"card: {{license: '{license}'}}\n")
    assert problem.key == "card.license"
    assert remedy in problem.remedy


@pytest.mark.parametrize(
    ("repo_id", "remedy"),
    [
        ("model", "did you mean your-user-name/model?"),
        ("https://huggingface.co/someone/model", "did you mean someone/model?"),
        ("hf.co/someone/model/tree/main", "did you mean someone/model?"),
        ("someone/my model", "did you mean someone/my-model?"),
        ("some one/my model!", "did you mean some-one/my-model?"),
        ("someone/a/b", "did you mean someone/a?"),
        ("someone/model.git", "did you mean someone/model?"),
        ("/someone/model", "did you mean someone/model?"),
        ("someone/" + "x" * 100, "write owner/name"),
        ("../../etc/passwd", "did you mean etc/passwd?"),
    ],
)
def test_a_repository_name_that_is_none_is_refused_with_what_was_meant(only_problem, repo_id, remedy):
    problem = only_problem(LICENSED + f"hub: {{repo_id: '{repo_id}'}}\n")
    assert problem.key == "hub.repo_id"
    assert remedy in problem.remedy


@given(st.text(alphabet="abzAZ09-_./ é", max_size=30) | st.from_regex(r"[\w.-]{1,12}/[\w.-]{1,12}", fullmatch=True))
def test_a_name_that_we_take_is_one_that_huggingface_hub_takes(repo_id):
    if find_repo_id_problem(repo_id) is not None:
        return
    try:
        validate_repo_id(repo_id)
    except HFValidationError:
        pytest.fail(repo_id)
    assert repo_id.count("/") == 1


def test_checkpoints_are_not_pushed_as_pull_requests(only_problem):
    problem = only_problem(LICENSED + "hub: {repo_id: a/b, create_pr: true, push_every: 5}\n")
    assert problem.key == "hub.push_every"


@pytest.mark.parametrize(
    ("setting", "key"),
    [
        (f"eval.prompts=['my key is {TOKEN}']", "eval.prompts[0]"),
        (f"train.run_name={TOKEN}", "train.run_name"),
        (f"output_dir=runs/{TOKEN}", "output_dir"),
        (f"card.intended_use=ask {TOKEN}", "card.intended_use"),
    ],
)
def test_a_secret_among_the_settings_is_refused_and_not_shown(problems, setting, key):
    found = problems(LICENSED, setting)
    assert key in {problem.key for problem in found}
    assert any("what looks like a Hugging Face token" in problem.what for problem in found)
    assert not any(TOKEN in str(problem) for problem in found)


@pytest.mark.parametrize(
    "argument",
    [
        TOKEN,
        f"--token={TOKEN}",
        f"--{TOKEN}",
        f"hub.token={TOKEN}",
        f"{TOKEN}=1",
        f"hub={TOKEN}",
        f"train.hub_token={TOKEN}",
    ],
)
def test_a_token_on_the_command_line_is_refused_and_never_echoed(problems, argument):
    found = problems(LICENSED, argument)
    assert found
    assert not any(TOKEN in str(problem) for problem in found)


def test_the_licenses_of_the_hub_that_people_use_are_known():
    assert [
        name
        for name in ("mit", "apache-2.0", "cc-by-nc-4.0", "gemma", "llama3.1", "other")
        if find_license_problem(name)
    ] == []
