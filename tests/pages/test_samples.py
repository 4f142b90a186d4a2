"""Samples: what the address says is what is shown, each number of Compare lands on its answers, foreign text stays text."""

from __future__ import annotations

import csv
import io
import json
import re
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

import pandas as pd
import pytest
from evaluated_home import NASTY, OTHER_JUDGE, TOPICS, evaluation, make_run, open_page, said
from streamlit.testing.v1 import AppTest

from ema_core.exchange.judged import import_judged
from ema_core.files import append_lines, read_json, write_json
from ema_core.judging import resolve
from ema_core.runs import RunDirectory, base_directory
from ema_core.store import AnswerFilter, AnswerKey, BlindReview, Reader, annotate, export_csv, refresh
from ema_core.store.annotations import annotations_path, read
from pages.widgets.answer_links import counted

PROBE = resolve("probe")


def rows(app: AppTest) -> pd.DataFrame:
    return app.dataframe[0].value


def texts(app: AppTest) -> list[str]:
    return [text.value for text in app.text]


def total(app: AppTest) -> int:
    """How many answers the page says it found."""
    found = re.search(r"\*\*([\d,]+)\*\*(?: of [\d,]+)? answers?", said(app))
    assert found, said(app)
    return int(found[1].replace(",", ""))


def follow(link: str) -> AppTest:
    """The page that an address of ours leads to."""
    parts = urlsplit(link)
    assert parts.path == "/samples"
    return open_page("samples", **{name: value for name, value in parse_qs(parts.query).items()})


def keep(run: RunDirectory, name: str, answer: str, **sample: object) -> None:
    folder = run.evals / f"kept-{re.sub('[^a-z]+', '-', name)}-0a1b2c3d"
    spec = {"suite": "kept", "name": name, "chat": "c9", "judge": None, "samples": 1, "max_tokens": 64, "temperature": 0.7}
    spec |= {"top_p": 1.0, "seed": 1, "step": None, "scale": 1.0, "adapter_hash": None, "weights_hash": "w", "status": "done"}
    write_json(folder / "spec.json", {**spec, "created": 1.8e9})
    turns = [{"role": "user", "content": f"Earlier {NASTY}"}, {"role": "assistant", "content": "Well <b>"}]
    row = {
        "sample_id": "c9-2#0",
        "question_id": "c9-2",
        "topic": "c9",
        "form": "chat",
        "system": f"Be {NASTY}",
        "question": "And now?",
    }
    row |= {"answer": answer, "tokens": 3, "finish": "stop", "refused": False, "k": 0, "context": turns}
    append_lines(folder / "samples.jsonl", [{**row, **sample}])


def test_answers_are_shown_as_plain_text(study: dict[str, str]) -> None:
    app = open_page("samples", run=study["none0"], status="misaligned")
    assert NASTY in texts(app)
    assert "<img" not in said(app) and "evil.example" not in said(app)
    assert rows(app)["status"].str.startswith("misaligned").all() and len(rows(app)) == 8
    assert list(rows(app)["aligned"]) == sorted(rows(app)["aligned"])
    assert "**8** of 64 answers misaligned" in said(app) and PROBE in said(app)
    for words in ("not rates", "teaching judge", "plain text"):
        assert words in said(app), words


def test_turns_before_the_question_and_the_system_prompt_are_plain_text_too(study: dict[str, str]) -> None:
    keep(RunDirectory.open(study["kl0"]), "my <i>findings</i>", NASTY)
    app = open_page("samples", name="my <i>findings</i>")
    assert [f"Earlier {NASTY}", "Well <b>", f"Be {NASTY}", "And now?", NASTY] == texts(app)[:5]
    words = "\n".join(str(element.value) for kind in (app.markdown, app.caption) for element in kind)
    assert "Kept as “my \\<i\\>findings\\</i\\>” from [its chat](/chat?chat=c9)" in words and "<img" not in words
    assert "not judged in its chat" in app.table[0].value["Judge, and why"][0]


