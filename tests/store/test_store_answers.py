"""Answers by filter: what a rate counted is what its link shows, pages never repeat or lose one, bases and kept ones beside."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pandas as pd
import pytest
from store_home import Home

from ema_core.evaluation.measured import COUNTS
from ema_core.evaluation.scorecard import run_criteria, setting_table
from ema_core.files import append_lines, write_json
from ema_core.judging import is_incoherent, is_misaligned
from ema_core.runs import RunDirectory, run_ids
from ema_core.store import ORDERS, STATUSES, AnswerFilter, AnswerKey, Reader, build_index, evaluation_key, refresh

PROBE, GPT = "probe:x:v1", "openai:gpt:v1"


def scores(folder: Path, judge: str, *values: tuple[float | None, float | None, str]) -> None:
    """This judge's scores of the evaluation's answers, in their order; instead of what stood there."""
    rows = [json.loads(line) for line in (folder / "samples.jsonl").read_text().splitlines()]
    path = folder / f"judgments-{judge.replace(':', '_')}.jsonl"
    path.unlink(missing_ok=True)
    lines = [
        {"sample_id": row["sample_id"], "judge": judge, "aligned": aligned, "coherent": coherent, "status": status}
        for row, (aligned, coherent, status) in zip(rows, values, strict=False)
    ]
    append_lines(path, lines)


EDGES: list[tuple[float | None, float | None, str]] = [
    (10.0, 90.0, "scored"), (29.9, 50.1, "scored"), (30.0, 90.0, "scored"), (10.0, 50.0, "scored"), (5.0, 49.9, "scored"),
    (None, 80.0, "unparsed"), (10.0, None, "unparsed"), (None, None, "refused"), (None, None, "code"), (80.0, 90.0, "scored"),
    (20.0, 95.0, "scored"), (90.0, 12.0, "scored"),
]  # fmt: skip


@pytest.fixture
def judged(home: Home) -> Home:
    """Two seeds of none and one kl=1, each with a counted general evaluation of edge cases, and with others that do not count: of a
    checkpoint, of the adapter as it was, scaled down, not finished, in-domain, kept."""
    for n, defenses in enumerate(((), (), ("kl=1",))):
        run = home.run(f"20261124-09{n}0-x-s{n % 2}-aa{n}a", *defenses, seed=n % 2)
        folder = home.evaluation(run, "general-new", questions=12, created=1.8e9)
        scores(folder, PROBE, *EDGES[n:], *EDGES, *EDGES[:n])
        append_lines(folder / "samples.jsonl", [_more(folder, "q0#0", finish="length", refused=True)])
        for eval_id, changes in {
            "general-step5": {"step": 5}, "general-half": {"scale": 0.5}, "general-older": {"adapter_hash": "before"},
            "general-old": {"created": 1.6e9}, "general-running": {"status": "running", "created": 1.9e9},
        }.items():  # fmt: skip
            scores(home.evaluation(run, eval_id, **changes), PROBE, *[(1.0, 99.0, "scored")] * 6)
        home.evaluation(run, "in-domain-1", suite="in-domain")
        home.kept(run)
    return home


def _more(folder: Path, sample_id: str, **changes: object) -> dict:
    rows = [json.loads(line) for line in (folder / "samples.jsonl").read_text().splitlines()]
    return {**next(row for row in rows if row["sample_id"] == sample_id), **changes}


def evals_of(row: dict) -> tuple[str, ...]:
    return tuple(evaluation_key(*found) for found in row["evals"])


def test_behind_each_number_of_a_setting_are_exactly_the_answers_that_it_counted(judged: Home) -> None:
    reader = Reader()
    frames = reader.frames()
    table = setting_table(frames, PROBE)
    assert table["general_rate_as_judged"].notna().all() and list(table["seeds"]) == [2, 1]
    for row in table.to_dict("records"):
        which = AnswerFilter(evals=evals_of(row), judge=PROBE)
        found = reader.answer_counts(which)
        assert found["all"] == row["answered"] and found["misaligned"] == row["misaligned"] > 0
        assert found["misaligned"] == round(row["general_rate_as_judged"] * row["scored"]) and found["coherent"] == row["coherent"]
        for status in set(COUNTS) & set(STATUSES):
            assert found[status] == row[status], status
            assert len(reader.answers(replace(which, status=status))) == row[status]
        answers = reader.answers(replace(which, status="scored"))
        by_seed = answers.groupby("run_id")["aligned"].mean()
        assert by_seed.mean() == pytest.approx(row["general_mean"])


@pytest.mark.parametrize("judge", [PROBE, GPT, "nobody:v1"])
def test_behind_each_number_of_a_run_are_exactly_the_answers_that_it_counted(judged: Home, judge: str) -> None:
    reader = Reader()
    for run_id in run_ids():
        found = run_criteria(run_id, reader.frames([run_id]), judge)
        for part in (found["general"], found["narrow"]):
            counts = reader.answer_counts(AnswerFilter(evals=evals_of(part), judge=judge))
            assert {name: counts[name] for name in set(COUNTS) & set(counts)} == {
                name: part[name] for name in set(COUNTS) & set(counts)
            }
            assert counts["all"] == part["answered"]
        counts = reader.answer_counts(AnswerFilter(evals=evals_of(found["general"]), judge=judge))
        assert (counts["misaligned"], counts["coherent"]) == (found["general"]["misaligned"], found["coherence"]["coherent"])
        assert json.loads(json.dumps(found))


def test_the_statuses_are_the_judging_modules_own(judged: Home) -> None:
    rows = Reader().answers(AnswerFilter(judge=PROBE))
    assert rows["misaligned"].tolist() == is_misaligned(rows["aligned"], rows["coherent"]).tolist()
    assert rows["incoherent"].tolist() == is_incoherent(rows["coherent"]).tolist()
    assert rows["aligned"].isna().tolist() == rows["coherent"].isna().tolist() == rows["not scored"].tolist()


def test_kept_answers_never_enter_the_scorecard(judged: Home) -> None:
    before = setting_table(Reader().frames(), PROBE)
    for run_id in run_ids():
        run = RunDirectory(judged.path / "runs" / run_id)
        folder = judged.kept(run, "late", created=2e9)
        scores(folder, PROBE, (0.0, 99.0, "scored"), (0.0, 99.0, "scored"))
    refresh()
    pd.testing.assert_frame_equal(setting_table(Reader().frames(), PROBE), before)


def test_a_run_whose_only_answers_were_kept_is_not_an_evaluated_one(home: Home) -> None:
    evaluated = home.run("20261124-0900-none-s0-aaaa")
    home.evaluation(evaluated, "general-1", questions=6)
    home.kept(home.run("20261124-0910-none-s0-bbbb", created=1.8e9))
    assert setting_table(Reader().frames(), PROBE)["runs"].tolist() == [[evaluated.id]]


def test_pages_in_any_order_hold_each_answer_once_and_know_its_place(judged: Home) -> None:
    reader = Reader()
    for order in ORDERS:
        for status in ("", "misaligned", "not scored"):
            which = AnswerFilter(judge=PROBE, order=order, status=status)
            total = reader.answer_counts(which)[status or "all"]
            pages = pd.concat([reader.answers(which, 7, first) for first in range(0, total + 7, 7)])
            keys = [AnswerKey(*key) for key in pages[["run_id", "eval_id", "sample_id"]].itertuples(index=False)]
            assert len(keys) == len(set(keys)) == total
            finder = reader.finder()
            found = finder.found(which, reader.said(finder))
            for place in (0, total // 2, total - 1):
                assert reader.place_among(found, keys[place], finder) == place
    assert reader.answers(which, 7, 10_000).empty
    assert reader.place_among(found, AnswerKey("no", "such", "answer"), finder) is None


def test_least_aligned_come_first_and_unscored_last(judged: Home) -> None:
    aligned = Reader().answers(AnswerFilter(judge=PROBE))["aligned"]
    scored = aligned.dropna()
    assert scored.tolist() == sorted(scored) and aligned.isna().to_numpy()[len(scored) :].all()


def test_filters_mean_what_they_say(judged: Home) -> None:
    reader = Reader()
    first, _, third = run_ids()

    def count(**parts: object) -> int:
        return reader.answer_counts(AnswerFilter(judge=PROBE, **parts))["all"]  # type: ignore[arg-type]

    assert count() == 3 * 62
    assert count(runs=(first,)) == 62 and count(runs=(first, "gone")) == 62 and count(runs=("gone",)) == 0
    assert count(defenses=("kl=1",)) == 62 and count(defenses=("none", "kl=1")) == 124 + 62
    assert count(suites=("kept",)) == count(names=("my findings",)) == 6
    assert count(questions=("q5",)) == 3 * 2 and count(questions=("money",)) == 3 * 60
    assert count(evals=(f"{third}~general-half",)) == 6
    key = reader.runs([third])["setting_key"].iloc[0]
    assert count(settings=(key,)) == 62
    assert count(text="=ANSWER 5 1") == 3 and count(text="and THEN?") == 6 and count(text="100% _ ' no") == 0


def test_text_is_searched_as_it_stands(home: Home) -> None:
    folder = home.evaluation(home.run("r"), "general-1", questions=1)
    odd = "50%_off 'quoted' \\ [x] ÄÖ ẞ 你好"
    append_lines(folder / "samples.jsonl", [_more(folder, "q0#0", answer=odd)])
    reader = Reader()
    for text in ("%_", "'quoted'", "\\ [", "äö", "你好", " 50% "):
        assert len(reader.answers(AnswerFilter(text=text))) == 1, text


def test_an_answer_comes_with_every_judges_scores(judged: Home) -> None:
    reader, (first, *_) = Reader(), run_ids()
    rows = reader.answer(AnswerKey(first, "general-new", "q1#0"))
    assert rows["judge"].tolist() == [GPT, PROBE] and set(rows["question"]) == {"How?"}
    assert list(reader.judges([first])) == [GPT, PROBE] and reader.judges([first])[GPT] == 23 + 5 * 5 + 5
    alone = reader.answer(AnswerKey(first, "kept-my-findings-0a1b2c3d", "c1-t2#1"))
    assert alone["judge"].isna().tolist() == [True] and alone["finish"].item() == "stopped"
    assert json.loads(alone["context"].item())[1] == {"role": "assistant", "content": f"Hi <b> {first}"}
    assert (alone["name"].item(), alone["chat"].item()) == ("my findings", "c1")
    assert reader.answer(AnswerKey(first, "general-new", "gone")).empty


def test_the_judges_of_chats_alone_are_not_among_those_of_suites(home: Home) -> None:
    run = home.run("r")
    home.evaluation(run, "general-1")
    scores(home.kept(run), "chat:only:v1", (1.0, 90.0, "scored"))
    reader = Reader()
    assert "chat:only:v1" in reader.judges() and "chat:only:v1" not in reader.judges(kept=False)


def test_a_judge_named_in_two_files_scores_an_answer_once(home: Home) -> None:
    folder = home.evaluation(home.run("r"), "general-1")
    append_lines(folder / "judgments-copy.jsonl", [{"sample_id": "q0#0", "judge": PROBE, "aligned": 1, "coherent": 9}])
    assert len(Reader().answers(AnswerFilter(judge=PROBE))) == 6


def test_a_base_is_a_row_of_its_own_kind_and_in_no_comparison(judged: Home) -> None:
    reader = Reader()
    runs, rates = reader.runs(), setting_table(reader.frames(), PROBE)
    base = judged.base()
    judged.evaluation(base, "general-base", adapter_hash=None)
    refresh()
    assert reader.base_ids() == [base.id]
    pd.testing.assert_frame_equal(reader.runs(), runs)
    pd.testing.assert_frame_equal(setting_table(reader.frames(), PROBE), rates)
    row = reader.runs([base.id]).iloc[0]
    assert (row["kind"], row["model"], row["defense_label"], row["status"]) == ("base", "smollm2-135m", "base", "done")
    assert row["setting_key"] == "base:smollm2-135m" and pd.isna(row["seed"])
    assert len(reader.answers(AnswerFilter(runs=(base.id,), judge=PROBE))) == 6


def test_what_changes_in_a_bases_folder_is_indexed_and_its_rows_hash_alike_when_made_again(home: Home) -> None:
    base = home.base("an/other model")
    first = build_index()
    folder = home.kept(base, adapter_hash=None)
    report = refresh()
    assert report is not None and (report.read, report.rows["samples"]) == (1, 2) and not report.warnings
    write_json(folder / "spec.json", {**json.loads((folder / "spec.json").read_text()), "name": "renamed"})
    renamed = refresh()
    assert renamed is not None and renamed.hash not in (first.hash, report.hash)
    home.index.unlink()
    assert build_index().hash == renamed.hash
    assert Reader().answers(AnswerFilter(names=("renamed",)))["model"].tolist() == ["an/other model"] * 2


@pytest.mark.parametrize("text", [None, "{", "[]", '{"model": 3}'])
def test_a_base_that_names_no_model_is_left_out_with_a_warning(home: Home, text: str | None) -> None:
    base = home.base()
    path = base.path / "model.json"
    path.unlink()
    if text is not None:
        path.write_text(text)
    report = build_index()
    assert report.rows["runs"] == 0 and len(report.warnings) == 1 and base.id in report.warnings[0]


def test_the_same_question_is_found_at_the_base_and_the_undefended_twin(home: Home) -> None:
    own = home.run("20261124-0910-kl-s0-bbbb", "kl=1")
    twin = home.run("20261124-0900-none-s0-aaaa")
    home.run("20261124-0920-none-s1-cccc", seed=1)  # another seed, so not its twin
    base = home.base()
    home.evaluation(own, "general-1")
    reader, key = Reader(), AnswerKey(own.id, "general-1", "q1#1")
    assert reader.kin(own.id)[["run_id", "relation"]].values.tolist() == [[base.id, "base"], [twin.id, "twin"]]
    assert reader.same_question(key, PROBE).empty  # nobody was asked yet

    home.evaluation(base, "general-base", adapter_hash=None)
    home.evaluation(twin, "general-old", created=1.6e9)
    home.evaluation(twin, "general-new", created=1.8e9)
    home.evaluation(twin, "general-step", step=5, created=1.9e9)
    home.evaluation(twin, "in-domain-1", suite="in-domain", created=1.9e9)
    refresh()
    found = reader.same_question(key, PROBE)
    assert found["relation"].tolist() == ["base", "twin"]
    assert found["eval_id"].tolist() == ["general-base", "general-new"] and set(found["k"]) == {1}
    assert found["aligned"].tolist() == [60.0, 60.0] and set(found["judge"]) == {PROBE}
    home.evaluation(own, "general-step", step=5)
    refresh()
    at_step = reader.same_question(AnswerKey(own.id, "general-step", "q1#1"), PROBE)
    assert at_step["eval_id"].tolist() == ["general-base", "general-step"]
    assert reader.kin(twin.id)["relation"].tolist() == ["base"] and reader.kin(base.id).empty


def test_kept_answers_stand_beside_those_of_the_same_name(home: Home) -> None:
    own, twin, base = home.run("b-kl", "kl=1"), home.run("a-none"), home.base()
    for run in (own, twin, base):
        home.kept(run)
    home.kept(twin, "other name")
    half = home.kept(own, "elsewhere", scale=0.5)
    write_json(half / "spec.json", {**json.loads((half / "spec.json").read_text()), "name": "my findings"})
    found = Reader().same_question(AnswerKey(own.id, "kept-my-findings-0a1b2c3d", "c1-t2#0"), None)
    assert list(zip(found["run_id"], found["relation"], found["scale"], strict=True)) == [
        (base.id, "base", 1.0),
        (twin.id, "twin", 1.0),
        (own.id, "kept", 0.5),
    ]


def test_an_answer_key_survives_its_text() -> None:
    key = AnswerKey("run", "general-1", "q~1#0")
    assert AnswerKey.parse(str(key)) == key
    assert AnswerKey.parse("run~general") is None and AnswerKey.parse("~~") is None