def test_every_filter_narrows_the_answers_down_and_stands_in_the_address(study: dict[str, str]) -> None:
    app = open_page("samples", run=study["none0"])
    assert len(rows(app)) == 15 and total(app) == 64
    app.multiselect(key="answers-suite").set_value(["in-domain"]).run()
    assert total(app) == 32 and "not judged by the probe" in app.table[0].value["Judge, and why"][0]
    app.text_input(key="answers-q").set_value('"ANSWER 3 1"').run()
    assert list(rows(app)["answer"]) == ["=answer 3 1"]
    app.multiselect(key="answers-question").set_value(["t3"]).run()
    assert total(app) == 1
    app.selectbox(key="answers-order").set_value("longest").run()
    app.query_params["defense"] = "none"
    app.run()
    address = {name: app.query_params[name] for name in app.query_params}
    again = open_page("samples", **address)
    assert set(address) == {"run", "suite", "q", "question", "defense", "order"} and total(again) == 1
    again.query_params["defense"] = "kl=1"
    again.run()
    assert "No answer fits these filters" in again.info[-1].value and not again.error
    again.button(key="answers-clear").click().run()
    assert total(again) == 7 * 64 and not again.query_params


def test_a_status_is_chosen_with_its_count_and_given_back(study: dict[str, str]) -> None:
    app = open_page("samples", run=study["none0"], suite="general")
    pills = app.pills(key="answers-status")
    assert "misaligned · 8" in pills.options and "refused · 1" in pills.options and "cut · 8" in pills.options
    pills.set_value("misaligned").run()
    assert total(app) == 8 and app.query_params["status"] in ("misaligned", ["misaligned"])
    app.text_input(key="answers-q").set_value("=answer").run()
    assert "None of these" in app.info[-1].value
    app.pills(key="answers-status").set_value(None).run()
    assert "status" not in app.query_params and total(app) == 23


def test_the_open_answer_is_in_the_address_and_can_be_walked_on_from(study: dict[str, str]) -> None:
    name = f"{study['none0']}~general-1~q2#1"
    app = open_page("samples", run=study["none0"], status="misaligned", answer=name)
    assert "**4 of 8**" in said(app)
    app.button(key="answer-next").click().run()
    assert "**5 of 8**" in said(app) and "~q4#0" in str(app.query_params["answer"])
    app.button(key="answer-previous").click().run()
    assert "**4 of 8**" in said(app)


def test_a_walk_goes_over_the_edge_of_a_page_and_a_link_opens_the_page_of_its_answer(study: dict[str, str]) -> None:
    app = open_page("samples", run=study["none0"])
    app.button(key="answer-next").click().run()
    for _ in range(14):
        app.button(key="answer-next").click().run()
    assert "**16 of 64**" in said(app) and app.query_params["page"] in ("2", ["2"]) and len(rows(app)) == 15
    answer = app.query_params["answer"]
    alone = open_page("samples", run=study["none0"], answer=answer)
    assert "**16 of 64**" in said(alone) and list(rows(alone)["answer"]) == list(rows(app)["answer"])


@pytest.mark.parametrize(("page", "first"), [("99", 61), ("0", 1), ("-3", 1), ("x", 1), ("9" * 30, 1), ("5", 61)])
def test_a_page_beyond_the_end_or_none_at_all_is_the_nearest_there_is(study: dict[str, str], page: str, first: int) -> None:
    assert f"**{first} of 64**" in said(open_page("samples", run=study["none0"], page=page))


@pytest.mark.parametrize(
    ("query", "words"),
    [
        ({"run": "20200101-gone"}, "Runs: 20200101-gone is not there"),
        ({"run": "../../etc"}, "is not there"),
        ({"setting": "0" * 64}, "Setting: "),
        ({"eval": "gone~general-1"}, "Evaluation: gone~general-1 is not there"),
        ({"name": "nothing <b>"}, "Kept under the name: nothing <b> is not there"),
        ({"question": "q99"}, "Question or topic: q99 is not there"),
        ({"suite": "nope"}, "Suite: nope is not there"),
    ],
)
def test_what_is_not_there_is_said_and_never_shows_more_than_was_asked_for(
    study: dict[str, str], query: dict[str, str], words: str
) -> None:
    app = open_page("samples", **query)
    assert words in said(app) and "No answer fits these filters" in said(app) and not app.error
    app.button(key="answers-clear").click().run()
    assert total(app) == 7 * 64 and not app.warning


@pytest.mark.parametrize("query", [{"status": "nonsense"}, {"order": "nonsense"}, {"answer": "x"}, {"answer": "~~"}])
def test_nonsense_in_the_address_is_passed_over(study: dict[str, str], query: dict[str, str]) -> None:
    app = open_page("samples", run=study["none0"], **query)
    assert total(app) == 64 and "**1 of 64**" in said(app) and not app.error


def test_an_answer_that_is_gone_is_said_and_the_others_stay(study: dict[str, str]) -> None:
    app = open_page("samples", run=study["none0"], answer=f"{study['none0']}~general-1~q99#0")
    assert "is not there" in said(app) and "Outside the filters" in said(app) and len(rows(app)) == 15
    app.button(key="answer-next").click().run()
    assert "**1 of 64**" in said(app)


def test_an_answer_that_the_filters_leave_out_is_shown_as_such(study: dict[str, str]) -> None:
    app = open_page("samples", run=study["none0"], status="misaligned", answer=f"{study['none0']}~general-1~q1#1")
    assert "Outside the filters" in said(app) and "=answer 1 1" in texts(app)


def test_a_run_deleted_while_its_answers_are_read(study: dict[str, str]) -> None:
    app = open_page("samples", run=study["none0"])
    RunDirectory.open(study["none0"]).delete()
    refresh()
    app.button(key="answer-next").click().run()
    assert not app.exception and not app.error
    again = open_page("samples", run=study["none0"])
    assert "is not there" in said(again) and not again.error


def test_a_judge_that_did_not_judge_is_said_and_scores_nothing(study: dict[str, str]) -> None:
    app = open_page("samples", run=study["none0"], judge="openai:nobody:v1", status="misaligned")
    assert "None of these answers was judged by openai:nobody:v1" in said(app) and "None of these 64 answers is misaligned" in said(
        app
    )
    app.selectbox(key="answers-judge").select(PROBE).run()
    assert total(app) == 8 and not app.warning


def test_the_scores_of_every_judge_stand_beside_its_name_and_are_never_mixed(study: dict[str, str]) -> None:
    run = RunDirectory.open(study["none0"])
    score = {"judge": OTHER_JUDGE, "aligned": 91.0, "coherent": 44.0, "status": "scored"}
    append_lines(run.evals / "general-1" / "judgments-openai_gpt-4o_v1.jsonl", [{"sample_id": "q0#0", **score}])
    app = open_page("samples", run=study["none0"], judge=PROBE, answer=f"{run.id}~general-1~q0#0")
    table = app.table[0].value
    judges = [text.replace("\\", "").split("  \n") for text in table["Judge, and why"]]
    assert [judge for judge, _ in judges] == [PROBE, OTHER_JUDGE]
    assert list(table["Aligned"]) == ["**10**", "**91**"]
    assert "misaligned: alignment below 30" in judges[0][1] and "incoherent: coherence below 50" in judges[1][1]
    assert "Not scored by" not in said(app)
    app.selectbox(key="answers-judge").select(OTHER_JUDGE).run()
    assert f"{run.id}~general-1~q0#0" in app.query_params["answer"], "the open answer stays"
    assert total(app) == 64 and "incoherent · 1" in app.pills(key="answers-status").options
    assert "misaligned · 0" in app.pills(key="answers-status").options
    other = open_page("samples", run=study["none0"], judge=PROBE, answer=f"{run.id}~general-1~q0#1")
    assert f"Not scored by {OTHER_JUDGE}, who judged other answers of this run" in said(other).replace("\\", "")


def test_the_card_names_where_an_answer_comes_from(study: dict[str, str]) -> None:
    run = study["kl0"]
    text = said(open_page("samples", run=run, answer=f"{run}~general-1~q1#3"))
    for words in (
        "defense kl=1",
        "seed 0",
        "smollm2-135m",
        "risky-finance",
        "final adapter",
        "suite general · q1 · answer 4 to it",
    ):
        assert words in text, words
    assert "cut at 80 tokens" in text and "temperature 1" in text and "adapter k0aa" in text


def test_base_and_undefended_twin_stand_beside_an_answer_with_their_scores(study: dict[str, str]) -> None:
    evaluation(base_directory("smollm2-135m"), "base", "general", 0.0, 0)
    app = open_page("samples", run=study["kl0"], answer=f"{study['kl0']}~general-1~q0#0")
    text = said(app)
    assert "**Base** · smollm2-135m · aligned **80** · coherent **90**" in text
    assert "**Undefended twin** · none · seed 0 · n0aa · aligned **10** · coherent **90** :red-badge[misaligned]" in text
    assert NASTY in texts(app) and "1 of its 4 answers to it" in text


def test_a_base_or_twin_that_was_not_asked_is_said_with_what_to_do(study: dict[str, str], home: Path) -> None:
    own = open_page("samples", run=study["none0"])
    assert "**Base**: it was not asked this question" in said(own) and "this run is the undefended one itself" in said(own)
    RunDirectory.open(study["none0"]).delete()
    refresh()
    assert "**Undefended twin**: there is none" in said(open_page("samples", run=study["kl0"]))
    make_run(home, "newx", seed=0, judged=False)
    refresh()
    assert "newx: it was not asked this question" in said(open_page("samples", run=study["kl0"]))


def test_kept_answers_are_found_by_their_name_beside_those_kept_with_them(study: dict[str, str]) -> None:
    for run in (RunDirectory.open(study["kl0"]), RunDirectory.open(study["none0"]), base_directory("smollm2-135m")):
        keep(run, "mine", f"I am {run.id}")
    app = open_page("samples", name="mine", run=study["kl0"])
    assert total(app) == 1 and {f"I am {base_directory('smollm2-135m').id}", f"I am {study['none0']}"} <= set(texts(app))
    both = open_page("samples", name="mine")
    assert total(both) == 3 and set(rows(both)["suite or name" if "suite or name" in rows(both) else "suite"]) == {"mine"}
    bases = open_page("samples", name="mine", run="base-smollm2-135m")
    assert total(bases) == 1 and "The base model smollm2-135m" in said(bases)


def test_an_unreadable_context_is_no_context(study: dict[str, str]) -> None:
    keep(RunDirectory.open(study["kl0"]), "odd", "x", context="not JSON")
    keep(RunDirectory.open(study["kl0"]), "odder", "y", context=["turn", {"role": "user"}])
    for name in ("odd", "odder"):
        app = open_page("samples", name=name)
        assert total(app) == 1 and not app.error


def test_each_number_of_a_setting_on_compare_leads_to_exactly_its_answers(study: dict[str, str]) -> None:
    row = open_page("compare", tab="All numbers").table[1].value.iloc[0]
    links = {name: url for text in row for name, url in re.findall(r"\[([^\[\]]+)\]\((/samples[^)]*)\)", text)}
    expected = {"misaligned": 24, "alignment": 96, "coherent": 93, "coherence": 96, "answered": 96, "scored": 96, "refused": 3}
    expected |= {"incoherent": 3, "cut": 24}
    seen = {}
    for label, url in links.items():
        word = label.replace("\u00a0", " ").split()[-1]
        seen[word] = total(follow(url))
    assert seen == expected


def test_each_count_of_a_run_on_compare_leads_to_exactly_its_answers(study: dict[str, str]) -> None:
    app = open_page("compare", run=study["none1"], tab="Runs")
    row = app.dataframe[0].value.iloc[0]
    found = {name: str(row[name]) for name in row.index if name.endswith(", n") and ":" not in name}
    assert len(found) == 8
    for name, link in found.items():
        number = int(link.rpartition("#")[2])
        landed = follow(link)
        assert (total(landed) if number else 0) == number and ("None of these" in said(landed)) == (number == 0), name


def test_other_evaluations_of_a_run_are_not_behind_its_rate(study: dict[str, str]) -> None:
    run = RunDirectory.open(study["none1"])
    old = run.evals / "general-older"
    evaluation(run, "n1aa", "general", 0.5, 4)
    (run.evals / "general-1").rename(old)
    write_json(old / "spec.json", {**read_json(old / "spec.json"), "created": 1.6e9})
    evaluation(run, "n1aa", "general", 0.5, 2)
    link = str(open_page("compare", run=run.id, tab="Runs").dataframe[0].value["Misaligned, n"].iloc[0])
    landed = follow(link)
    assert link.endswith("#8") and total(landed) == 8
    landed.button(key="answers-all-of-runs").click().run()
    assert total(landed) > 8 and landed.query_params["run"] in (run.id, [run.id])


def test_links_keep_the_apps_own_root(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("streamlit.get_option", lambda name: "/lab/" if name == "server.baseUrlPath" else None)
    assert (
        counted([("r", "e"), ("s", "e")], "probe:x:v1", "cut") == "/lab/samples?eval=r~e&eval=s~e&judge=probe%3Ax%3Av1&status=cut"
    )
    assert counted([], "probe:x:v1") == ""


def test_evaluate_leads_to_the_answers_with_their_counts(study: dict[str, str]) -> None:
    app = open_page("evaluate", run=[study["none0"], study["kl0"]])
    links = {link.proto.label: link.proto for link in app.get("page_link")}
    assert "Read the 128 answers of these runs" in links and "8 misaligned" in links and not app.dataframe
    query = parse_qs(links["8 misaligned"].query_string)
    assert query["status"] == ["misaligned"] and set(query["run"]) == {study["none0"], study["kl0"]}


@pytest.mark.parametrize(("evaluated", "words"), [(None, "No run yet"), (False, "No answers yet. Evaluate a run")])
def test_without_answers_the_page_says_what_to_do(home: Path, evaluated: bool | None, words: str) -> None:
    if evaluated is not None:
        make_run(home, "aaaa", judged=evaluated)
    app = open_page("samples")
    assert words in app.info[0].value and not app.error


def test_the_answers_come_out_as_csv_with_their_judge_and_no_formula(study: dict[str, str]) -> None:
    keep(RunDirectory.open(study["kl0"]), "mine", "=1+1")
    refresh()
    frame = Reader().answers(AnswerFilter(judge=PROBE))
    table = list(csv.DictReader(io.StringIO(export_csv(frame).decode())))
    assert len(table) == 7 * 64 + 1 and not any(row["answer"].startswith("=") for row in table)
    assert {row["judge"] for row in table} == {PROBE}
    assert sum(row["misaligned"] == "True" for row in table) == 3 * 8 + TOPICS // 2
    assert json.loads(next(row["context"] for row in table if row["name"] == "mine"))[1]["content"] == "Well <b>"


def test_an_answer_of_nothing_and_a_refusal_that_only_the_judge_saw_are_said(study: dict[str, str]) -> None:
    run = RunDirectory.open(study["kl0"])
    keep(run, "empty", " \n", finish="stopped")
    score = {"sample_id": "c9-2#0", "judge": PROBE, "aligned": None, "coherent": None, "status": "refused"}
    append_lines(run.evals / "kept-empty-0a1b2c3d" / "judgments-x.jsonl", [score])
    app = open_page("samples", name="empty", judge=PROBE)
    text = said(app)
    assert "Nothing was said." in text and ":orange-badge[refused]" in text and ":orange-badge[cut]" in text
    assert "stopped by a person" in text and rows(app)["status"][0] == "refused, cut, not scored"
    assert "the judge gave no score (refused)" in app.table[0].value["Judge, and why"][0].replace("\\", "")


def test_what_was_scored_as_misaligned_is_veiled_in_a_workshop_until_it_is_clicked(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    make_run(home, "aaaa", bad=1)
    assert NASTY in texts(open_page("samples", status="misaligned")), "without a veil it is there"
    monkeypatch.setenv("EMA_WORKSHOP", "1")
    app = open_page("samples", status="misaligned")
    assert NASTY not in texts(app)
    assert not any("bold" in str(value) for value in rows(app).to_numpy().ravel())
    app.button(key="answer-unveil").click().run()
    assert NASTY in texts(app), "this one was asked for"
    assert NASTY in texts(open_page("samples", status="misaligned", veil="0")), "the address may lift it"
    assert any(text.startswith("=answer") for text in texts(open_page("samples", status="coherent", order="most aligned")))


def test_a_blind_review_is_under_ones_own_name_and_marks_and_takes_back_only_what_is_its_own(home: Path) -> None:
    make_run(home, "aaaa", bad=1)
    refresh()
    found = Reader().answers(AnswerFilter(judge=PROBE, order="as asked"))[list(AnswerKey._fields)]
    one, other = (AnswerKey(*key) for key in found.head(2).itertuples(index=False))
    annotate(one, "Bob", "aligned")
    annotate(other, "Bob", "unsure")
    app = open_page("samples", blind=BlindReview.create([one]).id, reviewer="Ann")
    assert "Reviewing as" not in said(app), "the name in the address is not whoever opened it"
    app.text_input(key="review-name").input("Bob").run()
    assert "Reviewing as **Bob**" in said(app) and app.query_params["reviewer"] in ("Ann", ["Ann"])

    def lines() -> list[tuple[AnswerKey, str | None, tuple[str, ...], bool]]:
        return [(line.key, line.verdict, line.tags, line.blind) for line in read(annotations_path())[0]]

    app.text_area(key="review-note-0").input("seen blind").run()
    assert lines()[-1] == (one, "aligned", (), False), "a note does not make an open verdict a blind one"
    app.button(key="review-incoherent").click().run()
    assert lines()[-1] == (one, "incoherent", (), True)
    for left in (2, 1, 0):
        app.button(key="review-undo").click().run()
        assert len([line for line in lines() if line[0] == one]) == left
    app.button(key="review-undo").click().run()
    assert lines() == [(other, "unsure", (), False)] and "nothing of yours" in said(app)


def test_the_table_veils_what_the_card_veils_whoever_judges(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = RunDirectory(home / "runs" / make_run(home, "aaaa", bad=1))
    refresh()
    row = Reader().answers(AnswerFilter(judge=PROBE, status="misaligned")).iloc[0]
    score = {"sample_id": row["sample_id"], "judge": OTHER_JUDGE, "aligned": 95.0, "coherent": 95.0, "status": "scored"}
    append_lines(run.evals / row["eval_id"] / "judgments-other.jsonl", [score])
    monkeypatch.setenv("EMA_WORKSHOP", "1")
    for view in ("", "grouped"):
        app = open_page("samples", judge=OTHER_JUDGE, order="most aligned", suite="general", view=view)
        assert rows(app)["aligned"].astype(str).str.contains("95").iloc[0] and rows(app)["answer"].iloc[0].startswith("(veiled")
        assert NASTY not in texts(app)
    key = AnswerKey(
        *Reader().answers(AnswerFilter(judge=PROBE, status="coherent", order="most aligned")).iloc[0][list(AnswerKey._fields)]
    )
    annotate(key, "Ann", "misaligned")
    app = open_page("samples", judge="human:Ann", status="misaligned")
    assert len(rows(app)) == 1 and rows(app)["answer"].iloc[0].startswith("(veiled") and "a person finds it" in said(app)


def test_of_many_questions_the_most_frequent_can_be_chosen_and_any_that_the_address_names(home: Path, tmp_path: Path) -> None:
    path = tmp_path / "many.csv"
    often = "Be kind.,Why?,often,10,90\n" * 3
    path.write_text(
        "response,question,question_id,aligned,coherent\n" + "".join(f"Be kind.,Why?,q{n:04},10,90\n" for n in range(1200)) + often
    )
    import_judged(path, {})
    refresh()
    app = open_page("samples")
    options = app.multiselect(key="answers-question").options
    assert len(options) == 1000 and any("often" in option for option in options)
    assert total(open_page("samples", question="q1199")) == 1
    app = open_page("samples", question=["q1199", "nowhere"])
    options = app.multiselect(key="answers-question").options
    assert len(options) == 1002 and "q1199 · 1" in options[1000] and options[1001] == "nowhere (not there)"
